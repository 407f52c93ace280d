//! What a job takes on this machine's own processor, from a short measurement.
//!
//! XLA's CPU compiler writes no cycles into its programs, and how quick they are depends on this very
//! machine. So the same program is run with few of its layers, at two depths, with weights that are made
//! up; what a layer takes is the difference, and the whole is a straight line through both. It takes
//! seconds, and is kept for as long as program, plugin and processor stay the same. Prints nothing.

pub mod answer;
mod depth;
mod drawn;
mod estimate;
mod job;
mod machine;
mod made_up;
mod memory;
mod process;
mod serving;
mod training;

use std::path::PathBuf;

use graph::TraceError;
use runtime::cache::{BadLimit, CacheKey, CompileCache, Lookup};
use runtime::folders::FolderError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use answer::peak_bytes;
pub use depth::Depths;
pub use drawn::Drawn;
pub(crate) use drawn::words as drawn_words;
pub use estimate::Estimate;
pub use memory::{HostMemory, ServeMemory};
pub use process::Measurer;
pub use serving::{ServeSpeed, ServingShape, held, serve_steps};
pub use training::{TrainSpeed, train_step};

/// Where the program that plans cannot be started again to measure.
pub(crate) const NO_MEASURER: &str = "nothing here can measure this machine's processor";

/// Why nothing can be said of a job on this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HereError {
    #[error("it could not be measured on this machine: {message}")]
    Broken { message: String },
    #[error("the process that measures, {program}, did not start", program = .program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error(
        "it needs {needed} GiB of memory and this machine has {total} GiB",
        needed = gibibytes(*.needed_bytes), total = gibibytes(*.total_bytes)
    )]
    DoesNotFit { needed_bytes: u64, total_bytes: u64 },
    #[error(
        "the times of {few} and {more} layers differ by less than their noise, since the machine is busy; try again when it is not"
    )]
    Noise { few: usize, more: usize },
    #[error(transparent)]
    Setup(Box<train::setup::SetupError>),
    #[error(transparent)]
    Trace(Box<TraceError>),
    #[error(transparent)]
    Config(Box<llm::export::ExportError>),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Limit(#[from] BadLimit),
    #[error("{what} must be at least one and ascending, such as 1, 8, 32")]
    Sizes { what: &'static str },
}

impl From<llm::export::ExportError> for HereError {
    fn from(error: llm::export::ExportError) -> HereError {
        HereError::Config(Box::new(error))
    }
}

impl From<TraceError> for HereError {
    fn from(error: TraceError) -> HereError {
        HereError::Trace(Box::new(error))
    }
}

impl From<train::setup::SetupError> for HereError {
    fn from(error: train::setup::SetupError) -> HereError {
        HereError::Setup(Box::new(error))
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / (1_u64 << 30) as f64)
}

/// How a figure came to be.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct How {
    pub depths: Depths,
    /// Of the whole model.
    pub layers: usize,
    /// Runs of each program that were timed, at least.
    pub runs: usize,
    /// Whether it was measured at an earlier time.
    pub remembered: bool,
}

impl std::fmt::Display for How {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (layers, runs) = (self.layers, self.runs);
        match self.depths {
            Depths::Whole => write!(formatter, "measured here with all {layers} layers")?,
            Depths::Two { few, more } => {
                write!(formatter, "measured here with {few} and {more} of {layers} layers")?;
            }
        }
        write!(formatter, ", {runs} or more runs each")?;
        if self.remembered {
            write!(formatter, ", at an earlier time")?;
        }
        Ok(())
    }
}

/// Whether what was measured before will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Takes what was measured before, if it was.
    Trusted,
    /// Measures anew, and remembers that.
    Renewed,
}

/// Called with a sentence when something begins that takes seconds.
pub type Progress<'a> = dyn Fn(&str) + 'a;

/// What was measured before under this key.
fn remembered<T: DeserializeOwned>(
    cache: &CompileCache,
    key: &CacheKey,
    memory: Memory,
) -> Option<T> {
    match memory {
        Memory::Trusted => match cache.get(key) {
            Ok(Lookup::Hit(bytes)) => serde_json::from_slice(&bytes).ok(),
            // Measuring again costs seconds and no result.
            Ok(Lookup::Miss | Lookup::Damaged(_)) | Err(_) => None,
        },
        Memory::Renewed => None,
    }
}

/// Keeps a measurement; a cache that cannot be written to costs time and no result.
fn remember<T: Serialize>(cache: &CompileCache, key: &CacheKey, value: &T) {
    if let Ok(bytes) = serde_json::to_vec(value) {
        let _ = cache.put(key, &bytes);
    }
}
