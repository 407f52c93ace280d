//! Where a run is: all that a checkpoint has to say of it beside the arrays. Data and random numbers
//! follow from the number of the step.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Setup, TrainError};
use crate::basis::{self, Basis};
use crate::checkpoint::{Checkpoint, Metadata};
use crate::config::Config;
use crate::device::StepResult;
use crate::saved;
use crate::setup::Model;

/// How much of the running mean of the loss one step replaces.
const MEAN_SHARE: f64 = 0.05;

/// Steps before a loss can be a spike: at the beginning it falls too fast to tell. The mean lags behind a
/// loss that falls, so for some sixty steps more the limit is further above it than the factor says:
/// what is not known well yet is let through.
const STEPS_BEFORE_SPIKES: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    pub step: usize,
    /// The running mean of the loss, for spikes.
    mean_loss: Option<f64>,
    pub skipped_in_a_row: usize,
    /// Of this very step, if it was measured.
    pub validation_loss: Option<f64>,
    /// Wall time of the run up to here. Checkpoints of earlier versions do not say it.
    #[serde(default)]
    pub seconds: Option<f64>,
    #[serde(skip)]
    resumed: bool,
}

impl Position {
    /// # Errors
    /// [`TrainError::Position`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Position, TrainError> {
        let section = checkpoint.sections().get("position").cloned().unwrap_or_default();
        let unknown = |_| TrainError::Position { location: checkpoint.location() };
        let position: Position = serde_json::from_value(section).map_err(unknown)?;
        Ok(Position { resumed: true, ..position })
    }

    pub fn advance(&mut self, step: usize, result: &StepResult) {
        self.step = step;
        self.validation_loss = None;
        self.skipped_in_a_row = if result.skipped { self.skipped_in_a_row + 1 } else { 0 };
        if !result.skipped {
            let mean = self.mean_loss.unwrap_or(result.loss);
            self.mean_loss = Some(mean + MEAN_SHARE * (result.loss - mean));
        }
    }

    /// The loss above which the next step is left out.
    pub fn loss_limit(&self, spike_factor: f64) -> f64 {
        match self.mean_loss {
            Some(mean) if spike_factor > 0.0 && self.step >= STEPS_BEFORE_SPIKES => {
                mean * spike_factor
            }
            _ => f64::INFINITY,
        }
    }

    /// Whether this is the first time that it is asked after a resume.
    pub fn take_resumed(&mut self) -> bool {
        std::mem::take(&mut self.resumed)
    }

    pub fn metadata(&self, setup: &Setup, basis: &Basis) -> Metadata {
        let Model { config: model, companions, .. } = &setup.model;
        let mut sections = Map::new();
        let devices = setup.runtime.devices().iter().map(|device| device.kind().to_string());
        let kind = devices.into_iter().next().unwrap_or_default();
        for (name, value) in [
            ("position", serde_json::to_value(self).unwrap_or_default()),
            (basis::SECTION, serde_json::to_value(basis).unwrap_or_default()),
            ("written_by", json!(concat!("fungible ", env!("CARGO_PKG_VERSION")))),
            // For information: a checkpoint belongs to no chip.
            ("device", json!(kind)),
            ("mesh", json!(setup.options.mesh.to_string())),
        ]
        .into_iter()
        .chain(saved::sections(&setup.config, model, companions))
        {
            sections.insert(name.to_string(), value);
        }
        Metadata { metric: self.validation_loss, sections }
    }
}

/// The config that a checkpoint was saved with.
///
/// # Errors
/// [`TrainError::Position`] if it has none that can be read.
pub fn saved_config(checkpoint: &Checkpoint) -> Result<Config, TrainError> {
    let unknown = || TrainError::Position { location: checkpoint.location() };
    let text = checkpoint.sections().get("config").and_then(Value::as_str).ok_or_else(unknown)?;
    Config::parse(text, &[], &checkpoint.location()).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(loss: f64, skipped: bool) -> StepResult {
        StepResult { loss, gradient_norm: 1.0, tokens: 10.0, skipped }
    }

    #[test]
    fn a_spike_is_measured_against_the_running_mean_and_does_not_move_it() {
        let mut position = Position::default();
        for step in 1..=30 {
            position.advance(step, &result(2.0, false));
        }
        assert_eq!(position.loss_limit(3.0), 6.0);
        assert_eq!(position.loss_limit(0.0), f64::INFINITY);
        position.advance(31, &result(f64::NAN, true));
        position.advance(32, &result(100.0, true));
        assert_eq!((position.loss_limit(3.0), position.skipped_in_a_row), (6.0, 2));
        position.advance(33, &result(2.0, false));
        assert_eq!(position.skipped_in_a_row, 0);
    }

    /// A loss that falls as in the first steps of a run.
    #[test]
    fn the_mean_lags_on_the_side_that_skips_nothing() {
        let loss = |step: usize| 4.0 + 7.0 * (-(step as f64) / 15.0).exp();
        let mut position = Position::default();
        for step in 1..200 {
            position.advance(step, &result(loss(step), false));
            assert!(position.loss_limit(1.2) > 1.2 * loss(step + 1), "{step}");
        }
        // In the end it is what was asked for.
        assert!(position.loss_limit(1.2) < 1.21 * loss(200), "{}", position.loss_limit(1.2));
    }

    #[test]
    fn a_checkpoint_of_an_earlier_version_has_a_position() {
        let section = json!({
            "step": 3, "mean_loss": 2.0, "skipped_in_a_row": 1, "validation_loss": null
        });
        let position: Position = serde_json::from_value(section).unwrap();
        assert_eq!((position.step, position.seconds), (3, None));
        let position = Position { seconds: Some(1.5), ..position };
        let section = serde_json::to_value(&position).unwrap();
        assert_eq!(serde_json::from_value::<Position>(section).unwrap(), position);
    }

    #[test]
    fn early_losses_are_no_spikes() {
        let mut position = Position::default();
        position.advance(1, &result(1.0, false));
        assert_eq!(position.loss_limit(2.0), f64::INFINITY);
    }
}
