//! A compiled program without what no estimate reads, to be kept: no source lines, no constants but
//! the numbers that loops count with, and of each instruction's configuration only the figures.

use prost::Message;
use serde_json::{Map, Value};

use super::ProfileError;
use super::module;
use super::proto::{HloInstruction, Literal, ModuleWithConfig};

/// The parts of an instruction's configuration that are read, wherever they are in it.
const READ: [&str; 7] = [
    "estimated_cycles",
    "known_trip_count",
    "emitter",
    "strategy",
    "cost_estimate",
    "lhs_contracting_dimensions",
    "lhs_batch_dimensions",
];

/// The same program for [`super::profile`], several times smaller. Paths, lines and temporaries of its
/// profile are lost, times are not.
///
/// # Errors
/// Bytes that are no program.
pub fn stripped(code: &[u8]) -> Result<Vec<u8>, ProfileError> {
    let mut module = module::decode(code)?;
    module.stack_frames = None;
    for computation in &mut module.computations {
        for instruction in &mut computation.instructions {
            strip(instruction);
        }
    }
    Ok(ModuleWithConfig { module: Some(module) }.encode_to_vec())
}

fn strip(instruction: &mut HloInstruction) {
    instruction.metadata = None;
    if instruction.literal.as_ref().is_some_and(|literal| !counts(literal)) {
        instruction.literal = None;
    }
    if let Ok(config) = serde_json::from_slice(&instruction.backend_config) {
        let config = essential(config).map(|config| config.to_string());
        instruction.backend_config = config.unwrap_or_default().into_bytes();
    }
}

fn counts(literal: &Literal) -> bool {
    let numbers = [literal.s32s.len(), literal.s64s.len(), literal.u32s.len(), literal.u64s.len()];
    numbers.iter().sum::<usize>() == 1
}

fn essential(config: Value) -> Option<Value> {
    let Value::Object(entries) = config else { return None };
    let entry = |(key, value): (String, Value)| {
        let kept = if READ.contains(&key.as_str()) { Some(value) } else { essential(value) };
        kept.map(|value| (key, value))
    };
    let entries: Map<String, Value> = entries.into_iter().filter_map(entry).collect();
    (!entries.is_empty()).then_some(Value::Object(entries))
}
