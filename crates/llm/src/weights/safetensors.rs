//! Opens safetensors files: reads the header alone and checks it against the file's length.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header's own rules (no holes, no overlap,
//! sizes that match shapes) are checked by the `safetensors` crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;

use super::{Encoding, RowOrder, TensorFile, TensorInfo, WeightsError};

/// The `safetensors` crate's own limit; headers of the largest checkpoints stay below 10 MB.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The header's length stands before it.
const LENGTH_BYTES: u64 = 8;

pub(super) type Tensors = BTreeMap<String, TensorInfo>;

pub(super) fn open_single(path: &Path) -> Result<(Vec<TensorFile>, Tensors), WeightsError> {
    let (file, tensors) = open(path, 0)?;
    Ok((vec![file], tensors))
}

/// Opens one file, which becomes number `file_index` of the checkpoint's files.
pub(super) fn open(path: &Path, file_index: usize) -> Result<(TensorFile, Tensors), WeightsError> {
    let unreadable = |source| WeightsError::Open { path: path.to_owned(), source };
    let invalid = |reason: String| WeightsError::Safetensors { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(unreadable)?;
    let file_bytes = file.metadata().map_err(unreadable)?.len();

    if file_bytes < LENGTH_BYTES {
        return Err(invalid(format!("it has {file_bytes} bytes, too few for a header")));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(unreadable)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > HEADER_BYTES_MAX || header_bytes > file_bytes - LENGTH_BYTES {
        return Err(invalid(format!(
            "its header claims {header_bytes} bytes, the file has {file_bytes}"
        )));
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact(&mut header).map_err(unreadable)?;

    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| invalid(format!("its header: {error}")))?;
    let data_start = LENGTH_BYTES + header_bytes;
    let data_bytes = metadata.data_len() as u64;
    if data_start.checked_add(data_bytes) != Some(file_bytes) {
        return Err(invalid(format!(
            "its header describes {data_bytes} bytes of tensors, the file has {}",
            file_bytes - data_start
        )));
    }

    let mut tensors = BTreeMap::new();
    for (name, tensor) in metadata.tensors() {
        let encoding = match tensor.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            other => {
                return Err(WeightsError::DataType {
                    name,
                    path: path.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        };
        if tensor.shape.contains(&0) {
            return Err(invalid(format!("tensor `{name}` has the empty shape {:?}", tensor.shape)));
        }
        let (start, end) = tensor.data_offsets;
        let info = TensorInfo {
            encoding,
            shape: tensor.shape.clone(),
            row_order: RowOrder::Natural,
            offset: data_start + start as u64,
            size_bytes: (end - start) as u64,
            file_index,
        };
        tensors.insert(name, info);
    }
    Ok((TensorFile { path: path.to_owned(), file }, tensors))
}

/// Checkpoints saved from the bare model, without its language-model head, lack the `model.` before
/// every name.
pub(super) fn with_model_prefix(tensors: Tensors) -> Tensors {
    if tensors.keys().any(|name| name.starts_with("model.")) {
        return tensors;
    }
    let rename = |name: String| {
        let inside =
            ["embed_tokens.", "layers.", "norm."].iter().any(|start| name.starts_with(start));
        if inside { format!("model.{name}") } else { name }
    };
    tensors.into_iter().map(|(name, info)| (rename(name), info)).collect()
}
