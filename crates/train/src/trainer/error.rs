//! Why a run ends before its end.

use runtime::distributed::GroupError;

use crate::basis::BasisError;
use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::evaluate::EvaluateError;
use crate::metrics::MetricsError;
use crate::restore::RestoreError;
use crate::setup::SetupError;
use crate::state::StateError;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Trace(#[from] graph::TraceError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Basis(#[from] BasisError),
    #[error(transparent)]
    Data(DataError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(
        "the checkpoint {location} does not say where the run was: it was not made by `fungible \
         train`, or by a newer one"
    )]
    Position { location: String },
    #[error(
        "{count} steps in a row were skipped up to step {step}, the last with a loss of {loss}: the \
         run has diverged; go on from an earlier checkpoint with a lower learning rate"
    )]
    Diverged { step: usize, count: usize, loss: f64 },
}

/// What a run came to was not saved.
#[derive(Debug, thiserror::Error)]
#[error(
    "step {step}, the last one, was not saved in {location}: {}; {}", source.sentence(), rest(stays)
)]
pub struct Unsaved {
    pub step: u64,
    pub location: String,
    /// The newest step that was saved before.
    pub stays: Option<u64>,
    #[source]
    pub source: CheckpointError,
}

fn rest(stays: &Option<u64>) -> String {
    match stays {
        Some(step) => {
            format!("the checkpoint of step {step} stays, and --resume goes on from there")
        }
        None => "there is no earlier checkpoint to go on from".to_string(),
    }
}
