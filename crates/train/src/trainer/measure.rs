//! The loss on text that is not trained on.

use std::sync::Arc;

use runtime::Array;

use super::{Event, Setup, TrainError};
use crate::data::Dataset;
use crate::device::Loaded;
use crate::evaluate::sums;
use crate::step::{self, StepOptions};

/// What is measured, and the program for it.
pub(super) struct Evaluation {
    loaded: Loaded,
    dataset: Arc<Dataset>,
    batches: u64,
}

impl Evaluation {
    /// Nothing if the config has no validation text or never measures.
    pub fn prepare(
        setup: &Setup,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Evaluation>, TrainError> {
        let training = &setup.config.training;
        let Some(dataset) = &setup.data.validation else { return Ok(None) };
        if training.eval_every == 0 {
            return Ok(None);
        }
        // As many sequences at once as in training.
        let rows = setup.options.batch_size / setup.options.accumulation.max(1);
        let options = StepOptions { batch_size: rows, accumulation: 1, ..setup.options.clone() };
        let program = step::evaluation(&setup.model.config, &options)?;
        on_event(Event::Compiling { program: "evaluation" });
        let loaded = Loaded::new(&setup.runtime, program)?;
        on_event(Event::Compiled { program: "evaluation", info: loaded.info() });
        let batches = dataset.batches().min(training.eval_batches as u64);
        Ok(Some(Evaluation { loaded, dataset: dataset.clone(), batches }))
    }

    /// Nats per token and bits per byte.
    pub fn run(&self, kept: &[Arc<Array>]) -> Result<(f64, f64), TrainError> {
        let sums = sums(&self.loaded, &self.dataset, self.batches, kept, &mut |_| {})?;
        Ok((sums.loss(), sums.bits_per_byte()))
    }
}
