//! The GGUF container: metadata and a table of tensors at the head of a file, the tensors' bytes
//! behind it.
//!
//! The file is untrusted. Every count and length is checked against what is left of the file, and
//! against a limit, before anything is allocated. This module knows the container only: what the
//! keys and tensors mean is the business of [`crate::config`], [`crate::tokenizer`] and
//! [`crate::weights`].
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little
//! endian.

mod error;
mod reader;
mod value;

use std::collections::{HashMap, HashSet};
use std::io::Read;

pub use error::GgufError;
pub use value::{Array, Metadata, Numbers, Value};

use crate::weights::Encoding;
use reader::Reader;

/// A file without `general.alignment` aligns tensors to this many bytes.
const DEFAULT_ALIGNMENT_BYTES: u64 = 32;
/// Far above any real file's counts; they bound what a hostile header can make us allocate.
const METADATA_COUNT_MAX: u64 = 1 << 16;
const TENSOR_COUNT_MAX: u64 = 1 << 20;
const DIMENSION_COUNT_MAX: u32 = 4;
const ALIGNMENT_BYTES_MAX: u64 = 1 << 20;

/// The parsed head of a GGUF file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// Format version, 2 or 3.
    pub version: u32,
    pub metadata: Metadata,
    pub tensors: Vec<GgufTensor>,
}

/// One entry of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// The name in the file, for example `blk.0.attn_q.weight`.
    pub name: String,
    pub encoding: Encoding,
    /// Outermost first, the reverse of the file's order.
    pub shape: Vec<usize>,
    /// From the start of the file.
    pub offset: u64,
    pub size_bytes: u64,
}

impl Gguf {
    /// Parses the head of a GGUF file of `file_bytes` bytes in total, reading `source` from its
    /// start.
    ///
    /// # Errors
    /// When `source` cannot be read, is no GGUF file of a supported version, is truncated, or
    /// contradicts itself.
    pub fn parse(source: impl Read, file_bytes: u64) -> Result<Gguf, GgufError> {
        let mut reader = Reader::new(source, file_bytes);
        let magic = reader.u32("the magic number")?;
        if magic != u32::from_le_bytes(*b"GGUF") {
            return Err(GgufError::NotGguf { found: magic.to_le_bytes() });
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version {
                version,
                big_endian: (2..=3).contains(&version.swap_bytes()),
            });
        }
        let tensor_count = reader.count("tensors", TENSOR_COUNT_MAX)?;
        let metadata_count = reader.count("metadata keys", METADATA_COUNT_MAX)?;
        let metadata = read_metadata(&mut reader, metadata_count)?;
        let alignment = alignment_bytes(&metadata)?;

        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..tensor_count {
            let tensor = read_tensor(&mut reader)?;
            if !names.insert(tensor.name.clone()) {
                return Err(GgufError::DuplicateTensor { name: tensor.name });
            }
            tensors.push(tensor);
        }
        place_tensors(
            &mut tensors,
            reader.position().next_multiple_of(alignment),
            alignment,
            file_bytes,
        )?;
        Ok(Gguf { version, metadata, tensors })
    }

    /// The tensor of that name in the file.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn read_metadata<R: Read>(reader: &mut Reader<R>, count: u64) -> Result<Metadata, GgufError> {
    let mut values = HashMap::new();
    for _ in 0..count {
        let key = reader.string("a metadata key")?;
        let value = value::read(reader, &key)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(GgufError::DuplicateKey { key });
        }
    }
    Ok(Metadata::new(values))
}

fn alignment_bytes(metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata.unsigned("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT_BYTES);
    if alignment.is_power_of_two() && alignment <= ALIGNMENT_BYTES_MAX {
        Ok(alignment)
    } else {
        Err(GgufError::Alignment { alignment })
    }
}

/// Reads one entry; its offset is still relative to the start of the data section.
fn read_tensor<R: Read>(reader: &mut Reader<R>) -> Result<GgufTensor, GgufError> {
    let name = reader.string("a tensor's name")?;
    let dimension_count = reader.u32("a tensor's dimension count")?;
    if !(1..=DIMENSION_COUNT_MAX).contains(&dimension_count) {
        return Err(GgufError::Dimensions { name, count: dimension_count });
    }
    let mut shape = Vec::new();
    for _ in 0..dimension_count {
        shape.push(reader.u64("a tensor's shape")?);
    }
    shape.reverse();
    let type_number = reader.u32("a tensor's type")?;
    let offset = reader.u64("a tensor's offset")?;

    let Some(encoding) = encoding_of(type_number) else {
        return Err(GgufError::TensorType { name, type_name: type_name(type_number) });
    };
    let sizes: Option<Vec<usize>> =
        shape.iter().map(|size| usize::try_from(*size).ok().filter(|size| *size > 0)).collect();
    let row_is_whole = sizes
        .as_ref()
        .and_then(|sizes| sizes.last())
        .is_some_and(|row| row.is_multiple_of(encoding.block_elements()));
    let size_bytes = sizes
        .as_ref()
        .filter(|_| row_is_whole)
        .and_then(|sizes| sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size)))
        .and_then(|elements| encoding.bytes(elements));
    match (sizes, size_bytes) {
        (Some(shape), Some(size_bytes)) => {
            Ok(GgufTensor { name, encoding, shape, offset, size_bytes: size_bytes as u64 })
        }
        _ => Err(GgufError::TensorShape { name, shape, encoding }),
    }
}

/// Makes offsets absolute and checks that tensors lie in the file, aligned, and do not overlap.
fn place_tensors(
    tensors: &mut [GgufTensor],
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    for tensor in tensors.iter_mut() {
        if tensor.offset % alignment != 0 {
            return Err(GgufError::Misaligned {
                name: tensor.name.clone(),
                offset: tensor.offset,
                alignment,
            });
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.size_bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                return Err(GgufError::OutsideFile {
                    name: tensor.name.clone(),
                    end_bytes: end.unwrap_or(u64::MAX),
                    file_bytes,
                });
            }
        }
    }
    let mut order: Vec<&GgufTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].size_bytes > pair[1].offset {
            return Err(GgufError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
            });
        }
    }
    Ok(())
}

/// ggml's type numbers of the encodings that can be decoded.
fn encoding_of(type_number: u32) -> Option<Encoding> {
    Some(match type_number {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Q4_0,
        3 => Encoding::Q4_1,
        6 => Encoding::Q5_0,
        7 => Encoding::Q5_1,
        8 => Encoding::Q8_0,
        12 => Encoding::Q4K,
        13 => Encoding::Q5K,
        14 => Encoding::Q6K,
        30 => Encoding::Bf16,
        _ => return None,
    })
}

/// ggml's names of the others, so that an error can say which one was met.
fn type_name(type_number: u32) -> String {
    let known = match type_number {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("type number {type_number}"),
    };
    known.to_owned()
}
