//! What has to be known of the machine itself: its processor and what compilers read from the
//! environment, for cache keys, and what must be in the environment before a plugin is loaded. Reads;
//! changes nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::discover::{PluginKind, PluginLocation};

/// The processor's model and the instruction sets that it offers: code compiled for another one
/// may not run here.
pub fn processor_features() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let wanted = |line: &&str| {
        ["model name", "flags", "Features", "CPU part"].iter().any(|key| line.starts_with(key))
    };
    let lines: Vec<&str> = first.lines().filter(wanted).collect();
    format!("{} {}", std::env::consts::ARCH, lines.join("; "))
}

/// How many threads XLA will share a CPU program's work out over, as far as it can be told from
/// here: the number is compiled into the program. `added` is what the compiler's process has in its
/// environment on top of this one's.
pub fn processor_threads(added: &[Variable]) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // XLA counts these; the standard library also looks at the share of time that a container has.
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"));
    let allowed: u32 = allowed
        .map(|mask| mask.chars().filter_map(|digit| digit.to_digit(16)).map(u32::count_ones).sum())
        .unwrap_or_default();
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = effective("NPROC", added).unwrap_or_default();
    format!("{allowed} {available} {wanted}")
}

/// What the C library reads when a process starts, on Linux with glibc; elsewhere nothing reads it.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Has large allocations ask the kernel for huge pages. XLA's CPU client takes a program's temporaries
/// anew for every run, so the pages of gigabytes are faulted in and cleared at every training step: with
/// pages of 4 KiB a tenth of the time.
const HUGE_PAGES_NAME: &str = "glibc.malloc.hugetlb";

/// A variable that a plugin reads.
pub type Variable = (String, String);

fn variable(name: &str, value: impl Into<String>) -> Variable {
    (name.to_string(), value.into())
}

/// What has to be in the environment before the plugin's library is loaded, beyond what is there.
///
/// `devices`: how many CPU devices the client will have.
pub fn required_environment(location: &PluginLocation, devices: usize) -> Vec<Variable> {
    let set = |name: &str| std::env::var(name).ok();
    let mut variables = Vec::new();
    // The vendors' libraries log to standard error from their first moment on; errors come back
    // through the API anyway.
    if set("TF_CPP_MIN_LOG_LEVEL").is_none() {
        variables.push(variable("TF_CPP_MIN_LOG_LEVEL", "3"));
    }
    match location.kind {
        PluginKind::Cpu => {
            // XLA sizes its thread pool by this; with fewer threads than devices, devices that wait
            // for each other in a collective can hold every thread and never finish.
            let wanted = devices * 2;
            let have = set("NPROC").and_then(|value| value.parse().ok());
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if devices > 1 && have.unwrap_or(cores) < wanted {
                variables.push(variable("NPROC", wanted.to_string()));
            }
            let tunables = set(TUNABLES).unwrap_or_default();
            if !tunables.contains(HUGE_PAGES_NAME) {
                let all = format!("{tunables}:{HUGE_PAGES_NAME}=1");
                variables.push(variable(TUNABLES, all.trim_start_matches(':')));
            }
        }
        PluginKind::Tpu => {}
        PluginKind::Cuda => {
            let flags = set("XLA_FLAGS").unwrap_or_default();
            if let Some(folder) = &location.cuda_folder
                && !flags.contains("--xla_gpu_cuda_data_dir")
            {
                let flag = format!("{CUDA_FOLDER_FLAG}{}", folder.display());
                variables.push(variable("XLA_FLAGS", format!("{flags} {flag}").trim()));
            }
        }
    }
    variables
}

