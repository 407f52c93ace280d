//! The loop of training: steps, measurements, samples, checkpoints, what is written down. Prints
//! nothing: everything that happens is told to a callback.

mod ahead;
mod error;
mod measure;
mod position;
mod records;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use graph::Role;
use runtime::distributed::{GroupError, ProcessGroup};
use runtime::{Array, CompileInfo, Runtime};

use crate::basis::Basis;
use crate::checkpoint::{
    Checkpoint, Checkpoints, Keep, Latest, SaveArray, SaveTicket, Saved, Saver,
};
use crate::config::Config;
use crate::data::{Batch, Data, DataError};
use crate::device::{Loaded, Metrics, Scalars, StepResult};
use crate::metrics::{MetricsError, Sample, StepRecord};
use crate::samples::Sampler;
use crate::setup::Model;
use crate::step::{self, StepOptions};
use crate::{restore, state};

pub use error::{TrainError, Unsaved};
pub use position::saved_config;
pub use records::{Records, RunEnd};

use ahead::Ahead;
use measure::Evaluation;
use position::Position;
use records::Clock;

/// How long processes wait for the slowest one between steps.
const AGREEMENT: Duration = Duration::from_secs(60 * 60);

/// What happens while a run goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Weights are being brought to the devices, in bytes.
    Weights {
        done: u64,
        total: u64,
    },
    Compiling {
        program: &'a str,
    },
    Compiled {
        program: &'a str,
        info: &'a CompileInfo,
    },
    /// The run goes on after this step, from a checkpoint there.
    Resumed {
        step: usize,
        location: &'a str,
    },
    /// Something that the user should know and that does not end the run.
    Warning(String),
    Step {
        record: &'a StepRecord,
        steps: usize,
    },
    Sample(&'a Sample),
    /// A snapshot was taken, for which training stood still for so many seconds.
    Saving {
        step: usize,
        stall_seconds: f64,
    },
    Saved(&'a Saved),
}

/// Everything a run consists of, ready to go.
pub struct Setup {
    pub config: Config,
    pub model: Model,
    pub data: Data,
    pub options: StepOptions,
    pub runtime: Runtime,
    pub group: Arc<ProcessGroup>,
}

/// Where a run begins.
#[derive(Debug)]
pub enum Beginning {
    /// At its first step; there are no checkpoints.
    Anew,
    /// The same, and checkpoints of an earlier run are there, to be removed.
    Overwriting,
    /// Where this checkpoint was made. Later ones are removed.
    After(Box<Latest>),
}

impl Beginning {
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Beginning::Anew | Beginning::Overwriting => None,
            Beginning::After(latest) => Some(&latest.checkpoint),
        }
    }
}

/// How a run came to its end.
#[derive(Debug)]
pub enum Outcome {
    /// All steps were made.
    Finished,
    /// It was asked to stop, and everything was saved after this step.
    Stopped { step: usize },
    /// One or the other, but for the last save.
    Unsaved(Unsaved),
}

/// A run on its devices.
pub struct Trainer<'a> {
    setup: &'a Setup,
    loaded: Loaded,
    evaluation: Option<Evaluation>,
    kept: Vec<Arc<Array>>,
    checkpoints: Checkpoints,
    saver: Saver,
    tickets: Vec<SaveTicket>,
    position: Position,
    basis: Basis,
    /// Whether checkpoints of later steps than this one may be there.
    replaces: bool,
    on_event: &'a mut dyn FnMut(Event<'_>),
}

/// A step under way.
struct Pending {
    step: usize,
    learning_rate: f64,
    metrics: Metrics,
}

