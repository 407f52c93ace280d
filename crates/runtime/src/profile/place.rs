//! Where in the model an instruction comes from: the parameter path of its scope and the source line
//! that traced it. Compilers keep both for most instructions; for what they add themselves (copies,
//! prefetches, fusions of several lines) the next best is taken. Knows no times.

use super::module::{Computation, Module};
use super::proto::{HloInstruction, Metadata, Shape, StackFrames};
use super::work;

/// How far to look along operands.
const OPERANDS_MAX: usize = 12;
const DEPTH_MAX: usize = 8;

/// Either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Such as `model.layers.*.mlp.down_proj`.
    pub path: String,
    /// Such as `crates/llm/src/models/blocks.rs:36`.
    pub source: String,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.path.is_empty() && self.source.is_empty()
    }
}

/// The place of an instruction: its own, that of what it fuses, of what it moves, of what reads it,
/// or that of the loop or call around it.
pub fn of(
    module: &Module<'_>,
    computation: &Computation<'_>,
    instruction: &HloInstruction,
    around: &Place,
) -> Place {
    let moved = || {
        let mut value = instruction;
        for _ in 0..OPERANDS_MAX {
            value = if moves(value) { computation.operand(value, 0)? } else { return None };
            let found = known(module, value, 0);
            if found.is_some() {
                return found;
            }
        }
        None
    };
    let used = || {
        let mut users = computation.users(instruction).iter();
        users.find_map(|user| known(module, user, 0))
    };
    known(module, instruction, 0).or_else(moved).or_else(used).unwrap_or_else(|| around.clone())
}

/// Whether the result is the first operand, elsewhere or in another form.
fn moves(instruction: &HloInstruction) -> bool {
    matches!(
        instruction.opcode.as_str(),
        "copy"
            | "copy-start"
            | "copy-done"
            | "async-start"
            | "async-update"
            | "async-done"
            | "bitcast"
            | "bitcast-convert"
            | "convert"
            | "reshape"
            | "transpose"
            | "slice"
            | "get-tuple-element"
    )
}

/// Its own place, or that of what it fuses or calls: the result's, else the largest part's.
fn known(module: &Module<'_>, instruction: &HloInstruction, depth: usize) -> Option<Place> {
    let own = own(module, instruction);
    if !own.is_empty() {
        return Some(own);
    }
    // A loop or branch stands for too much, and going into it would be slow.
    let enters = matches!(instruction.opcode.as_str(), "fusion" | "call" | "async-start");
    if depth > DEPTH_MAX || !enters {
        return None;
    }
    module.called(instruction).find_map(|called| {
        let root = called.root().and_then(|root| known(module, root, depth + 1));
        root.or_else(|| {
            let size = |inner: &&HloInstruction| {
                let flops = work::flops(module, called, inner).count as u64;
                flops.saturating_add(inner.shape.as_ref().map_or(0, Shape::elements))
            };
            let placed = |inner: &&HloInstruction| !self::own(module, inner).is_empty();
            let largest = called.order.iter().copied().filter(placed).max_by_key(size);
            largest.map(|inner| self::own(module, inner))
        })
    })
}

fn own(module: &Module<'_>, instruction: &HloInstruction) -> Place {
    let Some(metadata) = &instruction.metadata else { return Place::default() };
    let generated = is_generated(&metadata.op_name, module);
    let path = if generated { String::new() } else { metadata.op_name.clone() };
    Place { path, source: source(metadata, module.frames) }
}

/// Where an operation has no scope, compilers put a name of their own for it, such as `reduce.21`,
/// `(reduce.21:reduce)` or `conditional.1.clone`: an opcode, or one word and a number.
fn is_generated(name: &str, module: &Module<'_>) -> bool {
    let name = name.trim_matches(['(', ')']);
    let mut words = name.split(['.', ':']);
    let first = words.next().unwrap_or_default();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let (mut numbers, mut others) = (0, 0);
    for word in words.filter(|word| *word != "clone" && *word != first) {
        match is_number(word) {
            true => numbers += 1,
            false => others += 1,
        }
    }
    module.opcodes.contains(first.replace('_', "-").as_str()) || (numbers > 0 && others == 0)
}

/// The line itself, or the innermost frame that refers to one.
fn source(metadata: &Metadata, frames: Option<&StackFrames>) -> String {
    let (file, line) = match metadata.source_file.as_str() {
        "" | "-" => match frames.and_then(|frames| frame(frames, metadata.stack_frame_id)) {
            Some(found) => found,
            None => return String::new(),
        },
        file => (file, metadata.source_line),
    };
    // A line of Rust's own library, where an operation was handed over as a function.
    if file.starts_with("/rustc/") {
        return String::new();
    }
    format!("{file}:{line}")
}

fn frame(frames: &StackFrames, id: i32) -> Option<(&str, i32)> {
    let position = |id: i32| usize::try_from(id).ok()?.checked_sub(1);
    let frame = frames.frames.get(position(id)?)?;
    let location = frames.file_locations.get(position(frame.file_location_id)?)?;
    let file = frames.file_names.get(position(location.file_name_id)?)?;
    Some((file, location.line))
}
