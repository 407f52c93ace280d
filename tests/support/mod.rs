//! What the tests of several crates share: loud skips, what has to be fetched first, a runner for
//! tests that own `main`, and checkpoints by hand. Knows no test.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the runner's findings are printed")]

mod checkpoint;
mod fetched;
mod runner;

use std::io::Write as _;

pub use checkpoint::{change_checkpoint, change_config, copy_model, write_checkpoint};
pub use fetched::{cpu_plugin, smollm2};
pub use runner::{Test, run_all};

/// Says on standard error that a test did nothing, and why. Not with `eprintln!`, whose output the
/// test harness keeps to itself when a test passes.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
