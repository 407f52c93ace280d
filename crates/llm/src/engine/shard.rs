//! From a program's weight to the checkpoint's tensors: the part of it that one device holds, read from
//! where it lies in the files.

use std::ops::Range;

use graph::{DType, Shape};
use runtime::host_memory::AlignedBytes;
use runtime::layout;

use crate::FloatType;
use crate::models::ParameterSpec;
use crate::weights::{Checkpoint, WeightsError};

/// The checkpoint's tensors of one weight, with their shapes: several when layers are stacked or
/// matrices joined, none for scales, which follow from their matrix.
pub(super) fn tensors(spec: &ParameterSpec) -> Vec<(String, Vec<usize>)> {
    let shape = || spec.checkpoint_shape.clone();
    match spec.layers {
        _ if !spec.joined.is_empty() => spec.joined.clone(),
        _ if spec.scales_of().is_some() => Vec::new(),
        None => vec![(spec.name.clone(), shape())],
        Some(layers) => (0..layers).map(|layer| (layer_name(&spec.name, layer), shape())).collect(),
    }
}

pub(super) fn layer_name(name: &str, layer: usize) -> String {
    name.replace(&format!(".{}.", crate::models::EVERY_LAYER), &format!(".{layer}."))
}

/// What the numbers of a weight are on the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Float(FloatType),
    /// A matrix as int8, each row divided by its scale.
    Int8,
    /// The scales of such a matrix's rows, f32.
    Scales,
}

impl Held {
    /// Nothing for types that no weight has.
    pub fn of(spec: &ParameterSpec, dtype: DType) -> Option<Held> {
        match dtype {
            // What panels hold is said beside.
            DType::U8 if spec.panels.is_some() => Some(Held::Int8),
            _ if spec.scales_of().is_some() => (dtype == DType::F32).then_some(Held::Scales),
            DType::F32 => Some(Held::Float(FloatType::F32)),
            DType::Bf16 => Some(Held::Float(FloatType::Bf16)),
            DType::F16 => Some(Held::Float(FloatType::F16)),
            DType::S8 => Some(Held::Int8),
            _ => None,
        }
    }

    /// Reads rows of a checkpoint's tensor.
    fn read(
        self,
        checkpoint: &Checkpoint,
        name: &str,
        rows: Option<Range<usize>>,
        out: &mut [u8],
    ) -> Result<(), WeightsError> {
        match self {
            Held::Float(float_type) => checkpoint.read(name, rows, float_type, out),
            Held::Int8 => checkpoint.read_int8(name, rows, out),
            Held::Scales => checkpoint.read_scales(name, rows, out),
        }
    }
}

/// Reads the part of a weight that one device holds: `ranges` of a tensor of this `shape`.
///
/// # Errors
/// A tensor that is missing or damaged, with its name and file.
pub fn read_shard(
    checkpoint: &Checkpoint,
    spec: &ParameterSpec,
    shape: &Shape,
    held: Held,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) -> Result<(), WeightsError> {
    if let Some((packing, part)) = spec.panels {
        let names: Vec<&str> = spec.joined.iter().map(|(name, _)| name.as_str()).collect();
        return checkpoint.read_panels(&names, packing, part, bytes);
    }
    if !spec.joined.is_empty() {
        return read_joined(checkpoint, spec, held, bytes);
    }
    if spec.layers.is_none() {
        let sizes = shape.sizes();
        let name = spec.scales_of().unwrap_or(&spec.name);
        return read_tensor(checkpoint, name, spec, &sizes, held, ranges, bytes);
    }
    let sizes = &shape.sizes()[1..];
    let stack = spec.scales_of().unwrap_or(&spec.name);
    let layer_bytes = bytes.len() / ranges[0].len().max(1);
    for (layer, part) in ranges[0].clone().zip(bytes.chunks_mut(layer_bytes.max(1))) {
        let name = layer_name(stack, layer);
        read_tensor(checkpoint, &name, spec, sizes, held, &ranges[1..], part)?;
    }
    Ok(())
}

/// Reads matrices one behind the other; they are joined on a single device only, so all of each.
fn read_joined(
    checkpoint: &Checkpoint,
    spec: &ParameterSpec,
    held: Held,
    mut bytes: &mut [u8],
) -> Result<(), WeightsError> {
    let total: usize = spec.checkpoint_shape.iter().product();
    let element = bytes.len() / total.max(1);
    for (name, shape) in &spec.joined {
        let (own, rest) = bytes.split_at_mut(shape.iter().product::<usize>() * element);
        held.read(checkpoint, name, None, own)?;
        bytes = rest;
    }
    Ok(())
}

/// Reads a box of a tensor whose axes on the device have these sizes.
fn read_tensor(
    checkpoint: &Checkpoint,
    name: &str,
    spec: &ParameterSpec,
    sizes: &[usize],
    held: Held,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) -> Result<(), WeightsError> {
    // Only the rows that the outermost axis asks for are read; a vector's rows are its elements.
    let outer = sizes.first().copied().unwrap_or(1);
    let rows = spec.checkpoint_shape.first().copied().unwrap_or(1);
    let Some(first) = ranges.first().cloned() else {
        return held.read(checkpoint, name, None, bytes);
    };
    let rows_each = rows / outer.max(1);
    let wanted = first.start * rows_each..first.end * rows_each;
    let whole_inside =
        ranges[1..].iter().zip(&sizes[1..]).all(|(range, &size)| range.len() == size);
    if whole_inside {
        return held.read(checkpoint, name, Some(wanted), bytes);
    }
    let mut part_sizes = sizes.to_vec();
    part_sizes[0] = first.len();
    let element = bytes.len() / layout::elements(ranges).max(1);
    let mut rows = AlignedBytes::zeroed(part_sizes.iter().product::<usize>() * element);
    held.read(checkpoint, name, Some(wanted), rows.as_mut())?;
    let mut inner = ranges.to_vec();
    inner[0] = 0..first.len();
    layout::cut(rows.as_ref(), &part_sizes, element, &inner, bytes);
    Ok(())
}
