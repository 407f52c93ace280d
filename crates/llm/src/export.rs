//! Writes models into folders that other programs load: Hugging Face's layout for whole models,
//! PEFT's for LoRA adapters.
//!
//! Where the numbers come from is the caller's matter ([`TensorSource`]): a checkpoint on disk, the
//! stacked arrays of a training run ([`Unstacked`]), or either with an adapter added ([`Merged`]).
//! They pass through in pieces, so memory does not grow with the model, and a folder appears whole
//! or not at all. Knows no device and no training.

mod adapter;
mod config_json;
mod error;
mod folder;
mod merged;
mod rope_factors;
mod unstacked;

use std::ops::Range;
use std::path::{Path, PathBuf};

use graph::{DType, Graph, Role, Shape, output};

pub use adapter::adapter;
pub use config_json::config_json;
pub use error::ExportError;
pub use merged::Merged;
pub use unstacked::{TensorPart, Unstacked, unstack};

use crate::config::ModelConfig;
use crate::files::Companions;
use crate::models::{Decoder, Layers, Sequence};
use crate::weights::{
    Checkpoint, FloatType, ReadError, TensorShape, write_checkpoint, write_whole,
};
use folder::NewFolder;

/// The size of a shard that Hugging Face's own tools begin a new one at: 5 GB.
pub const SHARD_BYTES_MAX: u64 = 5_000_000_000;

/// Where tensors come from, by their names in Hugging Face checkpoints.
pub trait TensorSource {
    /// Outermost axis first.
    ///
    /// # Errors
    /// When there is no such tensor.
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError>;

    /// Fills `out` with `rows` of a tensor (its outermost axis; a scalar is one row), row-major.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError>;
}

impl TensorSource for Checkpoint {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        Ok(self.info(name)?.shape.clone())
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        Ok(self.read_f32(name, Some(rows), out)?)
    }
}

impl<T: TensorSource + ?Sized> TensorSource for &mut T {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        (**self).shape(name)
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        (**self).read(name, rows, out)
    }
}

/// What is exported, besides its numbers.
#[derive(Debug, Clone, Copy)]
pub struct ExportModel<'a> {
    pub config: &'a ModelConfig,
    /// The files of the model that this one was made from; see
    /// [`ModelFiles::companions`](crate::ModelFiles::companions).
    pub companions: &'a Companions,
}

/// How it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The type that numbers are rounded to (nearest, ties to even).
    pub float_type: FloatType,
    /// Bytes of tensors in one file; a larger tensor has a file of its own.
    pub shard_bytes_max: u64,
    /// Replaces what an earlier export wrote.
    pub overwrite: bool,
}

impl ExportOptions {
    /// Shards of [`SHARD_BYTES_MAX`], and nothing is overwritten.
    pub fn new(float_type: FloatType) -> ExportOptions {
        ExportOptions { float_type, shard_bytes_max: SHARD_BYTES_MAX, overwrite: false }
    }
}

/// Bytes of tensors written so far, out of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    pub folder: PathBuf,
    /// The names of the files in it.
    pub files: Vec<String>,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// Writes the folder of a model that transformers (`from_pretrained`) and
/// [`ModelFiles`](crate::ModelFiles) load: `config.json`, weights in safetensors, and what
/// `companions` holds. The source must have every tensor that the config's model asks for; what else
/// it has is left out.
///
/// # Errors
/// When something is in the folder already, the source's tensors are not the model's, a number is
/// not finite, or something cannot be read or written. Nothing is left behind then.
pub fn hugging_face(
    folder: &Path,
    model: ExportModel<'_>,
    source: &mut dyn TensorSource,
    options: &ExportOptions,
    on_progress: &mut dyn FnMut(ExportProgress),
) -> Result<Exported, ExportError> {
    let tensors = tensors_of(model.config)?;
    check_tensors(&tensors, source)?;
    let texts = config_json::texts(model.config, options.float_type, model.companions)?;
    let new = NewFolder::begin(folder, options.overwrite)?;
    let mut files = vec![config_json::CONFIG_FILE.to_owned()];
    write_whole(&new.path().join(config_json::CONFIG_FILE), texts.config.as_bytes())?;
    if let Some(text) = &texts.generation {
        write_whole(&new.path().join(config_json::GENERATION_FILE), text.as_bytes())?;
        files.push(config_json::GENERATION_FILE.to_owned());
    }
    for (name, contents) in model.companions.iter() {
        if name != config_json::CONFIG_FILE && name != config_json::GENERATION_FILE {
            write_whole(&new.path().join(name), contents)?;
            files.push(name.to_owned());
        }
    }
    let totals = Totals::of(&tensors, options.float_type);
    let written = write_checkpoint(
        new.path(),
        &tensors,
        options.float_type,
        options.shard_bytes_max,
        &mut |name, rows, out| source.read(name, rows, out),
        &mut |done_bytes| on_progress(ExportProgress { done_bytes, total_bytes: totals.bytes }),
    )?;
    files.extend(written);
    let folder = new.finish(options.overwrite)?;
    Ok(Exported { folder, files, parameters: totals.parameters, bytes: totals.bytes })
}

struct Totals {
    parameters: u64,
    bytes: u64,
}

impl Totals {
    fn of(tensors: &[TensorShape], float_type: FloatType) -> Totals {
        let parameters = tensors.iter().map(|tensor| tensor.elements() as u64).sum();
        Totals { parameters, bytes: parameters * float_type.size_bytes() as u64 }
    }
}

/// The tensors of the model's checkpoint, found by tracing it once: the model's own code is the only
/// place that knows them.
///
/// # Errors
/// A model that does not fit together.
pub fn tensors_of(config: &ModelConfig) -> Result<Vec<TensorShape>, ExportError> {
    let graph = Graph::new();
    let decoder = Decoder::new(&graph, config, Layers::Unrolled, DType::F32, false);
    let input = |name: &str| {
        let shape = Shape::new(DType::S32, &[("batch", 1), ("seq", 1)]);
        graph.input(name, Role::Activation, shape)
    };
    let (tokens, positions) = (input("tokens"), input("positions"));
    let (states, _) = decoder.states(Sequence { tokens, positions, segments: None }, None);
    let logits = decoder.logits(states);
    graph.finish(vec![output("logits", logits)]).map_err(|source| ExportError::Trace { source })?;
    let parts = unstack(&decoder.weights.specs());
    Ok(parts.into_iter().map(|part| part.tensor).collect())
}

fn check_tensors(tensors: &[TensorShape], source: &dyn TensorSource) -> Result<(), ExportError> {
    for TensorShape { name, shape } in tensors {
        let name = || name.clone();
        let found = source.shape(&name());
        let found = found.map_err(|source| ExportError::Missing { name: name(), source })?;
        if found != *shape {
            let expected = shape.clone();
            return Err(ExportError::Shape { name: name(), expected, found });
        }
    }
    Ok(())
}
