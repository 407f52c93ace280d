//! Writes safetensors files row by row, so that a few megabytes of a model are in memory at a time.
//! (The `safetensors` crate takes a file's tensors all at once.) Knows no model: names, shapes and
//! numbers are the caller's.
//!
//! Format: <https://huggingface.co/docs/safetensors>.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::float_type::{all_finite, position_of_non_finite_bits, round_to_16_bits};
use super::{FloatType, SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE};

/// Numbers asked for at a time: 16 MiB as `f32`, enough for several reading threads.
const CHUNK_ELEMENTS: usize = 4 << 20;
/// Loaders map files into memory and want numbers at aligned addresses.
const HEADER_ALIGNMENT: usize = 8;

/// Why a source could not give a tensor's numbers.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

/// Fills memory with rows of a tensor, as `f32`, row-major. A vector's rows are its elements; a
/// scalar is one row.
pub type ReadRows<'a> = dyn FnMut(&str, Range<usize>, &mut [f32]) -> Result<(), ReadError> + 'a;

/// A tensor's name and shape, outermost axis first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    pub name: String,
    pub shape: Vec<usize>,
}

impl TensorShape {
    pub fn new(name: impl Into<String>, shape: &[usize]) -> TensorShape {
        TensorShape { name: name.into(), shape: shape.to_vec() }
    }

    /// Numbers in the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Why a checkpoint could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{} could not be written{}", .path.display(), advice(.source))]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("tensor `{name}` could not be read from where it is to be copied")]
    Read {
        name: String,
        #[source]
        source: ReadError,
    },
    #[error(
        "tensor `{name}` holds {value} at element {element}: the model is broken, go back to an \
         earlier checkpoint"
    )]
    NonFinite { name: String, element: usize, value: f32 },
    #[error(
        "tensor `{name}` holds {value} at element {element}, which is beyond the range of \
         {float_type}: write bf16 or f32"
    )]
    OutOfRange { name: String, element: usize, value: f32, float_type: FloatType },
}

/// What a user can do about a failed write, where that is known.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space or choose another disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ": choose a folder that you may write to"
        }
        _ => "",
    }
}

/// Writes `model.safetensors` into `folder`, or shards of at most `shard_bytes_max` bytes of tensors
/// with their table. A tensor that is larger has a shard of its own. `on_progress` hears of the bytes
/// written so far. Returns the names of the files.
///
/// # Errors
/// When a file cannot be written, a tensor cannot be read, or a number is not finite, before or after
/// the conversion.
pub fn write_checkpoint(
    folder: &Path,
    tensors: &[TensorShape],
    float_type: FloatType,
    shard_bytes_max: u64,
    read: &mut ReadRows<'_>,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Vec<String>, WriteError> {
    let shards = shards(tensors, float_type, shard_bytes_max);
    let count = shards.len();
    let mut files = Vec::new();
    let mut weight_map = Vec::new();
    let mut done_bytes = 0;
    for (shard, number) in shards.into_iter().zip(1..) {
        let file = match count {
            1 => SAFETENSORS_FILE.to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        let mut progress = |bytes: u64| on_progress(done_bytes + bytes);
        write_file(&folder.join(&file), shard, float_type, read, &mut progress)?;
        done_bytes += bytes_of(shard, float_type);
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.as_str(), file.clone())));
        files.push(file);
    }
    if count > 1 {
        weight_map.sort();
        let weight_map: Map<String, Value> =
            weight_map.into_iter().map(|(name, file)| (name.to_owned(), file.into())).collect();
        let index = json!({"metadata": {"total_size": done_bytes}, "weight_map": weight_map});
        write_whole(&folder.join(SAFETENSORS_INDEX_FILE), format!("{index:#}\n").as_bytes())?;
        files.push(SAFETENSORS_INDEX_FILE.to_owned());
    }
    Ok(files)
}

/// Writes one safetensors file with these tensors, in this order. `on_progress` hears of the bytes of
/// tensors written so far.
///
/// # Errors
/// As [`write_checkpoint`].
pub fn write_file(
    path: &Path,
    tensors: &[TensorShape],
    float_type: FloatType,
    read: &mut ReadRows<'_>,
    on_progress: &mut dyn FnMut(u64),
) -> Result<(), WriteError> {
    let failed = |source| WriteError::File { path: path.to_owned(), source };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(&header(tensors, float_type)).map_err(failed)?;
    let mut numbers = Vec::new();
    let mut done_bytes = 0;
    for tensor in tensors {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let row_elements: usize = tensor.shape.iter().skip(1).product();
        let step = (CHUNK_ELEMENTS / row_elements.max(1)).max(1);
        for start in (0..rows).step_by(step) {
            let wanted = start..rows.min(start + step);
            numbers.resize(wanted.len() * row_elements, 0.0);
            read(&tensor.name, wanted, &mut numbers)
                .map_err(|source| WriteError::Read { name: tensor.name.clone(), source })?;
            let bytes = encode(&tensor.name, start * row_elements, &numbers, float_type)?;
            file.write_all(&bytes).map_err(failed)?;
            done_bytes += bytes.len() as u64;
            on_progress(done_bytes);
        }
    }
    // Only now does a full disk behind a network say so.
    file.sync_all().map_err(failed)
}

/// Writes a small file and waits until it is on the disk.
pub(crate) fn write_whole(path: &Path, contents: &[u8]) -> Result<(), WriteError> {
    let failed = |source| WriteError::File { path: path.to_owned(), source };
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(contents).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn bytes_of(tensors: &[TensorShape], float_type: FloatType) -> u64 {
    tensors.iter().map(|tensor| (tensor.elements() * float_type.size_bytes()) as u64).sum()
}

/// Consecutive tensors, as many as fit together.
fn shards(
    tensors: &[TensorShape],
    float_type: FloatType,
    shard_bytes_max: u64,
) -> Vec<&[TensorShape]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let own = bytes_of(std::slice::from_ref(tensor), float_type);
        if index > start && bytes + own > shard_bytes_max {
            shards.push(&tensors[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += own;
    }
    shards.push(&tensors[start..]);
    shards
}

/// The header's length and the header, which says where each tensor lies behind it.
fn header(tensors: &[TensorShape], float_type: FloatType) -> Vec<u8> {
    let mut entries = Map::new();
    // transformers refuses files that do not say which framework's layout they have.
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.elements() * float_type.size_bytes();
        let dtype = float_type.encoding().name();
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}

/// The numbers as the file stores them: little-endian. `first` is the place of the first one in its
/// tensor.
fn encode(
    name: &str,
    first: usize,
    numbers: &[f32],
    float_type: FloatType,
) -> Result<Vec<u8>, WriteError> {
    if !all_finite(numbers) {
        let index = numbers.iter().position(|value| !value.is_finite()).unwrap_or_default();
        let (name, element, value) = (name.to_owned(), first + index, numbers[index]);
        return Err(WriteError::NonFinite { name, element, value });
    }
    let mut bytes = vec![0; numbers.len() * float_type.size_bytes()];
    if float_type == FloatType::F32 {
        for (word, value) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *word = value.to_le_bytes();
        }
        return Ok(bytes);
    }
    let mut bits = vec![0; numbers.len()];
    round_to_16_bits(float_type, numbers, &mut bits);
    if let Some(index) = position_of_non_finite_bits(float_type, &bits) {
        let (name, element, value) = (name.to_owned(), first + index, numbers[index]);
        return Err(WriteError::OutOfRange { name, element, value, float_type });
    }
    for (word, value) in bytes.as_chunks_mut().0.iter_mut().zip(&bits) {
        *word = value.to_le_bytes();
    }
    Ok(bytes)
}
