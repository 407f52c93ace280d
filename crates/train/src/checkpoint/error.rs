//! What can be wrong with saving and loading.

use super::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} is damaged: {reason}")]
    Manifest { path: String, reason: String },
    #[error(
        "{path} is of format `{format}`, version {version}, which this program does not read; use the version of the program that wrote it, or a newer one"
    )]
    Foreign { path: String, format: String, version: u32 },
    #[error("{path} is damaged: the checksum of {piece} is not the one it was saved with")]
    Checksum { path: String, piece: String },
    #[error("{path} is damaged: it has {found_bytes} bytes and was saved with {expected_bytes}")]
    Length { path: String, expected_bytes: u64, found_bytes: u64 },
    #[error(
        "none of the checkpoints in {location} can be used ({}): put back copies that are intact, or start the run anew",
        list(.damaged)
    )]
    AllDamaged { location: String, damaged: Vec<Damaged> },
    #[error(
        "{location} has no checkpoint of step {step}; it has {}",
        if .known.is_empty() { "none".to_string() } else { steps(.known) }
    )]
    NoSuchStep { location: String, step: u64, known: Vec<u64> },

    #[error(
        "the checkpoint {path} is of another model or run: it has no `{name}`, which this one needs ({expected})"
    )]
    Missing { path: String, name: String, expected: String },
    #[error(
        "the checkpoint {path} is of another model or run: its `{name}` is {found}, here it is {expected}"
    )]
    Shape { path: String, name: String, found: String, expected: String },
    #[error(
        "the checkpoint {path} is of another model or run: it has `{name}` ({found}), for which this one has no place"
    )]
    Unexpected { path: String, name: String, found: String },
    #[error("`{name}` cannot be read: {reason}")]
    Read { name: String, reason: String },

    #[error("`{name}` cannot be saved: {reason}")]
    Array { name: String, reason: String },
    #[error("an array could not be copied between device and host")]
    Device(#[from] runtime::Error),
    #[error("process {process_index} failed: {reason}")]
    Process { process_index: usize, reason: String },
    #[error(
        "{path}, which process {process_index} wrote, cannot be seen from process 0; all processes must save to the same place, such as a shared folder or a bucket"
    )]
    NotShared { path: String, process_index: usize },
    #[error("the processes could not reach each other: {reason}")]
    Exchange { reason: String },
    #[error("the thread that saves stopped unexpectedly; this is a defect, please report it")]
    Stopped,
}

/// A checkpoint that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    pub step: u64,
    /// One sentence, without a capital or a full stop.
    pub reason: String,
}

impl CheckpointError {
    /// Whether the checkpoint is to blame, so that the one before may do; otherwise the fault may be
    /// gone the next time, such as a store that cannot be reached.
    pub fn is_damage(&self) -> bool {
        match self {
            CheckpointError::Store(error) => {
                matches!(error, StoreError::Missing { .. } | StoreError::Short { .. })
            }
            CheckpointError::Manifest { .. }
            | CheckpointError::Checksum { .. }
            | CheckpointError::Length { .. } => true,
            _ => false,
        }
    }

    /// The error with its sources, as one sentence.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut error = std::error::Error::source(self);
        while let Some(source) = error {
            let said = source.to_string();
            // Some errors repeat what made them fail.
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            error = source.source();
        }
        text
    }
}

fn list(damaged: &[Damaged]) -> String {
    let each: Vec<String> =
        damaged.iter().map(|Damaged { step, reason }| format!("step {step}: {reason}")).collect();
    each.join("; ")
}

fn steps(steps: &[u64]) -> String {
    let each: Vec<String> = steps.iter().map(ToString::to_string).collect();
    each.join(", ")
}
