//! Where a plugin comes from, in this order: an environment variable, the cache folder, the
//! user's own Python. Finds files only; loads nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::folders::CacheFolder;
use crate::install::Installer;
use crate::registry;

/// A Python that takes longer to look at its own modules is not worth waiting for.
const PYTHON_TIMEOUT: Duration = Duration::from_secs(10);

/// The families of plugins that this program knows how to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginKind {
    Cpu,
    Tpu,
    Cuda,
}

impl PluginKind {
    pub const ALL: [PluginKind; 3] = [PluginKind::Cpu, PluginKind::Tpu, PluginKind::Cuda];

    pub fn name(self) -> &'static str {
        match self {
            PluginKind::Cpu => "cpu",
            PluginKind::Tpu => "tpu",
            PluginKind::Cuda => "cuda",
        }
    }

    /// The variable that points at a plugin on disk.
    pub fn environment_variable(self) -> &'static str {
        match self {
            PluginKind::Cpu => "FUNGIBLE_CPU_PLUGIN",
            PluginKind::Tpu => "FUNGIBLE_TPU_PLUGIN",
            PluginKind::Cuda => "FUNGIBLE_CUDA_PLUGIN",
        }
    }

    /// The package of the registry that provides it.
    pub fn package(self) -> &'static str {
        match self {
            PluginKind::Cpu => "cpu",
            PluginKind::Tpu => "tpu",
            PluginKind::Cuda => "cuda13",
        }
    }

    /// What [`PYTHON_SCRIPT`] may call it, best first.
    fn python_names(self) -> &'static [&'static str] {
        match self {
            PluginKind::Cpu => &[],
            PluginKind::Tpu => &["tpu"],
            PluginKind::Cuda => &["cuda13", "cuda12"],
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a plugin was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// A flag or the kind's environment variable names it.
    Given,
    /// This program installed it.
    Installed,
    /// It is part of the user's Python.
    Python,
}

impl fmt::Display for PluginSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PluginSource::Given => "given",
            PluginSource::Installed => "installed",
            PluginSource::Python => "python",
        })
    }
}

/// A plugin on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLocation {
    pub kind: PluginKind,
    pub path: PathBuf,
    pub source: PluginSource,
    /// Of the package, where it is known.
    pub version: Option<String>,
    /// Where ptxas and libdevice are. XLA reads it from `XLA_FLAGS` while the library is loaded,
    /// so it has to be in the environment before (see `environment`). The plugin's other CUDA
    /// libraries are found through its own rpath, beside it in Python's package folder.
    pub cuda_folder: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error(
        "no {kind} plugin was found; run `fungible plugin install {package}`, or point {variable} at one"
    )]
    NotFound { kind: PluginKind, package: &'static str, variable: &'static str },
    #[error(
        "the {kind} plugin was said to be {path}, which is not a file; correct the flag or {variable}"
    )]
    NoSuchFile { kind: PluginKind, variable: &'static str, path: PathBuf },
}

/// Looks for plugins; asks Python at most once.
#[derive(Debug)]
pub struct Discovery {
    cache: CacheFolder,
    given: BTreeMap<PluginKind, PathBuf>,
    /// The Python to ask; nothing: the first one on the path.
    interpreter: Option<PathBuf>,
    python: OnceLock<PythonPlugins>,
}

impl Discovery {
    /// Takes the kinds' environment variables and `FUNGIBLE_PYTHON` into account.
    pub fn new(cache: CacheFolder) -> Discovery {
        let given = PluginKind::ALL.into_iter().filter_map(|kind| {
            let path = std::env::var_os(kind.environment_variable())?;
            (!path.is_empty()).then(|| (kind, PathBuf::from(path)))
        });
        let interpreter = std::env::var_os("FUNGIBLE_PYTHON").filter(|value| !value.is_empty());
        Discovery {
            cache,
            given: given.collect(),
            interpreter: interpreter.map(PathBuf::from),
            python: OnceLock::new(),
        }
    }

    /// Asks this Python and no other.
    #[must_use]
    pub fn with_python(mut self, interpreter: impl Into<PathBuf>) -> Discovery {
        self.interpreter = Some(interpreter.into());
        self
    }

    /// Uses this library for the kind, whatever the environment says.
    #[must_use]
    pub fn with_plugin(mut self, kind: PluginKind, path: impl Into<PathBuf>) -> Discovery {
        self.given.insert(kind, path.into());
        self
    }

    pub fn cache(&self) -> &CacheFolder {
        &self.cache
    }

    /// The plugin of this kind.
    ///
    /// # Errors
    /// When there is none, or the one that was asked for is not a file.
    pub fn find(&self, kind: PluginKind) -> Result<PluginLocation, DiscoverError> {
        let variable = kind.environment_variable();
        if let Some(path) = self.given.get(&kind) {
            if !path.is_file() {
                return Err(DiscoverError::NoSuchFile { kind, variable, path: path.clone() });
            }
            return Ok(PluginLocation {
                kind,
                cuda_folder: (kind == PluginKind::Cuda)
                    .then(|| cuda_folder_of(path, &[]))
                    .flatten(),
                path: path.clone(),
                source: PluginSource::Given,
                version: None,
            });
        }
        self.installed(kind).or_else(|| self.in_python(kind)).ok_or(DiscoverError::NotFound {
            kind,
            package: kind.package(),
            variable,
        })
    }

