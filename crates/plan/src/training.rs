//! A training step on every target: which mesh, does it fit, how long does it take, and if it does not
//! fit, what would.

mod measured;
mod mesh;
mod others;
mod variants;

use graph::{Input, Mesh, TraceError};
use llm::ModelConfig;
use runtime::chips::Chip;
use runtime::{PluginKind, Purpose, Target};
use serde::Serialize;
use train::config::Config;
use train::metrics::{Trained, flops_per_token, model_flops_utilization};
use train::setup::{SetupError, step_options};
use train::step::{StepOptions, train_step};

use crate::compile::{CompileError, Compiled, Planner, too_large};
use crate::each::News;
use crate::here::HereError;
use crate::price::{self, Rental, Wish};
use crate::row::{JobFigures, Misfit, Planned, Time, Verdict};
use crate::{energy, time};
pub(crate) use measured::{measured_time, misfit};
use mesh::{Candidate, candidates};
pub use others::Other;
use variants::{Variant, sizes, variants};

/// Compilations of one target until it is given up.
const ATTEMPTS: usize = 4;

/// Of these, as it was asked for: what could be changed is to have its turn.
const ATTEMPTS_AS_ASKED: usize = 2;

/// Numbers of a chip that are compiled until one fits, where any number will do.
const ATTEMPTS_OF_A_CHIP: usize = 3;

/// Above this share of a device's memory the formula is believed without a compiler; it was seen to be
/// off by less.
const HOPELESS: f64 = 2.0;

/// What is trained, and how much of it.
pub struct TrainingJob {
    pub config: Config,
    pub model: ModelConfig,
    /// Tokens of the whole run; those of the config's steps if absent.
    pub tokens: Option<f64>,
    pub wish: Wish,
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub step: Time,
    pub tokens_per_step: u64,
    pub tokens_per_second: f64,
    pub tokens_per_second_per_chip: f64,
    /// Model FLOPs utilization, from 0 to 1; none where the peak is not known.
    pub mfu: Option<f64>,
    /// Of the whole run.
    pub total_tokens: f64,
    /// Of its steps.
    pub total_seconds: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Here(#[from] HereError),
}

/// One thing that could be compiled.
struct Choice {
    variant: Variant,
    options: StepOptions,
    candidate: Candidate,
}

impl TrainingJob {
    /// All of them, where only the end is kept.
    fn steps_between_checkpoints(&self) -> f64 {
        match self.config.checkpoint.every {
            0 => self.total_tokens() / tokens_per_step(&self.config).max(1) as f64,
            every => every as f64,
        }
    }

    pub fn total_tokens(&self) -> f64 {
        let of_steps = tokens_per_step(&self.config) as f64 * self.config.training.steps as f64;
        self.tokens.unwrap_or(of_steps)
    }

