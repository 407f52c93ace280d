//! What an instruction has to do: bytes that it moves and floating-point operations of its matrix
//! products. A fusion moves only what it reads of its operands and writes of its result, so that a
//! row taken out of a table, or written into one in place, counts as a row. Knows no chip.
//!
//! The rules are those of XLA's cost analysis (`xla/service/hlo_cost_analysis.cc`), in short.

use super::efficiency::{GPU_BLOCK, GPU_ROWS_MIN};
use super::module::{Computation, Module};
use super::proto::{ConvolutionDimensions, DotDimensions, HloInstruction, Shape, WindowDimension};

/// Deeper nesting than any compiler makes is damage.
const DEPTH_MAX: usize = 24;
/// Steps spent on one fusion before its operands count as whole.
const STEPS_MAX: usize = 10_000;

/// Bytes read from main memory and written to it; those of the result where all is in faster memory.
pub fn bytes(module: &Module<'_>, caller: &Computation<'_>, instruction: &HloInstruction) -> u64 {
    let called = fused(module, instruction);
    let read = |(index, operand): (usize, &HloInstruction)| match called {
        Some(called) => Reading { module, steps: 0 }.parameter(called, index, 0),
        None => operand_bytes(module, instruction, index, module.stored(operand)),
    };
    let read = caller.operands(instruction).enumerate().map(read).fold(0, u64::saturating_add);
    let written = match called {
        Some(called) => {
            let root = called.root().and_then(|root| written(module, called, root, 0));
            root.unwrap_or(module.stored(instruction))
        }
        None => written(module, caller, instruction, 0).unwrap_or(module.stored(instruction)),
    };
    match read.saturating_add(written) {
        0 => instruction.shape.as_ref().map_or(0, Shape::stored_bytes),
        bytes => bytes,
    }
}

/// Whether the result, or a part of it, is an operand that is written into.
pub fn in_place(
    module: &Module<'_>,
    caller: &Computation<'_>,
    instruction: &HloInstruction,
) -> bool {
    match fused(module, instruction).map(|called| (called, called.root())) {
        Some((called, Some(root))) => written(module, called, root, 0).is_some(),
        Some((_, None)) => false,
        None => written(module, caller, instruction, 0).is_some(),
    }
}

fn fused<'m, 'a>(
    module: &'m Module<'a>,
    instruction: &HloInstruction,
) -> Option<&'m Computation<'a>> {
    let fuses = matches!(instruction.opcode.as_str(), "fusion" | "call");
    fuses.then(|| module.called(instruction).next()).flatten()
}

/// What an instruction reads of an operand that is `whole` bytes long.
fn operand_bytes(
    module: &Module<'_>,
    instruction: &HloInstruction,
    index: usize,
    whole: u64,
) -> u64 {
    match (instruction.opcode.as_str(), index) {
        ("dynamic-slice" | "slice" | "gather", 0) => module.stored(instruction).min(whole),
        ("dynamic-update-slice" | "scatter", 0) => 0,
        _ => whole,
    }
}

/// Bytes written, where that is less than the whole result since it is updated in place.
fn written(
    module: &Module<'_>,
    computation: &Computation<'_>,
    instruction: &HloInstruction,
    depth: usize,
) -> Option<u64> {
    if depth > DEPTH_MAX {
        return None;
    }
    match instruction.opcode.as_str() {
        "dynamic-update-slice" => {
            computation.operand(instruction, 1).map(|update| module.stored(update))
        }
        "scatter" => computation.operands(instruction).last().map(|updates| module.stored(updates)),
        "bitcast" => {
            let operand = computation.operand(instruction, 0)?;
            written(module, computation, operand, depth + 1)
        }
        "tuple" => {
            let parts = computation.operands(instruction);
            let parts = parts.map(|part| (part, written(module, computation, part, depth + 1)));
            let parts: Vec<_> = parts.take(STEPS_MAX).collect();
            let part = |(part, bytes): &(&HloInstruction, Option<u64>)| {
                bytes.unwrap_or(module.stored(part))
            };
            let any = parts.iter().any(|(_, bytes)| bytes.is_some());
            any.then(|| parts.iter().map(part).fold(0, u64::saturating_add))
        }
        "fusion" => {
            let called = fused(module, instruction)?;
            written(module, called, called.root()?, depth + 1)
        }
        _ => None,
    }
}

struct Reading<'m, 'a> {
    module: &'m Module<'a>,
    steps: usize,
}

