//! Ending a process that has plugins loaded.

use std::ffi::c_int;

unsafe extern "C" {
    fn _exit(code: c_int) -> !;
}

/// Ends the process with `code`, at once. `std::process::exit` first runs the destructors of every
/// library's global values, and a plugin's threads that are still computing crash when those are gone:
/// a program that has launched work, and does not wait for it, must end with this.
///
/// Nothing is cleaned up: what was written to a buffer and not flushed is lost.
pub fn end_process(code: i32) -> ! {
    // SAFETY: a function of every C library that takes any code, touches no memory of ours and never
    // returns.
    unsafe { _exit(code) }
}
