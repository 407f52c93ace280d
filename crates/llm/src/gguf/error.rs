//! What can be wrong with a GGUF file. The path is added by whoever opened it.

use std::io;

use crate::weights::Encoding;

/// Why a GGUF head could not be parsed or a metadata key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error(
        "the file ends inside {what} (at byte {position} of {file_bytes}): it is truncated, fetch \
         it again"
    )]
    Truncated { what: &'static str, position: u64, file_bytes: u64 },
    #[error("{what} could not be read at byte {position}")]
    Read {
        what: &'static str,
        position: u64,
        #[source]
        source: io::Error,
    },
    #[error(
        "the file starts with {found:02x?} where a GGUF file has `GGUF`: it is of another format \
         or not complete"
    )]
    NotGguf { found: [u8; 4] },
    #[error(
        "GGUF version {version}{} is not supported, only little-endian versions 2 and 3: convert \
         the file again",
        if *.big_endian { " (a big-endian file)" } else { "" }
    )]
    Version { version: u32, big_endian: bool },
    #[error(
        "the header claims {count} {what}, more than {count_max} is taken as corrupt: fetch the \
         file again"
    )]
    TooMany { what: &'static str, count: u64, count_max: u64 },
    #[error("{what} at byte {position} is not UTF-8: the file is corrupt, fetch it again")]
    NotUtf8 { what: &'static str, position: u64 },
    #[error(
        "metadata key `{key}` has value type {type_number}, which GGUF does not define: the file \
         is corrupt"
    )]
    ValueType { key: String, type_number: u32 },
    #[error(
        "metadata key `{key}` holds an array of arrays, which no known key uses: the file is taken \
         as corrupt"
    )]
    NestedArray { key: String },
    #[error("metadata key `{key}` appears twice: the file is corrupt")]
    DuplicateKey { key: String },
    #[error(
        "metadata key `{key}` is missing: the file does not describe its model, convert it again"
    )]
    MissingKey { key: String },
    #[error("metadata key `{key}` is {found}, expected {expected}: convert the file again")]
    WrongType { key: String, expected: &'static str, found: &'static str },
    #[error(
        "`general.alignment` is {alignment}, which is no power of two up to 1 MiB: the file is \
         corrupt"
    )]
    Alignment { alignment: u64 },
    #[error("tensor `{name}` appears twice: the file is corrupt")]
    DuplicateTensor { name: String },
    #[error("tensor `{name}` has {count} dimensions, GGUF allows 1 to 4: the file is corrupt")]
    Dimensions { name: String, count: u32 },
    #[error(
        "tensor `{name}` is stored as {type_name}, which is not supported: requantize the model to \
         one of {}",
        Encoding::ALL.map(Encoding::name).join(", ")
    )]
    TensorType { name: String, type_name: String },
    #[error(
        "tensor `{name}` of type {encoding} has the impossible shape {shape:?}: sizes must not be \
         zero or overflow, \
         and rows must be a multiple of {}",
        .encoding.block_elements()
    )]
    TensorShape { name: String, shape: Vec<u64>, encoding: Encoding },
    #[error(
        "tensor `{name}` starts at offset {offset}, which is no multiple of {alignment}: the file \
         is corrupt"
    )]
    Misaligned { name: String, offset: u64, alignment: u64 },
    #[error(
        "tensor `{name}` ends at byte {end_bytes}, but the file has {file_bytes}: it is truncated, \
         fetch it again"
    )]
    OutsideFile { name: String, end_bytes: u64, file_bytes: u64 },
    #[error("tensors `{first}` and `{second}` overlap: the file is corrupt")]
    Overlap { first: String, second: String },
}