impl Reading<'_, '_> {
    /// What a fused computation reads of a parameter.
    fn parameter(&mut self, computation: &Computation<'_>, number: usize, depth: usize) -> u64 {
        computation.parameter(number).map_or(0, |value| self.value(computation, value, depth))
    }

    /// What the users of a value read of it.
    fn value(
        &mut self,
        computation: &Computation<'_>,
        value: &HloInstruction,
        depth: usize,
    ) -> u64 {
        let whole = self.module.stored(value);
        let users = computation.users(value);
        self.steps += users.len();
        if depth > DEPTH_MAX || self.steps > STEPS_MAX || value.id == computation.proto.root_id {
            return whole;
        }
        let mut bytes = 0u64;
        for user in users {
            let places = user.operand_ids.iter().enumerate().filter(|&(_, &id)| id == value.id);
            for (index, _) in places {
                bytes = bytes.saturating_add(match user.opcode.as_str() {
                    "bitcast" | "reshape" | "transpose" | "convert" | "copy" => {
                        // The user's type may be wider than what is read.
                        let read = self.value(computation, user, depth + 1);
                        scaled(read, self.module.stored(user), whole)
                    }
                    "fusion" => match fused(self.module, user) {
                        Some(called) => self.parameter(called, index, depth + 1),
                        None => whole,
                    },
                    _ => operand_bytes(self.module, user, index, whole),
                });
            }
        }
        bytes.min(whole)
    }
}

/// The same share of `whole` as `part` is of `of`.
fn scaled(part: u64, of: u64, whole: u64) -> u64 {
    match of {
        0 => whole,
        of => (u128::from(part) * u128::from(whole) / u128::from(of)).min(u128::from(whole)) as u64,
    }
}

/// Floating-point operations of matrix products, and the bits of the type that they multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    pub count: f64,
    pub element_bits: u64,
    /// Operations with rows and columns filled up to whole blocks, as GPUs compute them.
    pub padded: f64,
    /// Blocks of the result of the largest product.
    pub blocks: f64,
}

impl Flops {
    /// Of products whose shape is not known, or does not matter.
    pub fn whole(count: f64, element_bits: u64) -> Flops {
        Flops { count, element_bits, padded: count, blocks: 0.0 }
    }

    /// `batch` products of `rows` by `columns` sums over `summed` elements.
    fn product([batch, rows, columns, summed]: [f64; 4], element_bits: u64) -> Flops {
        let operations = |rows: f64, columns: f64| 2.0 * batch * rows * columns * summed;
        Flops {
            count: operations(rows, columns),
            element_bits,
            padded: operations(filled(rows), filled(columns)),
            blocks: batch * (rows / GPU_BLOCK).ceil() * (columns / GPU_BLOCK).ceil(),
        }
    }
}

/// Up to whole blocks; a block may be narrow where there is little.
fn filled(size: f64) -> f64 {
    let block = if size < GPU_BLOCK { GPU_ROWS_MIN } else { GPU_BLOCK };
    (size / block).ceil() * block
}

/// Operations of the products in an instruction and in what it fuses or calls; a multiply-add is two.
pub fn flops(module: &Module<'_>, caller: &Computation<'_>, instruction: &HloInstruction) -> Flops {
    let mut steps = 0;
    flops_within(module, caller, instruction, 0, &mut steps)
}

fn flops_within(
    module: &Module<'_>,
    caller: &Computation<'_>,
    instruction: &HloInstruction,
    depth: usize,
    steps: &mut usize,
) -> Flops {
    *steps += 1;
    if depth > DEPTH_MAX || *steps > STEPS_MAX {
        return Flops::default();
    }
    match instruction.opcode.as_str() {
        "dot" => {
            let axes = |axes: fn(&DotDimensions) -> &[i64]| {
                instruction.dot.as_ref().map(axes).unwrap_or_default()
            };
            let (summed, batch) = (axes(|dot| &dot.lhs_contracting), axes(|dot| &dot.lhs_batch));
            product_flops(caller, instruction, summed, batch)
        }
        "convolution" => convolution(caller, instruction).unwrap_or_default(),
        "custom-call" if instruction.custom_call_target.starts_with("__cublas$") => {
            let [summed, batch] = library_axes(&instruction.backend_config);
            product_flops(caller, instruction, &summed, &batch)
        }
        "fusion" | "call" | "async-start" | "custom-call" => {
            let mut total = Flops::default();
            for called in module.called(instruction) {
                for inner in &called.order {
                    let flops = flops_within(module, called, inner, depth + 1, steps);
                    total.count += flops.count;
                    total.element_bits = total.element_bits.max(flops.element_bits);
                    total.padded += flops.padded;
                    total.blocks = total.blocks.max(flops.blocks);
                }
            }
            total
        }
        _ => Flops::default(),
    }
}