/// What a compile worker needs on top, since it compiles for devices that are not there.
pub fn compile_only_environment(location: &PluginLocation) -> Vec<Variable> {
    match location.kind {
        PluginKind::Tpu => vec![
            // Otherwise libtpu asks the cloud's metadata server about this machine and waits.
            variable("TPU_SKIP_MDS_QUERY", "1"),
            // Otherwise the second process that loads libtpu aborts on its lock file.
            variable("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ],
        PluginKind::Cpu | PluginKind::Cuda => Vec::new(),
    }
}

/// Tells XLA where its CUDA tools are.
const CUDA_FOLDER_FLAG: &str = "--xla_gpu_cuda_data_dir=";

fn relevant_names(kind: PluginKind) -> &'static [&'static str] {
    match kind {
        PluginKind::Cpu | PluginKind::Cuda => &["XLA_FLAGS"],
        PluginKind::Tpu => &["XLA_FLAGS", "LIBTPU_INIT_ARGS", "TPU_SKIP_MDS_QUERY"],
    }
}

/// The variable's value in a process with `added` on top of this one's environment.
fn effective(name: &str, added: &[Variable]) -> Option<String> {
    let added = added.iter().rev().find(|(of, _)| of == name).map(|(_, value)| value.clone());
    added.or_else(|| std::env::var(name).ok())
}

/// The variables of this process that change what a compiler produces.
pub fn relevant_environment(kind: PluginKind) -> Vec<Variable> {
    effective_environment(kind, &[])
}

/// The variables that change what a compiler produces, as it sees them in a process with `added` on
/// top of this one's environment: part of the cache key. Where the CUDA tools lie is left out, since
/// what matters is what they are ([`cuda_tools`]).
pub fn effective_environment(kind: PluginKind, added: &[Variable]) -> Vec<Variable> {
    let value = |name: &&str| {
        let value = effective(name, added)?;
        let words = value.split_whitespace().filter(|word| !word.starts_with(CUDA_FOLDER_FLAG));
        Some(variable(name, words.collect::<Vec<_>>().join(" ")))
    };
    let set = relevant_names(kind).iter().filter_map(value);
    set.filter(|(_, value)| !value.is_empty()).collect()
}

/// The files that XLA's CUDA compiler takes parts of its result from or runs, where it is known in
/// which folder it looks for them: their names and paths, as far as they are there.
pub fn cuda_tools(location: &PluginLocation, added: &[Variable]) -> Vec<(&'static str, PathBuf)> {
    const TOOLS: [&str; 3] = ["bin/ptxas", "bin/nvlink", "nvvm/libdevice/libdevice.10.bc"];
    if location.kind != PluginKind::Cuda {
        return Vec::new();
    }
    let flags = effective("XLA_FLAGS", added).unwrap_or_default();
    let mut words = flags.split_whitespace().rev();
    let named = words.find_map(|word| word.strip_prefix(CUDA_FOLDER_FLAG)).map(PathBuf::from);
    let Some(folder) = named.or_else(|| location.cuda_folder.clone()) else { return Vec::new() };
    let tools = TOOLS.into_iter().map(|name| (name, folder.join(name)));
    tools.filter(|(_, path)| path.is_file()).collect()
}

/// Says what a process was started again with, so that it is not done twice for the same.
const RESTARTED: &str = "FUNGIBLE_RESTARTED";

/// The command that starts this very program again with `variables` in its environment, or nothing
/// if they are there or it was started again for the same before. A plugin reads its environment when it is
/// loaded, and a process cannot safely change its own: on Unix, `exec` this command
/// (`std::os::unix::process::CommandExt`) first thing in `main`; elsewhere run it and pass its
/// exit code on.
pub fn restart_with(variables: &[Variable]) -> Option<Command> {
    let missing = |(name, value): &&Variable| std::env::var(name).as_ref() != Ok(value);
    let missing: Vec<&Variable> = variables.iter().filter(missing).collect();
    let restarted = format!("{missing:?}");
    if missing.is_empty() || std::env::var(RESTARTED).as_ref() == Ok(&restarted) {
        return None;
    }
    let program: PathBuf = std::env::current_exe().ok()?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program);
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
    }
    #[cfg(not(unix))]
    arguments.next();
    command.args(arguments.collect::<Vec<OsString>>());
    command.env(RESTARTED, restarted);
    command.envs(missing.into_iter().map(|(name, value)| (name, value)));
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::PluginSource;
    use crate::folders::unique_name;

    fn location(kind: PluginKind) -> PluginLocation {
        PluginLocation {
            kind,
            path: "plugin.so".into(),
            source: PluginSource::Given,
            version: None,
            cuda_folder: (kind == PluginKind::Cuda).then(|| "/cuda".into()),
        }
    }

    fn value(variables: &[Variable], name: &str) -> Option<String> {
        variables.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn huge_pages_are_asked_for_once_and_beside_other_tunables() {
        let wanted = value(&required_environment(&location(PluginKind::Cpu), 1), TUNABLES);
        match std::env::var(TUNABLES) {
            Ok(own) if own.contains(HUGE_PAGES_NAME) => assert_eq!(wanted, None),
            Ok(own) => assert_eq!(wanted, Some(format!("{own}:{HUGE_PAGES_NAME}=1"))),
            Err(_) => assert_eq!(wanted, Some(format!("{HUGE_PAGES_NAME}=1"))),
        }
        assert_eq!(value(&required_environment(&location(PluginKind::Tpu), 1), TUNABLES), None);
    }

    #[test]
    fn more_cpu_devices_than_cores_need_more_threads() {
        let cpu = location(PluginKind::Cpu);
        assert_eq!(value(&required_environment(&cpu, 1), "NPROC"), None);
        let many = 1 << 20;
        let threads = value(&required_environment(&cpu, many), "NPROC").unwrap();
        assert_eq!(threads, (many * 2).to_string());
    }

    #[test]
    fn cuda_is_told_where_its_tools_are() {
        let variables = required_environment(&location(PluginKind::Cuda), 1);
        let flags = value(&variables, "XLA_FLAGS").unwrap();
        assert!(flags.ends_with("--xla_gpu_cuda_data_dir=/cuda"), "{flags}");
    }

    #[test]
    fn the_key_has_what_the_compilers_process_sees() {
        let flags = |text: &str| vec![variable("XLA_FLAGS", text)];
        let key = |text: &str| effective_environment(PluginKind::Cuda, &flags(text));
        assert_ne!(key("--xla_gpu_autotune_level=0"), key("--xla_gpu_autotune_level=4"));
        // Where the tools lie says nothing about the result.
        let (here, there) =
            (format!("{CUDA_FOLDER_FLAG}/here"), format!("{CUDA_FOLDER_FLAG}/there"));
        assert_eq!(key(&format!("--xla_a=1 {here}")), key(&format!("--xla_a=1 {there}")));
        assert_eq!(key(&format!("--xla_a=1 {here}")), key("--xla_a=1"));
        assert_eq!(key(&here), key(""));
        let nproc = |count: &str| processor_threads(&[variable("NPROC", count)]);
        assert_ne!(nproc("2"), nproc("16"));
        let worker = compile_only_environment(&location(PluginKind::Tpu));
        let seen = effective_environment(PluginKind::Tpu, &worker);
        assert_eq!(value(&seen, "TPU_SKIP_MDS_QUERY").unwrap(), "1");
    }

    #[test]
    fn cuda_tools_are_those_that_the_flags_name() {
        let root = std::env::temp_dir().join(format!("fungible-tools-{}", unique_name()));
        for folder in ["given/bin", "known/bin", "known/nvvm/libdevice"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["given/bin/ptxas", "known/bin/ptxas", "known/nvvm/libdevice/libdevice.10.bc"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        let mut cuda = location(PluginKind::Cuda);
        cuda.cuda_folder = Some(root.join("known"));
        let flags = |text: String| [variable("XLA_FLAGS", text)];
        let known = cuda_tools(&cuda, &flags("--xla_a=1".to_string()));
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["bin/ptxas", "nvvm/libdevice/libdevice.10.bc"]);
        let given = format!("{CUDA_FOLDER_FLAG}{}", root.join("given").display());
        let given = cuda_tools(&cuda, &flags(given));
        assert_eq!(given, [("bin/ptxas", root.join("given/bin/ptxas"))]);
        assert!(cuda_tools(&location(PluginKind::Cpu), &flags(String::new())).is_empty());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn nothing_is_restarted_for_what_is_there() {
        let path = std::env::var("PATH").unwrap_or_default();
        if !path.is_empty() {
            assert!(restart_with(&[variable("PATH", path)]).is_none());
        }
        let command = restart_with(&[variable("FUNGIBLE_NOT_SET", "1")]).unwrap();
        let set: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        assert!(set.contains(&"FUNGIBLE_NOT_SET".into()), "{set:?}");
    }
}