    fn installed(&self, kind: PluginKind) -> Option<PluginLocation> {
        let package = registry::find(kind.package())?;
        let installed = Installer::new(self.cache.clone()).installed(package)?;
        Some(PluginLocation {
            kind,
            path: installed.main_file,
            source: PluginSource::Installed,
            version: Some(package.version.clone()),
            cuda_folder: installed.cuda_folder,
        })
    }

    fn in_python(&self, kind: PluginKind) -> Option<PluginLocation> {
        let names = kind.python_names();
        if names.is_empty() {
            return None;
        }
        let python =
            self.python.get_or_init(|| ask_python(self.interpreter.as_deref()).unwrap_or_default());
        let found = names
            .iter()
            .find_map(|name| python.plugins.iter().find(|plugin| plugin.name == *name))?;
        Some(PluginLocation {
            kind,
            path: found.path.clone(),
            source: PluginSource::Python,
            version: found.version.clone(),
            cuda_folder: (kind == PluginKind::Cuda)
                .then(|| cuda_folder_of(&found.path, &python.nvidia))
                .flatten(),
        })
    }
}

/// Looks for ptxas where NVIDIA's wheels put it in the package folder that the plugin is in, then
/// in a system-wide toolkit.
fn cuda_folder_of(plugin: &Path, nvidia: &[PathBuf]) -> Option<PathBuf> {
    let beside = plugin.ancestors().nth(3).map(|packages| packages.join("nvidia"));
    let wheels = beside
        .into_iter()
        .chain(nvidia.iter().cloned())
        .flat_map(|folder| ["cu13", "cu12", "cuda_nvcc"].map(|name| folder.join(name)));
    let system = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let system = system.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]);
    wheels.chain(system).find(|folder| folder.join("bin").join("ptxas").is_file())
}

#[derive(Debug, Default, Deserialize)]
struct PythonPlugins {
    plugins: Vec<PythonPlugin>,
    nvidia: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct PythonPlugin {
    name: String,
    path: PathBuf,
    version: Option<String>,
}

const PYTHON_SCRIPT: &str = include_str!("discover.py");

/// Nothing when there is no Python, or it fails, or it takes too long: then it has no plugin.
fn ask_python(interpreter: Option<&Path>) -> Option<PythonPlugins> {
    let candidates = match interpreter {
        Some(interpreter) => vec![interpreter],
        None => vec![Path::new("python3"), Path::new("python")],
    };
    let spawn = |python: &&Path| {
        let mut command = Command::new(python);
        command.arg("-c").arg(PYTHON_SCRIPT).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
    };
    let mut child = candidates.iter().find_map(spawn)?;
    let mut stdout = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stdout.read_to_end(&mut said).ok().map(|_| said)
    });
    let deadline = Instant::now() + PYTHON_TIMEOUT;
    while !reader.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Ended or not: it owes us nothing more.
    let _ = child.kill();
    let _ = child.wait();
    serde_json::from_slice(&reader.join().ok().flatten()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_path_is_an_error_and_not_a_reason_to_look_elsewhere() {
        let discovery = Discovery::new(CacheFolder::at("/nowhere"))
            .with_plugin(PluginKind::Cpu, "/nowhere/plugin.so");
        let message = discovery.find(PluginKind::Cpu).unwrap_err().to_string();
        assert!(message.contains("/nowhere/plugin.so"), "{message}");
    }

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        let mut discovery = Discovery::new(CacheFolder::at("/nowhere"));
        discovery.given.clear();
        let message = discovery.find(PluginKind::Cpu).unwrap_err().to_string();
        assert!(message.contains("fungible plugin install cpu"), "{message}");
        assert!(message.contains("FUNGIBLE_CPU_PLUGIN"), "{message}");
    }

    /// A Python whose package folder holds a CUDA plugin and NVIDIA's tools beside it.
    #[cfg(unix)]
    #[test]
    fn plugins_of_the_users_python_are_found() {
        use std::fs;
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;
        if Command::new("python3").arg("--version").output().is_err() {
            // Not `eprintln!`, which the test harness keeps to itself.
            let skipped = "SKIPPED plugins_of_the_users_python_are_found: there is no python3";
            let _ = writeln!(std::io::stderr(), "{skipped}");
            return;
        }
        let root = std::env::temp_dir().join(format!("fungible-discover-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (folder, file) in [
            ("packages/jax_plugins/xla_cuda13", "xla_cuda_plugin.so"),
            ("packages/jax_plugins/xla_cuda13", "__init__.py"),
            ("packages/jax_cuda13_pjrt-1.2.dist-info", "METADATA"),
            ("packages/nvidia/cu13/bin", "ptxas"),
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
            let text = "Metadata-Version: 2.1\nName: jax-cuda13-pjrt\nVersion: 1.2\n";
            fs::write(root.join(folder).join(file), if file == "METADATA" { text } else { "" })
                .unwrap();
        }
        let python = root.join("python");
        let packages = root.join("packages");
        let script =
            format!("#!/bin/sh\nPYTHONPATH='{}' exec python3 \"$@\"\n", packages.display());
        fs::write(&python, script).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();

        let mut discovery = Discovery::new(CacheFolder::at("/nowhere")).with_python(&python);
        discovery.given.clear();
        let found = discovery.find(PluginKind::Cuda).unwrap();
        assert_eq!(found.path, packages.join("jax_plugins/xla_cuda13/xla_cuda_plugin.so"));
        assert_eq!(found.source, PluginSource::Python);
        assert_eq!(found.version.as_deref(), Some("1.2"));
        assert_eq!(found.cuda_folder, Some(packages.join("nvidia/cu13")));
        fs::remove_dir_all(root).unwrap();
    }
}
