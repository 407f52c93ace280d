//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

use super::{Encoding, FloatType, Packing};
use crate::gguf::GgufError;

/// Why a checkpoint could not be opened or a tensor not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{} could not be opened", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not usable", .path.display())]
    Gguf {
        path: PathBuf,
        #[source]
        source: GgufError,
    },
    #[error(
        "{} has neither `model.safetensors` nor `model.safetensors.index.json`: point at a folder \
         that has one of \
         them, or at a `.gguf` file", .folder.display()
    )]
    NoWeights { folder: PathBuf },
    #[error(
        "{} holds its weights as `{example}`, a pickled format that can run code when it is read: \
         convert them to \
         safetensors (`save_pretrained` of transformers does)", .folder.display()
    )]
    Pickled { folder: PathBuf, example: String },
    #[error("{} is not a valid safetensors file: {reason}; fetch it again", .path.display())]
    Safetensors { path: PathBuf, reason: String },
    #[error("{} is not a valid table of shards: {reason}; fetch it again", .path.display())]
    Index { path: PathBuf, reason: String },
    #[error(
        "shard `{file}` named in {} is missing: fetch the remaining files of the checkpoint",
        .path.display()
    )]
    MissingShard { path: PathBuf, file: String },
    #[error(
        "tensor `{name}` in {} is stored as {dtype}, only F32, F16 and BF16 are supported: convert \
         the checkpoint",
        .path.display()
    )]
    DataType { name: String, path: PathBuf, dtype: String },
    #[error(
        "tensor `{name}` appears twice in {}: the checkpoint is corrupt, fetch it again",
        .path.display()
    )]
    Duplicate { name: String, path: PathBuf },
    #[error(
        "tensor `{name}` is missing in {}{}: the checkpoint does not fit its config",
        .path.display(),
        .nearest.as_ref().map_or_else(String::new, |name| format!(" (nearest: `{name}`)"))
    )]
    Missing { name: String, path: PathBuf, nearest: Option<String> },
    #[error(
        "tensor `{name}` has shape {found:?} in {}, expected {expected:?}: the checkpoint does not \
         fit its config",
        .path.display()
    )]
    Shape { name: String, path: PathBuf, expected: Vec<usize>, found: Vec<usize> },
    #[error(
        "tensor `{name}` in {} has {rows} rows, which are no whole heads of {head_dim}: the file \
         contradicts itself",
        .path.display()
    )]
    HeadRows { name: String, path: PathBuf, rows: usize, head_dim: usize },
    #[error(
        "rows {start}..{end} of tensor `{name}` were asked for, it has {rows}: the request is out \
         of range"
    )]
    Rows { name: String, start: usize, end: usize, rows: usize },
    #[error(
        "row {row} of tensor `{name}` starts inside a block of {encoding}: read the whole tensor \
         instead"
    )]
    BlockBoundary { name: String, row: usize, encoding: Encoding },
    #[error(
        "tensor `{name}` needs room for {needed_bytes} bytes, the destination has {given_bytes}"
    )]
    Destination { name: String, needed_bytes: usize, given_bytes: usize },
    #[error("tensor `{name}` could not be read from {}", .path.display())]
    Read {
        name: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "tensor `{name}` in {} holds {value} at element {element}: the checkpoint is broken, use \
         another one",
        .path.display()
    )]
    NonFinite { name: String, path: PathBuf, element: usize, value: f32 },
    #[error(
        "tensor `{name}` in {} holds {value} at element {element}, which is beyond the range of \
         {float_type}: \
         load it as bf16 or f32", .path.display()
    )]
    OutOfRange { name: String, path: PathBuf, element: usize, value: f32, float_type: FloatType },
    #[error("tensor `{name}` in {} cannot be held as {packing}: {reason}", .path.display())]
    Packing { name: String, path: PathBuf, packing: Packing, reason: String },
    #[error(
        "the numbers of tensor `{name}` in {} from element {element} on need a scale or an offset of \
         {value}, which is beyond the range of {float_type}: hold the tensor in a wider type",
        .path.display()
    )]
    Scale { name: String, path: PathBuf, element: usize, value: f32, float_type: FloatType },
    #[error(
        "a thread that read tensor `{name}` stopped unexpectedly: this is a defect, please report \
         it"
    )]
    ThreadStopped { name: String },
}

impl WeightsError {
    /// Says why a folder has no safetensors, if its contents tell.
    pub(super) fn no_safetensors(folder: &Path) -> WeightsError {
        let pickled = std::fs::read_dir(folder).into_iter().flatten().flatten().find_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let weights = name.starts_with("pytorch_model") || name.starts_with("consolidated");
            let ends =
                [".bin", ".pt", ".pth", ".bin.index.json"].iter().any(|end| name.ends_with(end));
            (ends && (weights || name.ends_with(".bin"))).then_some(name)
        });
        match pickled {
            Some(example) => WeightsError::Pickled { folder: folder.to_owned(), example },
            None => WeightsError::NoWeights { folder: folder.to_owned() },
        }
    }
}

/// The known name that shares the most with `name` from its end, where checkpoint paths differ
/// least.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let shared = |other: &str| {
        let parts = name.rsplit('.').zip(other.rsplit('.'));
        parts.take_while(|(left, right)| left == right).count()
    };
    let best = known.map(|other| (shared(other), other)).max_by_key(|(count, _)| *count)?;
    (best.0 >= 2).then(|| best.1.to_owned())
}
