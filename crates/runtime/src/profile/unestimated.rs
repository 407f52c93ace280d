//! Instructions that no compiler's estimate covers, by kind, with the model that stands in for it: so
//! that a reader sees how much of a time is the vendor's own figure and how much is ours.

use std::collections::HashMap;

use serde::Serialize;

use super::Source;
use super::cost::Cost;
use super::module::Module;
use super::proto::HloInstruction;

/// Deeper nesting of fusions than any compiler makes is damage.
const DEPTH_MAX: usize = 8;

/// All instructions of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unestimated {
    pub kind: &'static str,
    /// How their time is found instead.
    pub model: &'static str,
    /// Instructions in the program.
    pub count: usize,
    /// Bytes of main memory, or handed to the links, in all their runs.
    pub bytes: f64,
    /// Waited for, in all their runs.
    pub seconds: f64,
    /// Of the total, from 0 to 1.
    pub share: f64,
    /// Beside other instructions, in all their runs.
    pub hidden_seconds: f64,
}

const LINKS: &str = "bytes over the links that the group spans, and steps";
const BYTES: &str = "bytes at what memory reaches";
const STATED: &str = "the kernel's stated operations and bytes, else its bytes";
const ROWS: &str = "bytes of the rows that are read or written";
const PRODUCTS: &str = "the longer of operations at what large products reach, and bytes";

#[derive(Default)]
pub struct Kinds {
    found: HashMap<&'static str, Unestimated>,
}

impl Kinds {
    /// Adds all runs of an instruction, unless its time is the compiler's.
    pub fn add(
        &mut self,
        module: &Module<'_>,
        instruction: &HloInstruction,
        cost: &Cost,
        times: f64,
        [seconds, hidden_seconds]: [f64; 2],
    ) {
        let Some((kind, model)) = kind(module, instruction, cost) else { return };
        let entry = self.found.entry(kind).or_insert(Unestimated {
            kind,
            model,
            count: 0,
            bytes: 0.0,
            seconds: 0.0,
            share: 0.0,
            hidden_seconds: 0.0,
        });
        entry.count += 1;
        entry.bytes += cost.bytes as f64 * times;
        entry.seconds += seconds;
        entry.hidden_seconds += hidden_seconds;
    }

    /// The costliest first.
    pub fn finish(self, total_seconds: f64) -> Vec<Unestimated> {
        let mut kinds: Vec<Unestimated> = self.found.into_values().collect();
        for kind in &mut kinds {
            kind.share = super::share(kind.seconds, total_seconds);
        }
        kinds.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.kind.cmp(b.kind)));
        kinds
    }
}

fn kind(
    module: &Module<'_>,
    instruction: &HloInstruction,
    cost: &Cost,
) -> Option<(&'static str, &'static str)> {
    if cost.source == Source::Compiler {
        return None;
    }
    let opcode = instruction.opcode.as_str();
    let library = instruction.custom_call_target.starts_with("__cu");
    Some(match opcode {
        _ if cost.source == Source::Links => ("collectives", LINKS),
        "custom-call" if !library => ("kernels of custom calls", STATED),
        _ if cost.flops > 0.0 => ("products of matrices", PRODUCTS),
        _ if opcode.starts_with("copy") || opcode == "async-start" => ("copies", BYTES),
        _ if indexes(module, instruction, 0) => ("gathers and scatters", ROWS),
        "fusion" => ("other fusions", BYTES),
        _ => ("other", BYTES),
    })
}

fn indexes(module: &Module<'_>, instruction: &HloInstruction, depth: usize) -> bool {
    match instruction.opcode.as_str() {
        "gather" | "scatter" => true,
        "fusion" if depth < DEPTH_MAX => module
            .called(instruction)
            .any(|called| called.order.iter().any(|inner| indexes(module, inner, depth + 1))),
        _ => false,
    }
}
