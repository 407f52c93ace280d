//! How far the planner is off on this machine: predicts a job, then really runs it, as a user would, and
//! compares. Prints nothing.

mod gpu;
mod process;
mod serving;
mod shapes;
mod training;

use std::path::PathBuf;

use runtime::folders::FolderError;
use serde::Serialize;

use crate::here::{HereError, Measurer, Progress};

pub use gpu::Gpu;
pub use shapes::{Shape, defaults, find, names};

/// What times may be off by.
pub const TIME_LIMIT: f64 = 0.15;
/// What memory may be off by.
pub const MEMORY_LIMIT: f64 = 0.05;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    #[error(transparent)]
    Here(Box<HereError>),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Config(#[from] train::config::ConfigError),
    #[error(transparent)]
    Model(#[from] llm::config::ConfigError),
    #[error(transparent)]
    Setup(#[from] train::setup::SetupError),
    #[error(transparent)]
    Trace(#[from] graph::TraceError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Profile(#[from] runtime::profile::ProfileError),
    #[error("a server has no program for {batch} rows of {width} tokens")]
    NoProgram { batch: usize, width: usize },
    #[error(
        "the plugin did not return the optimized program of {program}, from which its time is estimated"
    )]
    NoOptimizedProgram { program: String },
    #[error(transparent)]
    Export(#[from] llm::export::ExportError),
    #[error("`{command}` did not start")]
    Start { command: String, source: std::io::Error },
    #[error("`{command}` ended before it was measured ({how}): {said}")]
    Ended { command: String, how: String, said: String },
    #[error("`{command}` was stopped after {seconds} s, before it was measured")]
    TimedOut { command: String, seconds: u64 },
    #[error("cannot write {path}", path = .path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl From<HereError> for CheckError {
    fn from(error: HereError) -> CheckError {
        CheckError::Here(Box::new(error))
    }
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Seconds of a step of training.
    Step,
    /// Seconds from a prompt to its first token.
    FirstToken,
    /// Seconds from a token to the next.
    NextToken,
    /// Bytes that are resident at most, of the whole process.
    PeakMemory,
}

impl What {
    /// How far off a prediction of it may be, as a share.
    pub fn limit(self) -> f64 {
        match self {
            What::PeakMemory => MEMORY_LIMIT,
            What::Step | What::FirstToken | What::NextToken => TIME_LIMIT,
        }
    }
}

/// A prediction, and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What ran, in words.
    pub of: String,
    pub what: What,
    /// Seconds, or bytes.
    pub predicted: f64,
    pub low: f64,
    pub high: f64,
    pub measured: f64,
    /// Tokens that one measured time stands for; none for memory.
    pub tokens: Option<usize>,
}

impl Figure {
    /// How far off the prediction is, as a share of what was measured.
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }

    pub fn passes(&self) -> bool {
        self.error().abs() <= self.what.limit()
    }
}

/// One shape, checked.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub shape: &'static str,
    /// Where the predictions come from.
    pub how: String,
    pub figures: Vec<Figure>,
    /// How many measured times the measured figures are the median of.
    pub measured_times: usize,
}

/// Predicts a shape, anew, and runs it: on this machine's processor, or on a GPU of it, where the time
/// model is what is checked, and memory is not.
///
/// `measurer` starts this program; its other commands are used to run what was predicted.
///
/// # Errors
/// What keeps the processes from running.
pub fn check(
    shape: &'static Shape,
    measurer: &Measurer,
    gpu: Option<&Gpu>,
    progress: &Progress<'_>,
) -> Result<Checked, CheckError> {
    match &shape.job {
        shapes::Job::Training(config) => {
            training::check(shape.name, config, measurer, gpu, progress)
        }
        shapes::Job::Serving(serving) => {
            serving::check(shape.name, serving, measurer, gpu, progress)
        }
    }
}

/// What is said of predictions for a GPU.
const TIME_MODEL: &str = "estimated from the program that the GPU's compiler returned";

/// The command line's name of the device.
fn device(gpu: Option<&Gpu>) -> &'static str {
    gpu.map_or("cpu", |gpu| gpu.target.plugin().name())
}

/// The middle one; of an even number the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(what: What, predicted: f64, measured: f64) -> Figure {
        let of = "a test".to_string();
        Figure { of, what, predicted, low: predicted, high: predicted, measured, tokens: None }
    }

    #[test]
    fn a_prediction_passes_within_its_limit() {
        assert!(figure(What::Step, 1.14, 1.0).passes());
        assert!(figure(What::Step, 0.86, 1.0).passes());
        assert!(!figure(What::NextToken, 1.16, 1.0).passes());
        assert!(!figure(What::PeakMemory, 1.06, 1.0).passes());
        assert!(figure(What::PeakMemory, 0.96, 1.0).passes());
        // What was not measured is no success.
        assert!(!figure(What::Step, 1.0, f64::NAN).passes());
    }
}