impl<'a> Trainer<'a> {
    /// Compiles, and brings weights to the devices: those of the checkpoint that the run begins with, if
    /// there is one, else as the model says. No checkpoint is removed yet.
    ///
    /// # Errors
    /// A program that does not fit, weights that cannot be read, a checkpoint of another model.
    pub fn new(
        setup: &'a Setup,
        checkpoints: Checkpoints,
        beginning: &Beginning,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Trainer<'a>, TrainError> {
        let Setup { config, model, options, runtime, group, .. } = setup;
        let program = step::train_step(&model.config, options)?;
        let basis = Basis::of(model, &setup.data.training, config.lora.is_some())?;
        let own = serde_json::to_vec(&basis).unwrap_or_default();
        basis.agrees(group.index(), &group.all_gather("train/basis", &own, AGREEMENT)?)?;
        let from = beginning.checkpoint();
        if let Some(checkpoint) = from {
            restore::check(checkpoint, &program)?;
            if let Some(before) = Basis::saved(checkpoint) {
                for path in basis.goes_on_from(&before, checkpoint)? {
                    on_event(Event::Warning(format!(
                        "{path} is not what it was when the run was saved: which rows come from here on \
                         has changed"
                    )));
                }
            }
        }
        let keep = Keep { last: config.checkpoint.keep_last, best: config.checkpoint.keep_best };
        let saver = Saver::new(&checkpoints, group.clone(), keep)?;
        on_event(Event::Compiling { program: "train_step" });
        let loaded = Loaded::new(runtime, program)?;
        on_event(Event::Compiled { program: "train_step", info: loaded.info() });
        let evaluation = Evaluation::prepare(setup, on_event)?;
        let start = state::Source {
            start: &model.start,
            checkpoint: from,
            layers: model.config.num_hidden_layers,
        };
        let kept = state::load(loaded.program(), loaded.mesh(), &start, &mut |done, total| {
            on_event(Event::Weights { done, total });
        })?;
        let mut position = Position::default();
        if let Some(checkpoint) = from {
            position = Position::of(checkpoint)?;
            let location = checkpoint.location();
            on_event(Event::Resumed { step: position.step, location: &location });
        }
        let kept = kept.into_iter().map(Arc::new).collect();
        let tickets = Vec::new();
        Ok(Trainer {
            setup,
            loaded,
            evaluation,
            kept,
            checkpoints,
            saver,
            tickets,
            position,
            basis,
            replaces: !matches!(beginning, Beginning::Anew),
            on_event,
        })
    }

    /// The step after which the run goes on.
    pub fn step(&self) -> usize {
        self.position.step
    }

    /// Wall time of the run up to there, in seconds; none if it begins, or its checkpoint does not say.
    pub fn seconds(&self) -> Option<f64> {
        self.position.seconds
    }

