//! Devices and engines for tests: one runtime for each test binary. Compiled programs are kept in
//! the build folder, so that a second run of the tests is fast and the user's cache stays as it is.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use llm::ModelFiles;
use llm::engine::Engine;
use llm::programs::ProgramOptions;
use runtime::{CacheFolder, Discovery, PluginKind, PluginLocation, Runtime, RuntimeOptions};

use super::shared;

/// The largest deviation of a log-probability that rounding explains, absolute (natural logarithm).
pub const TOLERANCE: f64 = 1e-4;

/// One CPU device, or `None` after saying that `test` is skipped.
pub fn runtime(test: &str) -> Option<Runtime> {
    static RUNTIME: OnceLock<Mutex<Option<Runtime>>> = OnceLock::new();
    let location = shared::cpu_plugin(test)?;
    let slot = RUNTIME.get_or_init(Mutex::default);
    let mut runtime = slot.lock().unwrap_or_else(PoisonError::into_inner);
    Some(runtime.get_or_insert_with(|| open(&location, 1)).clone())
}

/// So many CPU devices.
pub fn open(location: &PluginLocation, devices: usize) -> Runtime {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible");
    let discovery =
        Discovery::new(CacheFolder::at(cache)).with_plugin(PluginKind::Cpu, &location.path);
    let options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(devices);
    Runtime::open(&discovery, &options).unwrap()
}

/// What a CPU is given by default.
pub fn options() -> ProgramOptions {
    ProgramOptions::for_plugin(PluginKind::Cpu)
}

pub fn engine(model: &Path, runtime: &Runtime, options: &ProgramOptions) -> Engine {
    let files = ModelFiles::open(model).unwrap();
    Engine::new(&files, runtime.clone(), options.clone(), None, Box::new(|_| {})).unwrap()
}