/// Two per result and per element summed over.
fn product_flops(
    caller: &Computation<'_>,
    instruction: &HloInstruction,
    summed: &[i64],
    batch: &[i64],
) -> Flops {
    let lhs = caller.operand(instruction, 0).and_then(|lhs| lhs.shape.as_ref());
    let Some(lhs) = lhs else { return Flops::default() };
    let product = |axes: &[i64]| axes.iter().map(|&axis| dimension(lhs, axis)).product::<f64>();
    let (summed, batch) = (product(summed), product(batch));
    // A library call may have a workspace beside its result.
    let result = instruction.shape.as_ref().map(Shape::arrays).unwrap_or_default();
    let results = result.first().map_or(0, |result| result.elements()) as f64;
    let rows = lhs.elements() as f64 / (summed * batch).max(1.0);
    let columns = results / (rows * batch).max(1.0);
    Flops::product([batch, rows, columns, summed], lhs.element_bits())
}

fn dimension(shape: &Shape, axis: i64) -> f64 {
    let size = usize::try_from(axis).ok().and_then(|axis| shape.dimensions.get(axis));
    size.map_or(1.0, |&size| size.max(0) as f64)
}

/// The contracted and the batch axes of cuBLAS's left operand.
fn library_axes(config: &[u8]) -> [Vec<i64>; 2] {
    let config: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    let axes = &config["gemm_backend_config"]["dot_dimension_numbers"];
    let axis = |axis: &serde_json::Value| {
        axis.as_i64().or_else(|| axis.as_str().and_then(|axis| axis.parse().ok()))
    };
    ["lhs_contracting_dimensions", "lhs_batch_dimensions"]
        .map(|name| axes[name].as_array().into_iter().flatten().filter_map(axis).collect())
}

/// TPU compilers write every matrix product as a convolution: batch axes become spatial ones whose
/// window meets one element each, so only places of the window inside the input count.
fn convolution(caller: &Computation<'_>, instruction: &HloInstruction) -> Option<Flops> {
    let axes = instruction.convolution.as_ref()?;
    let output = instruction.shape.as_ref()?;
    let (lhs, rhs) = (caller.operand(instruction, 0)?, caller.operand(instruction, 1)?);
    let (lhs, rhs) = (lhs.shape.as_ref()?, rhs.shape.as_ref()?);
    let groups = instruction.batch_group_count.max(1) as f64;
    let channels = dimension(output, axes.output_batch)
        * dimension(output, axes.output_feature)
        * dimension(rhs, axes.kernel_input_feature)
        / groups;
    let window = instruction.window.as_ref().map(|window| window.dimensions.as_slice());
    let spatial = window.unwrap_or_default().iter().enumerate();
    let places: f64 =
        spatial.map(|(place, window)| valid(axes, place, window, lhs, output)).product();
    Some(Flops::whole(2.0 * channels * places, lhs.element_bits()))
}

/// Pairs of an output element and a window element that meet an input element, along one axis.
fn valid(
    axes: &ConvolutionDimensions,
    place: usize,
    window: &WindowDimension,
    input: &Shape,
    output: &Shape,
) -> f64 {
    let size = |shape: &Shape, axes: &[i64]| {
        let axis = axes.get(place).and_then(|&axis| usize::try_from(axis).ok());
        axis.and_then(|axis| shape.dimensions.get(axis)).map_or(1, |&size| size.max(0))
    };
    let (input, output) = (size(input, &axes.input_spatial), size(output, &axes.output_spatial));
    let all = window.size.max(1) as f64 * output as f64;
    if all > 1e6 {
        return all;
    }
    let base = i128::from(window.base_dilation.max(1));
    let reach = (i128::from(input) - 1) * base;
    let meets = |output: i64, element: i64| {
        let at = i128::from(output) * i128::from(window.stride.max(1))
            + i128::from(element) * i128::from(window.window_dilation.max(1))
            - i128::from(window.padding_low);
        at >= 0 && at <= reach && at % base == 0
    };
    let elements = 0..window.size.max(1);
    let count = |output: i64| elements.clone().filter(|&element| meets(output, element)).count();
    (0..output).map(count).sum::<usize>() as f64
}
