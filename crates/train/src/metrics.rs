//! What a run writes down while it goes: a line of JSON per step, samples of text, TensorBoard
//! events, what it cost, and a report at the end. Knows files and numbers, no device and no trainer.
//!
//! ```text
//! <output>/metrics.jsonl     a StepRecord per line
//! <output>/samples.jsonl     a Sample per line
//! <output>/run.json          RunFacts: what the report says besides
//! <output>/tensorboard/      event files
//! <output>/report.html       made of the files above, at any time again
//! ```

mod cost;
mod flops;
mod growing;
mod log;
pub mod report;
mod tensorboard;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use cost::{Measured, RunSummary};
pub use flops::{Trained, flops_per_token, matmul_parameters, model_flops_utilization};
pub use log::{Kept, StepLog, Stepped, read};
pub use tensorboard::TensorBoard;

/// One step, which is one line of `metrics.jsonl`. Tokens and seconds are the step's own: a sum over
/// the lines is that of all steps, however often the run was resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From 1: the number of updates after this one.
    pub step: usize,
    /// Mean over the targets, in nats per token; `null` in the file if it is not finite.
    #[serde(with = "finite_or_null")]
    pub loss: f64,
    /// Of all gradients together, before clipping; `null` in the file if it is not finite.
    #[serde(with = "finite_or_null")]
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Tokens that went through the model, padding left out. Not all of them count in the loss.
    pub tokens: usize,
    /// Validation, samples and saving are left out.
    pub seconds: f64,
    pub tokens_per_second: f64,
    /// Model FLOPs utilization, from 0 to 1; none where the chip's peak is not known.
    pub mfu: Option<f64>,
    /// The update was left out, because of a loss that is not finite or a spike.
    pub skipped: bool,
    /// Nats per token on the validation text, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The same in bits per byte of text, which does not depend on the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// The first step after a resume.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
}

impl Stepped for StepRecord {
    fn step(&self) -> usize {
        self.step
    }
}

/// A text that the model wrote after `step`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub step: usize,
    pub prompt: String,
    /// What followed the prompt.
    pub text: String,
}

impl Stepped for Sample {
    fn step(&self) -> usize {
        self.step
    }
}

/// JSON has no NaN.
mod finite_or_null {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

/// Why what a run writes down cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("the disk is full while writing {path}: free some space")]
    DiskFull {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path}: set output.folder to a folder that can be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not what a run leaves behind: give the output folder of a run")]
    Form {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl MetricsError {
    fn write(path: &Path, source: io::Error) -> MetricsError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                MetricsError::DiskFull { path, source }
            }
            _ => MetricsError::Write { path, source },
        }
    }

    fn read(path: &Path, source: io::Error) -> MetricsError {
        MetricsError::Read { path: path.to_path_buf(), source }
    }
}

/// Writes a file that a reader, or the next run after a crash, sees whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), MetricsError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    // Only the process that owns the output folder writes there, so one name is enough.
    name.push(".partial");
    let partial = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&partial);
        MetricsError::write(path, source)
    })
}