    /// Plans for one target, with the mesh that looks best; and what else could be compiled for it, where
    /// there is time. `tell` hears of each compilation before it begins.
    ///
    /// # Errors
    /// What is no answer about the target: a config that makes no program, a compiler that crashes.
    pub fn plan(
        &self,
        planner: &Planner,
        target: &Target,
        tell: &dyn Fn(News<'_>),
    ) -> Result<(Verdict, Vec<Other>), TrainingError> {
        planner.plugin(target)?;
        if target.plugin() == PluginKind::Cpu {
            return Ok((self.plan_here(planner, target, tell)?, Vec::new()));
        }
        let inputs = self.inputs(target)?;
        let mut search =
            Search { factor: 1.0, model_bytes: model_bytes(&inputs), ..Search::default() };
        let total_bytes = inputs.iter().map(|input| input.shape.bytes() as u64).sum();
        for variant in variants(&self.config, target) {
            if search.attempts >= ATTEMPTS {
                break;
            }
            if !variant.is_as_asked() && variant.is_hopeless(total_bytes) {
                search.ruled_out += 1;
                continue;
            }
            let Some(choices) = self.choices(&variant, &inputs, &mut search)? else { continue };
            for choice in choices {
                let most = if choice.variant.is_as_asked() { ATTEMPTS_AS_ASKED } else { ATTEMPTS };
                if search.attempts >= most {
                    break;
                }
                let needed = choice.candidate.bytes as f64 * search.factor;
                let Some(available) = usable(&choice.variant.target) else { continue };
                // As asked for, a compiler is to say no; what we propose has to look good first.
                let as_asked = choice.variant.is_as_asked();
                let limit = if as_asked && search.attempts == 0 { HOPELESS } else { 1.0 };
                if needed > available as f64 * limit {
                    search.refuse(&choice, needed as u64, available);
                    continue;
                }
                if let Some(compiled) = self.attempt(planner, &choice, tell, &mut search)? {
                    let others = self.others(&choice, &inputs, search.model_bytes)?;
                    return Ok((self.verdict(&choice, compiled, search), others));
                }
            }
        }
        let misfit = search.misfit.unwrap_or_else(|| Misfit {
            reason: "there is no mesh for it".to_string(),
            needed_bytes: None,
            available_bytes: target.memory_bytes_per_device(),
            compiled: false,
        });
        let mut tried = search.tried;
        if search.ruled_out > 0 {
            tried.push(format!(
                "by formula, {} other meshes and changes need too much as well",
                search.ruled_out
            ));
        }
        Ok((Verdict::DoesNotFit { misfit, tried }, Vec::new()))
    }

    /// Plans for the fewest of a chip that the run fits on as it is: more of them cost as much for a
    /// token at best. Where it fits on no number of them, for the most that it can be split over.
    ///
    /// # Errors
    /// As [`TrainingJob::plan`].
    pub fn plan_fewest(
        &self,
        planner: &Planner,
        chip: &'static Chip,
        tell: &dyn Fn(News<'_>),
    ) -> Result<(Verdict, Vec<Other>), TrainingError> {
        let targets: Vec<Target> = sizes(chip).collect();
        let Some(smallest) = targets.first() else {
            return Ok((
                Verdict::Skipped { reason: format!("no number of {} is listed", chip.name) },
                Vec::new(),
            ));
        };
        planner.plugin(smallest)?;
        let inputs = self.inputs(smallest)?;
        let mut search =
            Search { factor: 1.0, model_bytes: model_bytes(&inputs), ..Search::default() };
        let mut most = smallest;
        for target in &targets {
            if search.attempts >= ATTEMPTS_OF_A_CHIP {
                break;
            }
            let variant = Variant::as_asked(&self.config, target);
            if !self.has_mesh(&variant, &inputs)? {
                continue;
            }
            most = target;
            let Some(usable) = usable(target) else { continue };
            let fits =
                |choice: &Choice| choice.candidate.bytes as f64 * search.factor <= usable as f64;
            let choices = self.choices(&variant, &inputs, &mut Search::default())?;
            let Some(choice) = choices.unwrap_or_default().into_iter().find(fits) else { continue };
            if let Some(compiled) = self.attempt(planner, &choice, tell, &mut search)? {
                let others = self.others(&choice, &inputs, search.model_bytes)?;
                return Ok((self.verdict(&choice, compiled, search), others));
            }
        }
        self.plan(planner, most, tell)
    }

    /// Whether model and batch can be split over a target's devices in any way.
    fn has_mesh(&self, variant: &Variant, inputs: &[Input]) -> Result<bool, TrainingError> {
        let target = &variant.target;
        let base = step_options(&variant.config, &self.model, target.plugin(), Mesh::single())?;
        Ok(!candidates(&self.model, &base, inputs, target).is_empty())
    }

    /// The step's arguments with their shapes, on whatever mesh.
    fn inputs(&self, target: &Target) -> Result<Vec<Input>, TrainingError> {
        let mut config = self.config.clone();
        // Only shapes are of interest, and a loop over layers is traced sooner.
        config.training.layers = Some(train::config::Layers::Scanned);
        let options = step_options(&config, &self.model, target.plugin(), Mesh::single())?;
        Ok(train_step(&self.model, &options)?.program.inputs)
    }

    /// What could be compiled of a variant, the quickest first; nothing if no mesh suits it, or what the
    /// program is given is too much for all.
    fn choices(
        &self,
        variant: &Variant,
        inputs: &[Input],
        search: &mut Search,
    ) -> Result<Option<Vec<Choice>>, TrainingError> {
        let target = &variant.target;
        let own = variant.config.mesh.to_mesh();
        let kind = target.plugin();
        let base = step_options(&variant.config, &self.model, kind, Mesh::single())?;
        let mut found = candidates(&self.model, &base, inputs, target);
        // A mesh that was asked for is the only one, where it has as many devices.
        if own.devices() == target.devices() && own.devices() > 1 {
            let sequences = base.batch_size / base.accumulation.max(1);
            match (train::config::check_mesh(&own, &self.model, sequences), variant.is_as_asked()) {
                (Ok(()), _) => {}
                (Err(error), true) => return Err(SetupError::from(error).into()),
                // A change that the mesh does not go with.
                (Err(_), false) => return Ok(None),
            }
            found = vec![mesh::candidate(&self.model, &base, inputs, target, own)];
        }
        if found.is_empty() {
            let devices = target.devices();
            search.note(
                variant,
                Misfit {
                    reason: format!(
                        "{} sequences at once cannot be split over {devices} devices: `training.batch_size` / `training.accumulation` must be a multiple of data x fsdp, and heads and MLP of tensor",
                        base.batch_size / base.accumulation.max(1)
                    ),
                    needed_bytes: None,
                    available_bytes: None,
                    compiled: false,
                },
            );
            return Ok(None);
        }
        let fits = |candidate: &Candidate| too_large(candidate.argument_bytes, target).is_none();
        if !found.iter().any(fits) {
            let least = found.iter().map(|candidate| candidate.argument_bytes).min();
            if let Some(misfit) = least.and_then(|bytes| too_large(bytes, target)) {
                search.note(
                    variant,
                    Misfit {
                        reason: "weights and optimizer state alone do not fit".to_string(),
                        ..misfit
                    },
                );
            }
            return Ok(None);
        }
        found.retain(fits);
        let choices = found.into_iter().map(|candidate| {
            let mesh = candidate.mesh.clone();
            let options = step_options(&variant.config, &self.model, kind, mesh)?;
            Ok(Choice { variant: variant.clone(), options, candidate })
        });
        choices.collect::<Result<Vec<Choice>, TrainingError>>().map(Some)
    }

    fn attempt(
        &self,
        planner: &Planner,
        choice: &Choice,
        tell: &dyn Fn(News<'_>),
        search: &mut Search,
    ) -> Result<Option<Compiled>, TrainingError> {
        let target = &choice.variant.target;
        if !choice.variant.is_as_asked()
            && !std::mem::replace(&mut search.told, true)
            && let Some(misfit) = &search.misfit
        {
            tell(News::DoesNotFit(misfit));
        }
        tell(News::Compiling(&choice.describe()));
        let program = train_step(&self.model, &choice.options)?.program;
        let compiled = planner.compile(&program, Purpose::Training, target)?;
        match compiled.and_then(|compiled| within(compiled, target)) {
            Ok(compiled) => Ok(Some(compiled)),
            Err(misfit) => {
                search.attempts += 1;
                if let Some(needed) = misfit.needed_bytes {
                    let seen = needed as f64 / choice.candidate.bytes.max(1) as f64;
                    search.factor = seen.max(1.0);
                }
                search.note(&choice.variant, misfit);
                Ok(None)
            }
        }
    }

    fn verdict(&self, choice: &Choice, compiled: Compiled, search: Search) -> Verdict {
        let plan = Box::new(self.planned(choice, compiled, search.model_bytes));
        match search.misfit {
            Some(misfit) if !choice.variant.changes.is_empty() => {
                Verdict::FitsChanged { misfit, plan }
            }
            _ => Verdict::Fits { plan },
        }
    }

    fn planned(&self, choice: &Choice, compiled: Compiled, model_bytes: f64) -> Planned {
        let target = &choice.variant.target;
        let Compiled { memory, profile, compile_seconds, cached, .. } = compiled;
        let step = time::of(&profile);
        let figures = self.figures(target, &choice.variant.config, step);
        let chips = target.chips as f64;
        let busy = energy::computing_share(&figures.step);
        let energy = energy::of_chips(target.chip, chips, busy, figures.tokens_per_second);
        let rental = Rental {
            // Half of what lies between two checkpoints, on average.
            lost_seconds: self.steps_between_checkpoints() / 2.0 * figures.step.seconds,
            egress_bytes: model_bytes,
            ..Rental::of(target, figures.total_seconds, figures.total_tokens)
        };
        let money = price::money(target.chip, &rental, &self.wish);
        Planned {
            target: target.to_string(),
            chips: target.chips,
            hosts: target.hosts(),
            mesh: choice.candidate.mesh.to_string(),
            changes: choice.variant.changes.clone(),
            memory,
            job: JobFigures::Training(Box::new(figures)),
            compile_seconds,
            cached,
            money,
            energy,
            notes: profile.unknown,
        }
    }

    /// What follows from the time of a step.
    pub fn figures(&self, target: &Target, config: &Config, step: Time) -> Figures {
        let tokens_per_step = tokens_per_step(config);
        let tokens_per_second = tokens_per_step as f64 / step.seconds.max(f64::MIN_POSITIVE);
        let trained = match &self.config.lora {
            Some(_) => Trained::Lora { adapter_parameters: 0 },
            None => Trained::All,
        };
        let flops = flops_per_token(&self.model, self.config.data.sequence_length, trained);
        let (chip, devices) = (target.chip, target.devices());
        let total_tokens = self.total_tokens();
        Figures {
            step,
            tokens_per_step,
            tokens_per_second,
            tokens_per_second_per_chip: tokens_per_second / target.chips as f64,
            mfu: model_flops_utilization(flops, tokens_per_second, chip, devices),
            total_tokens,
            total_seconds: total_tokens / tokens_per_second,
        }
    }
}

fn tokens_per_step(config: &Config) -> u64 {
    (config.training.batch_size * config.data.sequence_length) as u64
}

impl Choice {
    fn describe(&self) -> String {
        let mesh = &self.candidate.mesh;
        let changes = self.variant.changes.join(", ");
        let with = if changes.is_empty() { String::new() } else { format!(" with {changes}") };
        match mesh.devices() {
            1 => format!("{}{with}", self.variant.target),
            _ => format!("{} ({mesh}){with}", self.variant.target),
        }
    }
}

/// What is known so far of a target.
#[derive(Default)]
struct Search {
    /// Why it does not fit as it was asked for.
    misfit: Option<Misfit>,
    /// Everything that did not fit, in words.
    tried: Vec<String>,
    /// How many times the formula's bytes a compiler wanted, the last time.
    factor: f64,
    /// Other meshes and changes that the formula ruled out.
    ruled_out: usize,
    /// Compilations that did not fit.
    attempts: usize,
    /// Of all weights, as they are held.
    model_bytes: f64,
    /// Whether it was told that it does not fit.
    told: bool,
}

impl Search {
    fn note(&mut self, variant: &Variant, misfit: Misfit) {
        let asked = variant.is_as_asked();
        let what = if asked { "as asked for".to_string() } else { variant.changes.join(", ") };
        let line = format!("{what}: {}", misfit.sentence());
        // What no compiler was asked about is told once, and counted.
        if !asked && !misfit.compiled {
            self.ruled_out += 1;
        } else if !self.tried.contains(&line) {
            self.tried.push(line);
        }
        // Later meshes need less: the last answer for what was asked for is the closest.
        if asked || self.misfit.is_none() {
            self.misfit = Some(misfit);
        }
    }

    fn refuse(&mut self, choice: &Choice, needed: u64, available: u64) {
        if !choice.variant.is_as_asked() || self.misfit.is_some() {
            self.ruled_out += 1;
            return;
        }
        let misfit = Misfit {
            reason:
                "by formula, weights, gradients and what is kept for the way back are far too much"
                    .to_string(),
            needed_bytes: Some(needed),
            available_bytes: Some(available),
            compiled: false,
        };
        self.note(&choice.variant, misfit);
    }
}

/// A compiler of GPUs looks at all of the memory, of which a process gets a part.
fn within(compiled: Compiled, target: &Target) -> Result<Compiled, Misfit> {
    let needed = compiled.memory.needed_bytes;
    match usable(target).filter(|_| target.plugin() == PluginKind::Cuda) {
        Some(usable) if needed > usable => Err(Misfit {
            reason: "beside what the driver and the collectives take".to_string(),
            needed_bytes: Some(needed),
            available_bytes: Some(usable),
            compiled: true,
        }),
        _ => Ok(compiled),
    }
}

/// What of a device's memory a step can have.
fn usable(target: &Target) -> Option<u64> {
    let all = target.memory_bytes_per_device()?;
    Some(serve::engine::usable_bytes(target.plugin(), all))
}

fn model_bytes(inputs: &[Input]) -> f64 {
    let weights = inputs.iter().filter(|input| input.role == graph::Role::Parameter);
    weights.map(|input| input.shape.bytes() as f64).sum()
}

impl Misfit {
    /// Needs and has, then the reason.
    pub fn sentence(&self) -> String {
        let gibibytes = |bytes: u64| format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64);
        match (self.needed_bytes, self.available_bytes) {
            (Some(needed), Some(available)) => format!(
                "needs {} of {} per device ({})",
                gibibytes(needed),
                gibibytes(available),
                self.reason
            ),
            _ => self.reason.clone(),
        }
    }
}
