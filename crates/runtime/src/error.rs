//! What can go wrong between a finished program and its results.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cache::BadLimit;
use crate::discover::DiscoverError;
use crate::folders::FolderError;
use crate::worker::{Crash, WorkerError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    #[error(transparent)]
    CacheLimit(#[from] BadLimit),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Plugin(#[from] pjrt::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),

    #[error("the mesh `{text}` cannot be used: {reason}; write it as data=2,tensor=4")]
    BadMesh { text: String, reason: String },
    #[error(
        "the mesh {mesh} needs {needed} devices, there are {available}; use a smaller mesh or more devices"
    )]
    TooFewDevices { mesh: String, needed: usize, available: usize },
    #[error(
        "the mesh {mesh} takes {needed} of {available} devices and would leave some processes without any; use a mesh of all devices, or fewer processes"
    )]
    IdleProcesses { mesh: String, needed: usize, available: usize },
    #[error("a sharding cannot be used: {reason}")]
    BadSharding { reason: String },
    #[error(
        "a dimension of {size} cannot be cut into {pieces} equal pieces over {axes}; use a mesh that divides it"
    )]
    Uneven { size: usize, pieces: usize, axes: String },
    #[error(
        "{devices} CPU devices need {name}={value} in the environment before this program starts, or devices that wait for each other may never finish"
    )]
    Environment { devices: usize, name: String, value: String },

    #[error(
        "the CUDA plugin found no ptxas, which it needs to compile; run `fungible plugin install cuda13`, or install nvidia-cuda-nvcc beside the plugin"
    )]
    NoPtxas {
        /// The compiler's own words: every place where it looked.
        message: String,
    },
    /// The same happened before, and was kept.
    #[error(
        "the compiler crashed ({}) when it was last given this, {}, and was not asked again (remove {} to ask it){}",
        crash.how,
        since(crash.unix_seconds),
        entry.display(),
        crash.words()
    )]
    CrashedBefore { crash: Crash, entry: PathBuf },
    #[error("the compiler refused `{program}`: {message}")]
    Refused { program: String, message: String },
    #[error(
        "`{program}` does not fit: it needs {} per device, {} are there; use more devices, a smaller batch or context, or a narrower type",
        gibibytes(*needed_bytes),
        gibibytes(*available_bytes)
    )]
    DoesNotFit {
        program: String,
        needed_bytes: u64,
        available_bytes: u64,
        /// The compiler's own words.
        message: String,
    },
    #[error("`{program}` does not fit: {message}")]
    OutOfMemory { program: String, message: String },

    #[error("`{program}` takes {expected} arguments and was given {given}")]
    ArgumentCount { program: String, expected: usize, given: usize },
    #[error("argument `{argument}` of `{program}`: {reason}")]
    Argument { program: String, argument: String, reason: String },
    #[error(
        "the plugin copied argument `{argument}` of `{program}` instead of reusing its memory, which was donated; pass it by reference, or give it an output of the same shape, type and sharding"
    )]
    DonationUnused { program: String, argument: String },
    #[error("the array is {expected} bytes long and was given {given}")]
    Length { expected: usize, given: usize },
    #[error(
        "this process holds only a part of the array, whose shards are spread over {processes} processes; gather it on the devices first"
    )]
    NotAddressable { processes: usize },
    #[error("filling an array failed: {message}")]
    Fill { message: String },
    #[error("`{program}` cannot be run: {reason}")]
    Run { program: String, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Powers of 1024, as compilers count.
pub(crate) fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// How long ago that was, in its largest unit.
fn since(unix_seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (count, unit) = match now.saturating_sub(unix_seconds) {
        0..60 => return "less than a minute ago".to_string(),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..86_400 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

impl Error {
    /// What a compiler's refusal means, where that is known.
    pub(crate) fn refused(program: &str, message: String) -> Error {
        if message.contains("No PTX compilation provider is available") {
            return Error::NoPtxas { message };
        }
        Error::Refused { program: program.to_string(), message }
    }
}
