//! Errors of tracing. The first one is kept by the graph and returned when the trace is finished.

use std::panic::Location;

use crate::shape::{AxesDisplay, Shape};

/// Why an operation cannot take its operands; the graph adds where it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeError {
    pub message: String,
}

impl ShapeError {
    pub fn new(message: impl Into<String>) -> ShapeError {
        ShapeError { message: message.into() }
    }
}

/// A shape error with its operands, the path of the model part and the line of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message}{}\n  {}at {file}:{line}", operands_line(.operands), scope_text(.scope))]
pub struct TraceError {
    pub operation: String,
    pub message: String,
    pub operands: Vec<Shape>,
    /// Dotted path of the part of the model being traced, such as `layers.0.mlp`.
    pub scope: String,
    /// The source file, from `crates/` on.
    pub file: &'static str,
    pub line: u32,
}

impl TraceError {
    pub(crate) fn new(
        operation: &str,
        error: ShapeError,
        operands: Vec<Shape>,
        scope: &str,
        location: &'static Location<'static>,
    ) -> TraceError {
        TraceError {
            operation: operation.to_string(),
            message: error.message,
            operands,
            scope: scope.to_string(),
            file: source_path(location.file()),
            line: location.line(),
        }
    }
}

/// The part of a source path from the crate on, so that texts do not depend on where the project
/// was checked out.
pub(crate) fn source_path(file: &str) -> &str {
    file.find("crates/").map_or(file, |start| &file[start..])
}

fn operands_line(operands: &[Shape]) -> String {
    let labels: &[&str] = match operands.len() {
        0 => return String::new(),
        1 => &["operand"],
        2 => &["left", "right"],
        _ => &[],
    };
    let mut text = String::from("\n");
    for (position, shape) in operands.iter().enumerate() {
        let label = labels.get(position).map_or_else(|| position.to_string(), |l| l.to_string());
        text.push_str(&format!("  {label} {} {}", shape.dtype, AxesDisplay(shape)));
    }
    text
}

fn scope_text(scope: &str) -> String {
    if scope.is_empty() { String::new() } else { format!("in {scope}, ") }
}
