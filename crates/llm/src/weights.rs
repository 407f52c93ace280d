//! The tensors of a checkpoint on disk, read by ranges of rows and converted on the way into the
//! caller's memory; and safetensors files written.
//!
//! A [`Checkpoint`] is a table of names and byte ranges over open files. Names are Hugging Face's
//! (`model.layers.0.self_attn.q_proj.weight`), whatever the file calls them, and shapes are
//! outermost first. Files are read with positioned reads instead of a memory map: a file that
//! shrinks under us is then an error, not a signal, and what was read is not counted as our memory.
//! This module knows no model, no graph and no device.

mod blocks;
mod codes;
mod encoding;
mod error;
mod float_type;
mod gguf_names;
mod levels;
mod packing;
mod panels;
mod quantize;
mod read;
mod safetensors;
mod sharded_index;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use encoding::Encoding;
pub use error::WeightsError;
pub use float_type::FloatType;
pub use gguf_names::hugging_face_name;
pub(crate) use packing::LANES;
pub use packing::{Packing, PanelPart, Quantization};
pub use sharded_index::parse as parse_sharded_index;
pub use write::{ReadError, ReadRows, TensorShape, WriteError, write_checkpoint, write_file};
pub(crate) use write::{advice, write_whole};

use crate::gguf::{Gguf, GgufError};

/// The file name of an unsharded safetensors checkpoint.
pub const SAFETENSORS_FILE: &str = "model.safetensors";
/// The file name of the table of a sharded one.
pub const SAFETENSORS_INDEX_FILE: &str = "model.safetensors.index.json";

/// Open files and the tensors in them. A clone is cheap: it shares both.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    files: Arc<[TensorFile]>,
    tensors: Arc<BTreeMap<String, TensorInfo>>,
    threads: NonZeroUsize,
    non_finite_allowed: bool,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    file: File,
}

/// Where a tensor lies and how it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub encoding: Encoding,
    /// Outermost first. A scalar has no axes.
    pub shape: Vec<usize>,
    pub row_order: RowOrder,
    /// From the start of its file.
    pub offset: u64,
    pub size_bytes: u64,
    file_index: usize,
}

/// The order of a tensor's rows in the file, relative to the order in which [`Checkpoint::read`]
/// returns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    Natural,
    /// In every head of `head_dim` rows, the two halves that rotary embedding pairs up are
    /// interleaved: file row `2 * i + half` is row `half * head_dim / 2 + i`. llama.cpp stores `q`
    /// and `k` of the Llama architecture so.
    InterleavedHeads {
        head_dim: usize,
    },
}

