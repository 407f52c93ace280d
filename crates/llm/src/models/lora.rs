//! Low-rank adaptation of a model's matrices: W + alpha / rank · B · A with W at rest (Hu et al.,
//! "LoRA", 2021). The adapters' names are those of PEFT's checkpoints.

mod slots;

use graph::{Axis, DType, Tensor, ops};

use super::Parameters;
use super::blocks::Axes;

pub use slots::LoraSlots;
pub(crate) use slots::SlotOfRows;

/// Which matrices are adapted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    pub rank: usize,
    pub alpha: f64,
    /// The last parts of the matrices' paths, such as `q_proj`.
    pub targets: Vec<String>,
    /// The share of an adapter's inputs that is left out while training.
    pub dropout: f64,
}

/// Adapters in a program.
#[derive(Clone)]
pub(super) struct Adapters<'g> {
    pub lora: Lora,
    /// Two u32 scalars from which dropout draws, such as seed and step; none outside training.
    pub dropout_key: Option<[Tensor<'g>; 2]>,
    /// Where the rows at hand are only a part of a batch: the first one's place in it (u32).
    pub first_row: Option<Tensor<'g>>,
    /// In a loop over layers, which layer this is (s32).
    pub layer: Option<Tensor<'g>>,
}

impl Lora {
    /// The names of the matrices that every family here has.
    pub const MATRICES: [&str; 7] =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

    /// What the product of A and B is multiplied with.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// What the adapter of the matrix at `weights` adds to the matrix's product with `x`; nothing if it
/// has none.
#[track_caller]
pub(super) fn adapt<'g>(
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    inputs: Axes<'_>,
    outputs: Axes<'_>,
) -> Option<Tensor<'g>> {
    if let Some(of_rows) = weights.slot_of_rows() {
        return Some(slots::adapt_rows(weights, of_rows, x, inputs, outputs));
    }
    let adapters = weights.adapters()?;
    let name = weights.path().rsplit('.').next().unwrap_or_default();
    let lora = &adapters.lora;
    if !lora.targets.iter().any(|target| target == name) {
        return None;
    }
    let x = match adapters.dropout_key {
        Some(key) if lora.dropout > 0.0 => drop_out(weights.path(), &adapters, key, x),
        _ => x,
    };
    let rank = [("rank", lora.rank)];
    let down = weights.within("lora_A", |weights| weights.adapter("weight", &[&rank, inputs]));
    let up = weights.within("lora_B", |weights| weights.adapter("weight", &[outputs, &rank]));
    let contract: Vec<Axis> = inputs.iter().map(|&(axis, _)| axis).collect();
    Some(x.dot(down, &contract).dot(up, &["rank"]) * lora.scale())
}

/// `x` with each element left out at the rate given, the others scaled up. What is drawn depends on
/// the key, the matrix, the layer and the place in the batch only: not on how layers become program
/// text, nor on how many rows of the batch are computed at once.
#[track_caller]
fn drop_out<'g>(
    path: &str,
    adapters: &Adapters<'g>,
    key: [Tensor<'g>; 2],
    x: Tensor<'g>,
) -> Tensor<'g> {
    let graph = x.graph();
    let shape = x.shape();
    let rate = adapters.lora.dropout;
    let mut place = ops::constant(graph, DType::U32, 0.0);
    for (&(axis, size), stride) in shape.axes.iter().zip(shape.strides()) {
        let mut index = ops::iota(graph, DType::U32, axis, size);
        if let (Some(first), "batch") = (adapters.first_row, axis) {
            index = index + first;
        }
        place = place + index * stride as f64;
    }
    let number = path.split('.').find_map(|part| part.parse::<u32>().ok()).unwrap_or(0);
    let name = path.rsplit('.').next().unwrap_or_default();
    let which =
        name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let which = ops::constant(graph, DType::U32, f64::from(which));
    let layer = match adapters.layer {
        Some(layer) => layer.convert(DType::U32),
        None => ops::constant(graph, DType::U32, f64::from(number)),
    };
    let salt = which + layer * f64::from(0x9E37_79B9_u32);
    let [bits, _] = ops::threefry(key, [place, salt]);
    let kept = bits.bits_to_uniform().greater(ops::constant(graph, DType::F32, rate));
    let zero = ops::constant(graph, shape.dtype, 0.0);
    kept.select(x * (1.0 / (1.0 - rate)), zero)
}
