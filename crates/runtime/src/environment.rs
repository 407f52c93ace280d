//! What has to be known of the machine itself: its processor, for cache keys, and what must be in
//! the environment before a plugin is loaded. Reads; changes nothing.

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
        }
        PluginKind::Tpu => {}
        PluginKind::Cuda => {
            let flags = set("XLA_FLAGS").unwrap_or_default();
            if let Some(folder) = &location.cuda_folder
                && !flags.contains("--xla_gpu_cuda_data_dir")
            {
                let flag = format!("--xla_gpu_cuda_data_dir={}", folder.display());
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

/// The variables of this process that change what a compiler produces: part of the cache key.
pub fn relevant_environment(kind: PluginKind) -> Vec<Variable> {
    let names: &[&str] = match kind {
        PluginKind::Cpu | PluginKind::Cuda => &["XLA_FLAGS"],
        PluginKind::Tpu => &["XLA_FLAGS", "LIBTPU_INIT_ARGS"],
    };
    let value = |name: &&str| std::env::var(name).ok().map(|value| variable(name, value));
    names.iter().filter_map(value).collect()
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