impl TensorInfo {
    /// Numbers in the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows that a range can select: the size of the outermost axis, 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Numbers in one row: 1 for a vector and for a scalar.
    pub fn row_elements(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

impl Checkpoint {
    /// Opens the safetensors checkpoint in `folder`: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` lists. Reads headers only.
    ///
    /// # Errors
    /// When neither exists, or a file is truncated, corrupt, or has tensors of an unsupported type.
    pub fn open_folder(folder: &Path) -> Result<Checkpoint, WeightsError> {
        let single = folder.join(SAFETENSORS_FILE);
        let index = folder.join(SAFETENSORS_INDEX_FILE);
        let (files, tensors) = if single.is_file() {
            safetensors::open_single(&single)?
        } else if index.is_file() {
            sharded_index::open(folder, &index)?
        } else {
            return Err(WeightsError::no_safetensors(folder));
        };
        Ok(Checkpoint::new(files, safetensors::with_model_prefix(tensors)))
    }

    /// Opens one safetensors file, whatever its name; names of tensors stay as they are.
    ///
    /// # Errors
    /// When it is truncated, corrupt, or has tensors of an unsupported type.
    pub fn open_safetensors(path: &Path) -> Result<Checkpoint, WeightsError> {
        let (files, tensors) = safetensors::open_single(path)?;
        Ok(Checkpoint::new(files, tensors))
    }

    /// Opens a `.gguf` file and parses its head.
    ///
    /// # Errors
    /// As [`Gguf::parse`], and as [`Checkpoint::from_gguf`].
    pub fn open_gguf(path: &Path) -> Result<(Checkpoint, Gguf), WeightsError> {
        let unreadable = |source| WeightsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let gguf = Gguf::parse(BufReader::with_capacity(1 << 18, &file), file_bytes)
            .map_err(|source| WeightsError::Gguf { path: path.to_owned(), source })?;
        let checkpoint = Checkpoint::from_gguf(path, file, &gguf)?;
        Ok((checkpoint, gguf))
    }

    /// The tensors of a parsed GGUF `file`, renamed to Hugging Face's names, rows in Hugging Face's
    /// order.
    ///
    /// # Errors
    /// When the metadata contradicts the shapes of the tensors whose rows must be reordered.
    pub fn from_gguf(path: &Path, file: File, gguf: &Gguf) -> Result<Checkpoint, WeightsError> {
        let with_path = |source: GgufError| WeightsError::Gguf { path: path.to_owned(), source };
        let mut tensors = BTreeMap::new();
        for tensor in &gguf.tensors {
            let name = hugging_face_name(&tensor.name);
            let row_order = gguf_names::row_order(tensor, &gguf.metadata).map_err(with_path)?;
            if let RowOrder::InterleavedHeads { head_dim } = row_order
                && (head_dim == 0 || head_dim % 2 != 0 || tensor.shape[0] % head_dim != 0)
            {
                return Err(WeightsError::HeadRows {
                    name,
                    path: path.to_owned(),
                    rows: tensor.shape[0],
                    head_dim,
                });
            }
            let info = TensorInfo {
                encoding: tensor.encoding,
                shape: tensor.shape.clone(),
                row_order,
                offset: tensor.offset,
                size_bytes: tensor.size_bytes,
                file_index: 0,
            };
            if tensors.insert(name.clone(), info).is_some() {
                return Err(WeightsError::Duplicate { name, path: path.to_owned() });
            }
        }
        Ok(Checkpoint::new(vec![TensorFile { path: path.to_owned(), file }], tensors))
    }

    fn new(files: Vec<TensorFile>, tensors: BTreeMap<String, TensorInfo>) -> Checkpoint {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Checkpoint {
            files: files.into(),
            tensors: Arc::new(tensors),
            threads,
            non_finite_allowed: false,
        }
    }

    /// Threads that one [`read`](Checkpoint::read) may use; the number of cores unless told.
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Checkpoint {
        self.threads = threads;
        self
    }

    /// Lets NaN and infinite weights pass, for looking at a broken checkpoint. They are errors
    /// otherwise.
    pub fn with_non_finite_allowed(mut self, allowed: bool) -> Checkpoint {
        self.non_finite_allowed = allowed;
        self
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// # Errors
    /// When the checkpoint has no such tensor; the message lists the nearest name it has.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors.get(name).ok_or_else(|| WeightsError::Missing {
            name: name.to_owned(),
            path: self.location(),
            nearest: error::nearest(name, self.names()),
        })
    }

    /// As [`info`](Checkpoint::info), and checks the shape.
    ///
    /// # Errors
    /// When the tensor is missing or of another shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, WeightsError> {
        let info = self.info(name)?;
        if info.shape == shape {
            return Ok(info);
        }
        Err(WeightsError::Shape {
            name: name.to_owned(),
            path: self.path_of(info).to_owned(),
            expected: shape.to_vec(),
            found: info.shape.clone(),
        })
    }

    /// The file that holds a tensor.
    pub fn path_of(&self, info: &TensorInfo) -> &Path {
        self.files.get(info.file_index).map_or(Path::new(""), |file| &file.path)
    }

    /// Bytes of all tensors as they are stored.
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|info| info.size_bytes).sum()
    }

    /// The file, or the folder of several.
    fn location(&self) -> PathBuf {
        match &*self.files {
            [one] => one.path.clone(),
            several => several
                .first()
                .and_then(|file| file.path.parent())
                .map(Path::to_owned)
                .unwrap_or_default(),
        }
    }
}
