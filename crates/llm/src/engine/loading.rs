//! Weights from the checkpoint onto the devices, each shard read straight into the memory that the
//! device uses where the plugin allows it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use graph::Shape;
use runtime::host_memory::AlignedBytes;
use runtime::{Array, layout};

use super::{Engine, EngineError, Progress, float_type};
use crate::FloatType;
use crate::models::ParameterSpec;
use crate::programs::ModelProgram;
use crate::weights::{Checkpoint, WeightsError};

impl Engine {
    /// Compares every weight that the model will ask for with the checkpoint's table, before
    /// anything is read or compiled.
    pub(super) fn check_checkpoint(&self) -> Result<(), EngineError> {
        let cache = crate::models::CacheShape { batch: 1, capacity: 1 };
        let traced = crate::programs::decode(&self.config, &self.options, cache)?;
        let mut wanted = BTreeSet::new();
        for spec in &traced.parameters {
            for (name, shape) in tensors(spec) {
                self.checkpoint.expect(&name, &shape)?;
                wanted.insert(name);
            }
        }
        let is_unused = |name: &&str| !wanted.contains(*name) && !is_derived(name);
        let names: Vec<&str> = self.checkpoint.names().filter(is_unused).collect();
        if !names.is_empty() {
            (self.on_progress)(Progress::Unused { names: &names });
        }
        Ok(())
    }

    /// The program's weights in the order of its arguments, read where they are not yet.
    pub(super) fn weights_of(&self, traced: &ModelProgram) -> Result<Vec<Arc<Array>>, EngineError> {
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        let missing = traced.parameters.iter().zip(inputs);
        let missing: Vec<_> =
            missing.filter(|(spec, _)| !weights.contains_key(&spec.name)).collect();
        let total_bytes = missing.iter().map(|(_, input)| input.shape.bytes() as u64).sum();
        let mut done_bytes = 0;
        for (spec, input) in missing {
            let float_type = float_type(input.shape.dtype)?;
            // Kept aside, so that the user reads which tensor and file it is, and nothing around it.
            let mut unreadable: Option<WeightsError> = None;
            let array = Array::fill(&self.mesh, &input.shape, &input.sharding, |ranges, bytes| {
                let (checkpoint, shape) = (&self.checkpoint, &input.shape);
                read_shard(checkpoint, spec, shape, float_type, ranges, bytes).map_err(|error| {
                    let message = error.to_string();
                    unreadable = Some(error);
                    message
                })
            });
            if let Some(error) = unreadable {
                return Err(error.into());
            }
            let array = array?;
            done_bytes += input.shape.bytes() as u64;
            (self.on_progress)(Progress::Weights { done_bytes, total_bytes });
            weights.insert(spec.name.clone(), Arc::new(array));
        }
        Ok(traced.parameters.iter().map(|spec| weights[&spec.name].clone()).collect())
    }
}

/// Tensors that follow from the config or repeat another one.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
        || name == crate::config::ROPE_FACTORS_TENSOR
        || name == "lm_head.weight"
}

/// The checkpoint's tensors of one weight, with their shapes: several when layers are stacked or
/// matrices joined.
fn tensors(spec: &ParameterSpec) -> Vec<(String, Vec<usize>)> {
    let shape = || spec.checkpoint_shape.clone();
    match spec.layers {
        _ if !spec.joined.is_empty() => spec.joined.clone(),
        None => vec![(spec.name.clone(), shape())],
        Some(layers) => (0..layers).map(|layer| (layer_name(spec, layer), shape())).collect(),
    }
}

fn layer_name(spec: &ParameterSpec, layer: usize) -> String {
    spec.name.replace(&format!(".{}.", crate::models::EVERY_LAYER), &format!(".{layer}."))
}

/// Reads the part of a weight that one device holds.
fn read_shard(
    checkpoint: &Checkpoint,
    spec: &ParameterSpec,
    shape: &Shape,
    float_type: FloatType,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) -> Result<(), WeightsError> {
    if !spec.joined.is_empty() {
        return read_joined(checkpoint, spec, float_type, bytes);
    }
    if spec.layers.is_none() {
        let sizes = shape.sizes();
        return read_tensor(checkpoint, &spec.name, spec, &sizes, float_type, ranges, bytes);
    }
    let sizes = &shape.sizes()[1..];
    let layer_bytes = bytes.len() / ranges[0].len().max(1);
    for (layer, part) in ranges[0].clone().zip(bytes.chunks_mut(layer_bytes.max(1))) {
        let name = layer_name(spec, layer);
        read_tensor(checkpoint, &name, spec, sizes, float_type, &ranges[1..], part)?;
    }
    Ok(())
}

/// Reads matrices one behind the other; they are joined on a single device only, so all of each.
fn read_joined(
    checkpoint: &Checkpoint,
    spec: &ParameterSpec,
    float_type: FloatType,
    mut bytes: &mut [u8],
) -> Result<(), WeightsError> {
    let total: usize = spec.checkpoint_shape.iter().product();
    let element = bytes.len() / total.max(1);
    for (name, shape) in &spec.joined {
        let (own, rest) = bytes.split_at_mut(shape.iter().product::<usize>() * element);
        checkpoint.read(name, None, float_type, own)?;
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
    float_type: FloatType,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) -> Result<(), WeightsError> {
    // Only the rows that the outermost axis asks for are read; a vector's rows are its elements.
    let outer = sizes.first().copied().unwrap_or(1);
    let rows = spec.checkpoint_shape.first().copied().unwrap_or(1);
    let Some(first) = ranges.first().cloned() else {
        return checkpoint.read(name, None, float_type, bytes);
    };
    let rows_each = rows / outer.max(1);
    let wanted = first.start * rows_each..first.end * rows_each;
    let whole_inside =
        ranges[1..].iter().zip(&sizes[1..]).all(|(range, &size)| range.len() == size);
    if whole_inside {
        return checkpoint.read(name, Some(wanted), float_type, bytes);
    }
    let mut part_sizes = sizes.to_vec();
    part_sizes[0] = first.len();
    let element = bytes.len() / layout::elements(ranges).max(1);
    let mut rows = AlignedBytes::zeroed(part_sizes.iter().product::<usize>() * element);
    checkpoint.read(name, Some(wanted), float_type, rows.as_mut())?;
    let mut inner = ranges.to_vec();
    inner[0] = 0..first.len();
    layout::cut(rows.as_ref(), &part_sizes, element, &inner, bytes);
    Ok(())
}