    /// Trains to the end, or until `stop` is set, which is looked at after every step. `records` is
    /// where what happens is written down: process 0 has one.
    ///
    /// # Errors
    /// Data that cannot be read, devices that fail, too many skipped steps in a row. What was saved
    /// stays. A last save that fails is no error here: what the run came to can still be written down.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        mut records: Option<&mut Records>,
    ) -> Result<Outcome, TrainError> {
        let setup = self.setup;
        let steps = setup.config.training.steps;
        let mut clock = Clock::start();
        let mut pending: Option<Pending> = None;
        let first = self.position.step;
        let rows = self.loaded.rows()?;
        let mut batches = Ahead::start(setup.data.training.clone(), first as u64, rows);
        // Only here: what is wrong with data, mesh, weights or output must not cost what there was.
        if self.replaces && setup.group.is_first() {
            self.saver.remove_after(first as u64)?;
        }
        for step in first + 1..=steps {
            let started = self.start(step, &mut batches)?;
            // The record of the step before is read while this one runs.
            if let Some(before) = pending.replace(started) {
                self.record(before, false, &mut clock, &mut records)?;
            }
            let stopping = agree_to_stop(&setup.group, stop.load(Ordering::Relaxed))?;
            // Before a save, so that how the last one went is known at the end and not before.
            self.hear_of_saves();
            let due = Due::at(step, &setup.config, stopping);
            if due.any()
                && let Some(now) = pending.take()
            {
                self.record(now, due.evaluation, &mut clock, &mut records)?;
                if due.samples {
                    self.write_samples(step, &mut records);
                }
                if due.checkpoint {
                    let seconds = records.as_ref().map(|records| records.seconds());
                    self.position.seconds = seconds.or(self.position.seconds);
                    self.save(step)?;
                }
                // What was done besides is not part of a step's time.
                clock.restart();
            }
            if let Some(failure) = setup.group.failure() {
                return Err(failure.into());
            }
            if stopping && step < steps {
                return Ok(self.end(Outcome::Stopped { step }));
            }
        }
        Ok(self.end(Outcome::Finished))
    }

    fn start(&mut self, step: usize, batches: &mut Ahead) -> Result<Pending, TrainError> {
        let config = &self.setup.config;
        let texts = self.loaded.texts(|rows| -> Result<Batch, TrainError> {
            Ok(batches.rows(step as u64 - 1, rows)?)
        })?;
        let factor = config.schedule.factor(step, config.training.steps);
        let learning_rate = config.optimizer.learning_rate * factor;
        let scalars = Scalars {
            learning_rate,
            adamw_learning_rate: config.optimizer.adamw_learning_rate * factor,
            loss_limit: self.position.loss_limit(config.guard.spike_factor),
            seed: config.training.seed as u32,
            step: step as u32,
        };
        let metrics = self.loaded.step(&texts, &scalars, &mut self.kept)?;
        Ok(Pending { step, learning_rate, metrics })
    }

    /// Waits for a step, measures the loss on validation text if asked to, and writes down both.
    fn record(
        &mut self,
        pending: Pending,
        evaluate: bool,
        clock: &mut Clock,
        records: &mut Option<&mut Records>,
    ) -> Result<(), TrainError> {
        let result: StepResult = pending.metrics.read()?;
        let config = &self.setup.config;
        self.position.advance(pending.step, &result);
        let seconds = clock.lap();
        let validation = match (&self.evaluation, evaluate) {
            (Some(evaluation), true) => Some(evaluation.run(&self.kept)?),
            _ => None,
        };
        let record = StepRecord {
            step: pending.step,
            loss: result.loss,
            grad_norm: result.gradient_norm,
            lr: pending.learning_rate,
            tokens: result.tokens as usize,
            seconds,
            tokens_per_second: result.tokens / seconds,
            mfu: records.as_ref().and_then(|records| records.utilization(result.tokens / seconds)),
            skipped: result.skipped,
            validation_loss: validation.map(|(loss, _)| loss),
            bits_per_byte: validation.map(|(_, bits)| bits),
            resumed: self.position.take_resumed(),
        };
        if let Some((loss, _)) = validation {
            self.position.validation_loss = Some(loss);
        }
        if let Some(records) = records.as_mut()
            && let Err(error) = records.step(&record)
        {
            self.tell_of_metrics(&error);
        }
        (self.on_event)(Event::Step { record: &record, steps: config.training.steps });
        if self.position.skipped_in_a_row >= config.guard.stop_after {
            // The last checkpoint stays what the run goes on from.
            let count = self.position.skipped_in_a_row;
            return Err(TrainError::Diverged { step: pending.step, count, loss: result.loss });
        }
        Ok(())
    }

    fn write_samples(&mut self, step: usize, records: &mut Option<&mut Records>) {
        let Setup { config, model, options, runtime, group, .. } = self.setup;
        // Over several processes each would see a part of the tokens only.
        if config.samples.prompts.is_empty() || group.count() > 1 {
            return;
        }
        let sampler = Sampler {
            runtime,
            config: &model.config,
            tokenizer: &model.tokenizer,
            options,
            settings: &config.samples,
        };
        let mut samples = Vec::new();
        let program = self.loaded.program();
        // A sample that fails is no reason to lose a run.
        if let Err(error) = sampler.write(step, program, &self.kept, |text| samples.push(text)) {
            (self.on_event)(Event::Warning(format!("no sample after step {step}: {error}")));
        }
        for sample in &samples {
            if let Some(records) = records.as_mut()
                && let Err(error) = records.sample(sample)
            {
                self.tell_of_metrics(&error);
            }
            (self.on_event)(Event::Sample(sample));
        }
    }

    /// What cannot be written down now waits, and is no reason to lose a run.
    fn tell_of_metrics(&mut self, error: &MetricsError) {
        let text = format!("metrics wait until they can be written, and training goes on: {error}");
        (self.on_event)(Event::Warning(text));
    }

    /// Takes a snapshot, which is written while training goes on.
    fn save(&mut self, step: usize) -> Result<(), TrainError> {
        let program = self.loaded.program();
        let changing = program.kept.iter().zip(&self.kept).filter(|(tensor, _)| tensor.changes());
        let arrays: Vec<SaveArray<'_>> = changing
            .map(|(tensor, array)| SaveArray {
                name: &tensor.name,
                role: match tensor.kept {
                    step::Kept::Weight { .. } => Role::Parameter,
                    step::Kept::State => Role::OptimizerState,
                },
                array,
            })
            .collect();
        let metadata = self.position.metadata(self.setup, &self.basis);
        let ticket = self.saver.save(step as u64, &arrays, metadata)?;
        let stall_seconds = ticket.stall_seconds + ticket.waited_seconds;
        (self.on_event)(Event::Saving { step, stall_seconds });
        self.tickets.push(ticket);
        Ok(())
    }

    /// Tells how finished saves went. One that failed is no reason to stop: the one before is there.
    /// That of the last step is one ([`Trainer::end`]).
    fn hear_of_saves(&mut self) {
        let mut waiting = Vec::new();
        for mut ticket in std::mem::take(&mut self.tickets) {
            let step = ticket.step;
            match ticket.poll() {
                None => waiting.push(ticket),
                Some(outcome) => self.tell_of_save(step, outcome),
            }
        }
        self.tickets = waiting;
    }

    fn tell_of_save(
        &mut self,
        step: u64,
        outcome: Result<Saved, crate::checkpoint::CheckpointError>,
    ) {
        match outcome {
            Ok(saved) => {
                if let Some(warning) = &saved.warning {
                    (self.on_event)(Event::Warning(warning.clone()));
                }
                (self.on_event)(Event::Saved(&saved));
            }
            Err(error) => {
                let location = self.checkpoints.location();
                (self.on_event)(Event::Warning(format!(
                    "step {step} was not saved in {location}, and training goes on: {error}"
                )));
            }
        }
    }

    /// Waits for all saves; the last one must have worked, or the end of the run is lost.
    fn end(&mut self, outcome: Outcome) -> Outcome {
        let tickets = std::mem::take(&mut self.tickets);
        let last = tickets.len().saturating_sub(1);
        for (place, ticket) in tickets.into_iter().enumerate() {
            let step = ticket.step;
            match ticket.wait() {
                Err(source) if place == last => {
                    let location = self.checkpoints.location();
                    // Whether it can be listed now is of no matter any more.
                    let stays =
                        self.checkpoints.list().ok().and_then(|steps| steps.last().copied());
                    return Outcome::Unsaved(Unsaved { step, location, stays, source });
                }
                outcome => self.tell_of_save(step, outcome),
            }
        }
        outcome
    }
}

