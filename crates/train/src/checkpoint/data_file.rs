//! Writes one process's file: a safetensors file whose tensors are chunks, so that other programs can
//! look into it. Format: <https://huggingface.co/docs/safetensors>.

use graph::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::checksum::Checksum;
use super::error::CheckpointError;
use super::manifest::DataFile;
use super::snapshot::{HostArray, HostPart};
use super::store::Store;

/// The header's length stands before it.
const LENGTH_BYTES: usize = 8;

/// Readers may map the file and want numbers to lie at multiples of their size.
const ALIGNMENT_BYTES: usize = 8;

/// What a process wrote.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Written {
    /// None if none of the chunks are this process's.
    pub file: Option<DataFile>,
    pub chunks: Vec<WrittenChunk>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct WrittenChunk {
    /// Place in the list of arrays, which is the same in every process.
    pub array: usize,
    pub start: Vec<usize>,
    pub offset: u64,
    pub checksum: Checksum,
}

/// Writes the parts to `folder/name` and gives their memory back one by one.
///
/// # Errors
/// [`CheckpointError::Array`] for parts that are not as long as they should be, and what the store
/// answers. Then there is no file.
pub(super) fn write(
    store: &dyn Store,
    folder: &str,
    name: &str,
    arrays: Vec<HostArray>,
) -> Result<Written, CheckpointError> {
    let mut parts: Vec<(usize, DType, String, HostPart)> = Vec::new();
    for (place, array) in arrays.into_iter().enumerate() {
        let bytes = array.extent.iter().product::<usize>() * array.shape.dtype.bytes();
        for part in array.parts {
            if part.bytes.len() != bytes {
                let reason =
                    format!("a part of it has {} bytes instead of {bytes}", part.bytes.len());
                return Err(CheckpointError::Array { name: array.name, reason });
            }
            parts.push((place, array.shape.dtype, array.name.clone(), part));
        }
    }
    if parts.is_empty() {
        return Ok(Written { file: None, chunks: Vec::new() });
    }
    // Wide elements first: then each lies at a multiple of its size.
    parts.sort_by_key(|(_, dtype, _, _)| std::cmp::Reverse(dtype.bytes()));

    let header = header(&parts);
    let data_bytes: u64 = parts.iter().map(|(_, _, _, part)| part.bytes.len() as u64).sum();
    let path = format!("{folder}/{name}");
    let mut upload = store.create(&path, header.len() as u64 + data_bytes)?;
    upload.write(&header)?;
    let mut offset = header.len() as u64;
    let mut chunks = Vec::with_capacity(parts.len());
    for (array, _, _, part) in parts {
        upload.write(&part.bytes)?;
        let start = part.ranges.iter().map(|range| range.start).collect();
        chunks.push(WrittenChunk { array, start, offset, checksum: Checksum::of(&part.bytes) });
        offset += part.bytes.len() as u64;
    }
    upload.finish()?;
    let file = DataFile {
        name: name.to_string(),
        bytes: offset,
        header_bytes: header.len() as u64,
        header_checksum: Checksum::of(&header),
    };
    Ok(Written { file: Some(file), chunks })
}

/// Length and table of contents. A chunk is called after its array and its first element, as in
/// `model/model.norm.weight@96`.
fn header(parts: &[(usize, DType, String, HostPart)]) -> Vec<u8> {
    let mut table = Map::new();
    let about = json!({"about": "chunks of a Fungible checkpoint; manifest.json says more"});
    table.insert("__metadata__".to_string(), about);
    let mut offset = 0;
    for (_, dtype, name, part) in parts {
        let start: Vec<String> = part.ranges.iter().map(|range| range.start.to_string()).collect();
        let shape: Vec<usize> = part.ranges.iter().map(ExactSizeIterator::len).collect();
        let end = offset + part.bytes.len();
        let entry =
            json!({"dtype": dtype_name(*dtype), "shape": shape, "data_offsets": [offset, end]});
        table.insert(format!("{name}@{}", start.join(",")), entry);
        offset = end;
    }
    let mut text = Value::Object(table).to_string();
    let whole = (LENGTH_BYTES + text.len()).next_multiple_of(ALIGNMENT_BYTES);
    while LENGTH_BYTES + text.len() < whole {
        text.push(' ');
    }
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "BOOL",
        DType::S8 => "I8",
        DType::S16 => "I16",
        DType::S32 => "I32",
        DType::S64 => "I64",
        DType::U8 => "U8",
        DType::U16 => "U16",
        DType::U32 => "U32",
        DType::U64 => "U64",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        DType::F32 => "F32",
        DType::F64 => "F64",
    }
}

#[cfg(test)]
mod tests {
    use graph::{Role, Shape};
    use safetensors::{Dtype, SafeTensors};

    use super::super::store::FolderStore;
    use super::*;

    #[test]
    fn others_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path());
        let shape =
            |dtype, sizes: [usize; 2]| Shape::new(dtype, &[("mlp", sizes[0]), ("embed", sizes[1])]);
        let narrow = shape(DType::Bf16, [3, 1]);
        let wide = shape(DType::F32, [4, 2]);
        let half = |start: usize, value: u8| HostPart {
            ranges: vec![start..start + 2, 0..2],
            bytes: vec![value; 16],
        };
        let halves = HostArray {
            extent: vec![2, 2],
            parts: vec![half(0, 1), half(2, 2)],
            ..HostArray::whole("wide", Role::Parameter, &wide, Vec::new())
        };
        let narrow = HostArray::whole("narrow", Role::Parameter, &narrow, vec![9; 6]);
        let written = write(&store, "step", "data", vec![narrow, halves]).unwrap();
        let bytes = std::fs::read(folder.path().join("step/data")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("wide@2,0").unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape(), tensor.data()),
            (Dtype::F32, &[2, 2][..], &[2; 16][..])
        );
        let tensor = tensors.tensor("narrow@0,0").unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape(), tensor.data()),
            (Dtype::BF16, &[3, 1][..], &[9; 6][..])
        );
        // The manifest's offsets say the same.
        for chunk in &written.chunks {
            let length = if chunk.array == 0 { 6 } else { 16 };
            let start = chunk.offset as usize;
            assert_eq!(Checksum::of(&bytes[start..start + length]), chunk.checksum);
        }
        assert_eq!(written.file.unwrap().bytes, bytes.len() as u64);
    }

    #[test]
    fn a_part_of_the_wrong_length_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::new(folder.path());
        let shape = Shape::new(DType::F32, &[("embed", 4)]);
        let array = HostArray::whole("w", Role::Parameter, &shape, vec![0; 15]);
        let error = write(&store, "step", "data", vec![array]).unwrap_err().to_string();
        assert_eq!(error, "`w` cannot be saved: a part of it has 15 bytes instead of 16");
        assert!(store.files("step").unwrap().is_empty());
    }
}
