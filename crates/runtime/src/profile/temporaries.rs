//! The largest values that a program makes on its way: where memory goes, and whether something is
//! there whole that should be cut or never exist. Reads shapes only, so what the compiler places over
//! each other is not seen.

use serde::Serialize;

use super::module::{Computation, Module};
use super::place::{self, Place};
use super::proto::{HloInstruction, Shape};
use super::work;

/// A value that an instruction makes, in the device's main memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Temporary {
    pub name: String,
    /// As compilers print it: `bf16[8,2048]`.
    pub shape: String,
    /// Bytes without padding.
    pub bytes: u64,
    /// Bytes as its layout pads them.
    pub padded_bytes: u64,
    pub path: String,
    pub source: String,
}

/// What a computation's instructions make. Values that go out with the `results` are left out.
pub fn made(
    module: &Module<'_>,
    computation: &Computation<'_>,
    around: &Place,
    leave_out_results: bool,
) -> Vec<Temporary> {
    let results = if leave_out_results { results(computation) } else { Vec::new() };
    let mut made = Vec::new();
    for instruction in &computation.order {
        if !makes(instruction) || results.contains(&instruction.id) {
            continue;
        }
        if work::in_place(module, computation, instruction) {
            continue;
        }
        let arrays = instruction.shape.as_ref().map(Shape::arrays).unwrap_or_default();
        for array in arrays {
            let elsewhere = module.has_fast_memory && array.memory_space() != 0;
            let bytes = array.logical_bytes();
            if elsewhere || bytes == 0 {
                continue;
            }
            let Place { path, source } = place::of(module, computation, instruction, around);
            let (name, shape) = (instruction.name.clone(), array.to_string());
            let padded_bytes = array.stored_bytes();
            made.push(Temporary { name, shape, bytes, padded_bytes, path, source });
        }
    }
    made
}

/// Whether a result is new memory: no name for another value, no state that is updated in place.
fn makes(instruction: &HloInstruction) -> bool {
    let opcode = instruction.opcode.as_str();
    let names_another = matches!(
        opcode,
        "parameter"
            | "constant"
            | "get-tuple-element"
            | "tuple"
            | "bitcast"
            | "while"
            | "conditional"
            | "call"
            | "opt-barrier"
            | "after-all"
            | "add-dependency"
            | "async-update"
    );
    // The end of a transfer has the value, its start also what is only needed on the way.
    !names_another && !opcode.ends_with("-start")
}

/// The ids of the values that a computation returns.
fn results(computation: &Computation<'_>) -> Vec<i64> {
    let Some(root) = computation.root() else { return Vec::new() };
    let mut open = vec![root];
    let mut found = Vec::new();
    while let Some(value) = open.pop() {
        if found.contains(&value.id) {
            continue;
        }
        found.push(value.id);
        match value.opcode.as_str() {
            "tuple" => open.extend(computation.operands(value)),
            "bitcast" | "get-tuple-element" | "copy-done" => {
                open.extend(computation.operand(value, 0));
            }
            _ => {}
        }
    }
    found
}
