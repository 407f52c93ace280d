//! What training keeps on the devices: weights, the optimizer's memory, and how they get there.

use std::ops::Range;
use std::sync::Arc;

use graph::{DType, Input};
use llm::Checkpoint;
use llm::engine::{Held, read_shard};
use llm::models::ParameterSpec;
use runtime::{Array, DeviceMesh};

use crate::checkpoint::Checkpoint as SavedState;
use crate::init;
use crate::restore::{self, RestoreError};
use crate::step::{Kept, TrainProgram};

/// Where the model's weights come from at the start of a run; adapters are always fresh.
#[derive(Clone)]
pub enum Start {
    /// Drawn by chance.
    Fresh { seed: u64 },
    /// From a model's files.
    Files { checkpoint: Arc<Checkpoint>, seed: u64 },
}

/// Why weights could not be brought to the devices.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Weights(#[from] llm::weights::WeightsError),
    #[error(
        "`{name}` would be held in {dtype}, but weights are held in f32, bf16 or f16, and those at rest also in s8"
    )]
    Type { name: String, dtype: DType },
}

/// Where everything that is kept comes from.
pub struct Source<'a> {
    pub start: &'a Start,
    /// An earlier state of the run, for everything that steps change.
    pub checkpoint: Option<&'a SavedState>,
    /// Layers of the model.
    pub layers: usize,
}

/// The arrays that a program's kept tensors begin with, in the order of its arguments. `on_tensor`
/// hears of bytes done and in all.
///
/// # Errors
/// Files that lack a tensor or are damaged, memory that does not suffice.
pub fn load(
    program: &TrainProgram,
    mesh: &DeviceMesh,
    source: &Source<'_>,
    on_tensor: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Array>, StateError> {
    let inputs = kept_inputs(program);
    let total = inputs.iter().map(|input| input.shape.bytes() as u64).sum();
    let mut done = 0;
    let mut arrays = Vec::with_capacity(inputs.len());
    for (kept, input) in program.kept.iter().zip(inputs) {
        let array = match (&kept.kept, source.checkpoint) {
            (_, Some(saved)) if kept.changes() => {
                restore::array(saved, &kept.name, mesh, &input.shape, &input.sharding)?
            }
            (Kept::State, _) => Array::zeros(mesh, &input.shape, &input.sharding)?,
            (Kept::Weight { spec, .. }, _) => weight(spec, input, mesh, source, kept.changes())?,
        };
        done += input.shape.bytes() as u64;
        on_tensor(done, total);
        arrays.push(array);
    }
    Ok(arrays)
}

/// The program's arguments that are kept: the last ones.
pub fn kept_inputs(program: &TrainProgram) -> &[Input] {
    let inputs = &program.program.inputs;
    &inputs[inputs.len() - program.kept.len()..]
}

fn weight(
    spec: &ParameterSpec,
    input: &Input,
    mesh: &DeviceMesh,
    source: &Source<'_>,
    changes: bool,
) -> Result<Array, StateError> {
    let (shape, sharding) = (&input.shape, &input.sharding);
    let of_files = match source.start {
        Start::Files { checkpoint, .. } if !spec.is_adapter() => Some(checkpoint),
        _ => None,
    };
    if let Some(checkpoint) = of_files {
        let unknown = || StateError::Type { name: spec.name.clone(), dtype: shape.dtype };
        let held = Held::of(spec, shape.dtype).ok_or_else(unknown)?;
        // Kept aside, so that the user reads which tensor and file it is, and nothing around it.
        let mut unreadable = None;
        let fill = |ranges: &[Range<usize>], bytes: &mut [u8]| {
            read_shard(checkpoint, spec, shape, held, ranges, bytes).map_err(|error| {
                let message = error.to_string();
                unreadable = Some(error);
                message
            })
        };
        // What steps replace must be the plugin's own; what stays may be used where it is.
        let array = match changes {
            true => Array::fill_copied(mesh, shape, sharding, fill),
            false => Array::fill(mesh, shape, sharding, fill),
        };
        return match unreadable {
            Some(error) => Err(error.into()),
            None => Ok(array?),
        };
    }
    let (Start::Fresh { seed } | Start::Files { seed, .. }) = source.start;
    if shape.dtype != DType::F32 {
        return Err(StateError::Type { name: spec.name.clone(), dtype: shape.dtype });
    }
    Ok(Array::fill_copied(mesh, shape, sharding, |ranges, bytes| {
        init::fill(spec, shape, source.layers, *seed, ranges, bytes);
        Ok::<(), std::convert::Infallible>(())
    })?)
}
