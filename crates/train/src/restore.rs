//! From a checkpoint back onto devices. Layers may have been stacked where it was written and not be
//! here, or the other way round: a stack of layers and the layers one by one are the same bytes.

use std::ops::Range;

use graph::Shape;
use llm::models::EVERY_LAYER;
use runtime::{Array, DeviceMesh};

use crate::checkpoint::{ArrayEntry, Checkpoint, CheckpointError};
use crate::state::kept_inputs;
use crate::step::TrainProgram;

/// Why a checkpoint is not one of this run.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "{location} is a checkpoint of another model or another kind of training: it has no \
         `{name}`"
    )]
    Missing { location: String, name: String },
    #[error(
        "{location} is a checkpoint of another model: `{name}` is {found} there and would be \
         {wanted} here"
    )]
    Different { location: String, name: String, found: String, wanted: String },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
}

/// Where a kept tensor lies in a checkpoint.
enum Place<'a> {
    /// As it is.
    Same(&'a ArrayEntry),
    /// One array per layer.
    Apart,
    /// One layer of a stack.
    Within(&'a ArrayEntry, usize),
}

/// Compares everything that the program keeps and changes with what the checkpoint has, before
/// anything is read.
///
/// # Errors
/// The first tensor that is missing or differs.
pub fn check(checkpoint: &Checkpoint, program: &TrainProgram) -> Result<(), RestoreError> {
    for (kept, input) in program.kept.iter().zip(kept_inputs(program)) {
        if kept.changes() {
            find(checkpoint, &kept.name, &input.shape)?;
        }
    }
    Ok(())
}

/// A kept tensor onto the mesh, each process its own part. It may be donated.
///
/// # Errors
/// A checkpoint that lacks it or is damaged; what the plugin answers.
pub fn array(
    checkpoint: &Checkpoint,
    name: &str,
    mesh: &DeviceMesh,
    shape: &Shape,
    sharding: &graph::Sharding,
) -> Result<Array, RestoreError> {
    let mut failure = None;
    let array = Array::fill_copied(mesh, shape, sharding, |ranges, bytes| {
        read(checkpoint, name, shape, ranges, bytes).map_err(|error| {
            let message = error.to_string();
            failure = Some(error);
            message
        })
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(array?),
    }
}

/// The part `ranges` of a tensor of this `shape`, row-major into `bytes`.
///
/// # Errors
/// As [`array`].
pub fn read(
    checkpoint: &Checkpoint,
    name: &str,
    shape: &Shape,
    ranges: &[Range<usize>],
    bytes: &mut [u8],
) -> Result<(), RestoreError> {
    match find(checkpoint, name, shape)? {
        Place::Same(entry) => checkpoint.read(&entry.name, ranges, bytes)?,
        Place::Apart => {
            let each = bytes.len() / ranges[0].len().max(1);
            for (layer, part) in ranges[0].clone().zip(bytes.chunks_mut(each.max(1))) {
                checkpoint.read(&of_layer(name, layer), &ranges[1..], part)?;
            }
        }
        Place::Within(entry, layer) => {
            let inside: Vec<Range<usize>> =
                std::iter::once(layer..layer + 1).chain(ranges.iter().cloned()).collect();
            checkpoint.read(&entry.name, &inside, bytes)?;
        }
    }
    Ok(())
}

fn find<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
    shape: &Shape,
) -> Result<Place<'a>, RestoreError> {
    let location = || checkpoint.location();
    let missing = || RestoreError::Missing { location: location(), name: name.to_string() };
    let sizes = |entry: &ArrayEntry| entry.axes.iter().map(|&(_, size)| size).collect::<Vec<_>>();
    let wanted = shape.sizes();
    let (place, entry, found) = if let Some(entry) = checkpoint.array(name) {
        (Place::Same(entry), entry, sizes(entry))
    } else if name.contains(&format!(".{EVERY_LAYER}.")) {
        let entry = checkpoint.array(&of_layer(name, 0)).ok_or_else(missing)?;
        let layers = (0..).take_while(|&l| checkpoint.array(&of_layer(name, l)).is_some()).count();
        let mut found = sizes(entry);
        found.insert(0, layers);
        (Place::Apart, entry, found)
    } else {
        let (stack, layer) = of_stack(name).ok_or_else(missing)?;
        let entry = checkpoint.array(&stack).ok_or_else(missing)?;
        let mut found = sizes(entry);
        let layers = if found.is_empty() { 0 } else { found.remove(0) };
        if layer >= layers {
            return Err(missing());
        }
        (Place::Within(entry, layer), entry, found)
    };
    if found == wanted && entry.dtype == shape.dtype {
        return Ok(place);
    }
    let text = |dtype: graph::DType, sizes: &[usize]| format!("{dtype} {sizes:?}");
    Err(RestoreError::Different {
        location: location(),
        name: name.to_string(),
        found: text(entry.dtype, &found),
        wanted: text(shape.dtype, &wanted),
    })
}

/// The name of one layer's tensor of a stack.
fn of_layer(stack: &str, layer: usize) -> String {
    stack.replace(&format!(".{EVERY_LAYER}."), &format!(".{layer}."))
}

/// The name of the stack that a layer's tensor would be in, and the layer's number.
fn of_stack(name: &str) -> Option<(String, usize)> {
    let (before, after) = name.split_once(".layers.")?;
    let (number, rest) = after.split_once('.')?;
    let layer = number.parse().ok()?;
    Some((format!("{before}.layers.{EVERY_LAYER}.{rest}"), layer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_and_its_stack_name_each_other() {
        let stack = "adam.m/model.layers.*.mlp.up_proj.weight";
        let layer = of_layer(stack, 12);
        assert_eq!(layer, "adam.m/model.layers.12.mlp.up_proj.weight");
        assert_eq!(of_stack(&layer), Some((stack.to_string(), 12)));
        assert_eq!(of_stack("model/model.norm.weight"), None);
    }
}