/// Whether all processes stop now, since one of them was asked to: they save the same step, or none.
/// All of them come here.
///
/// # Errors
/// A group that has failed.
pub fn agree_to_stop(group: &ProcessGroup, asked: bool) -> Result<bool, GroupError> {
    let all = group.all_gather("train/stop", &[u8::from(asked)], AGREEMENT)?;
    Ok(all.iter().any(|asked| asked.first() == Some(&1)))
}

/// What is to be done after a step.
struct Due {
    evaluation: bool,
    samples: bool,
    checkpoint: bool,
}

impl Due {
    fn at(step: usize, config: &Config, stopping: bool) -> Due {
        let last = step == config.training.steps;
        let every = |count: usize| last || (count > 0 && step.is_multiple_of(count));
        let checkpoint = stopping || every(config.checkpoint.every);
        // Which checkpoint is best is said by a measurement of the same step.
        let compares = checkpoint && config.checkpoint.keep_best > 0;
        let measures = config.training.eval_every > 0;
        if stopping && !last {
            // A machine that is being taken away leaves seconds: what counts is the checkpoint.
            return Due { evaluation: false, samples: false, checkpoint };
        }
        Due {
            evaluation: measures && (compares || every(config.training.eval_every)),
            samples: every(config.samples.every),
            checkpoint,
        }
    }

    fn any(&self) -> bool {
        self.evaluation || self.samples || self.checkpoint
    }
}

/// The folder for what a run writes down.
pub fn output_folder(config: &Config) -> PathBuf {
    Path::new(&config.output.folder).to_path_buf()
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> TrainError {
        TrainError::Data(error)
    }
}

/// Seconds since `start`.
pub(crate) fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
