//! Programs on their way into a plugin (MLIR) and out of it (whatever format it has optimized).

use crate::sys::{self, Arguments};

/// A program as a plugin hands it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What `code` is: `hlo`, `hlo_with_config` or `mlir`.
    pub format: String,
    /// The program, serialized.
    pub code: Vec<u8>,
}

/// The C form of a program given as MLIR. Points into it, so it must outlive the use.
pub(crate) fn mlir(text: &str) -> sys::Program {
    const FORMAT: &str = "mlir";
    let mut program = sys::Program::new();
    program.code = text.as_ptr().cast_mut();
    program.code_size = text.len();
    program.format = FORMAT.as_ptr();
    program.format_size = FORMAT.len();
    program
}
