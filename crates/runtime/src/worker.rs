//! Compiling in another process. Vendors' compilers abort on internal checks, read their environment
//! when they are loaded and lock themselves, so this very program is started again for one
//! compilation: a crash there is an error message here.
//!
//! A program takes part by calling [`main_if_worker`] first thing in `main`. One that does not can
//! still compile for its own devices, in its own process.

mod child;
mod crash;
mod job;
mod parent;

use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use child::compile_with_client;
pub use crash::Crash;
pub use job::{Cost, Job, JobDevice, MemoryUse, Outcome, Report};
pub use parent::{WorkerError, WorkerLimits, run};

/// Set in a process that is to be a worker.
const WORKER: &str = "FUNGIBLE_COMPILE_WORKER";

static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Registers native functions with a plugin that was just loaded, so that programs calling them
/// compile.
pub type Register = fn(&pjrt::Plugin) -> Result<(), String>;

/// In a process that was started as a compile worker: does its job and ends the process. Else
/// notes that this program can be started as one, and returns.
pub fn main_if_worker(register: Register) {
    if std::env::var_os(WORKER).is_some() {
        child::main(register);
    }
    AVAILABLE.store(true, Ordering::Relaxed);
}

/// Whether this program can be started as a compile worker.
pub fn is_available() -> bool {
    AVAILABLE.load(Ordering::Relaxed)
}
