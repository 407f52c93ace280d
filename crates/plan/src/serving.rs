//! A server on every target: on how many chips one instance runs best, how it feels under a load, and how
//! many of them the load needs.

mod instance;
pub mod load;
mod measured;
mod steps;

use graph::DType;
use llm::ModelConfig;
use llm::models::PanelPlan;
use llm::programs::ProgramOptions;
use runtime::chips::{Chip, chips};
use runtime::targets::legal_counts;
use runtime::{PluginKind, Target};
use serde::Serialize;
use serve::engine::ShapesWish;

use crate::compile::{CompileError, Planner};
use crate::each::News;
use crate::energy;
use crate::here::{self, Drawn, HereError};
use crate::price::{self, Rental, Wish};
use crate::row::{Energy, JobFigures, Memory, Misfit, Planned, Time, Verdict};
use instance::{Instance, Outcome};
use load::{AtLoad, Objectives, Shape, at, meets, most};
use steps::{CompiledSteps, End, FormulaSteps};

/// The most chips of one instance: beyond, an instance spans hosts, which is not served over.
const INSTANCE_CHIPS_MAX: usize = 8;

/// Sizes of an instance that are compiled before a target is given up.
const ATTEMPTS: usize = 3;

/// What is served, to whom.
pub struct ServingJob {
    pub model: ModelConfig,
    /// Types and quantization; the mesh is chosen.
    pub options: Box<dyn Fn(PluginKind) -> Result<ProgramOptions, String> + Send + Sync>,
    /// How matrices are held on a CPU, where its native functions read them.
    pub panels: Box<dyn Fn() -> Result<PanelPlan, String> + Send + Sync>,
    pub shapes: ShapesWish,
    /// Tokens of a prompt, and of an answer.
    pub input: usize,
    pub output: usize,
    pub objectives: Objectives,
    /// Of all instances together; without it, one instance as busy as the objectives allow.
    pub requests_per_second: Option<f64>,
    pub wish: Wish,
}

/// What was asked for: a number of chips, or a chip in whatever number suits.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    Exactly(Target),
    Any(&'static Chip),
    /// A chip that nothing here compiles for; which number of it does not matter.
    NotCompiled(&'static Chip),
}

#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Where one instance runs.
    pub instance: String,
    /// How it is at the load that it gets.
    pub load: AtLoad,
    /// The same if all times are at an end of their range; nothing where it could not keep up.
    pub quickest: Option<AtLoad>,
    pub slowest: Option<AtLoad>,
    /// The most requests a second that one instance answers as promised.
    pub capacity_requests_per_second: f64,
    pub objectives: Objectives,
    /// Whether it is as promised at its load.
    pub meets: bool,
    pub instances: usize,
    pub chips_needed: usize,
    pub output_tokens_per_second: f64,
    pub output_tokens_per_second_per_chip: f64,
    /// Sequences that the cache has room for, and that the server lets in.
    pub sequences_max: usize,
    pub cache_tokens: usize,
    pub dollars_per_million_input_tokens: Option<f64>,
    pub dollars_per_million_output_tokens: Option<f64>,
    /// A decode step with as many rows as the load has.
    pub decode: Time,
    pub decode_rows: usize,
    /// The first chunk of a prompt.
    pub prefill: Time,
    pub prefill_tokens: usize,
}

impl Figures {
    /// From a request to the last token of its answer.
    pub fn answer_seconds(&self) -> f64 {
        let tokens = self.output_tokens_per_second
            / (self.load.requests_per_second * self.instances as f64).max(f64::MIN_POSITIVE);
        self.load.ttft_seconds + self.load.tpot_seconds * (tokens - 1.0).max(0.0)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("{0}")]
    Options(String),
    #[error("a server of these shapes has no program for `{0}`, which is an error of the planner")]
    NoProgram(String),
    #[error(transparent)]
    Trace(#[from] graph::TraceError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Here(#[from] HereError),
}

/// A change that may make it fit.
struct Way {
    target: Target,
    options: ProgramOptions,
    changes: Vec<String>,
}

/// One size of an instance, with what the formula says of it.
struct Candidate {
    target: Target,
    /// Of a request on it, chips included; lower is better.
    chip_seconds: f64,
}

impl ServingJob {
    /// Plans for what was asked.
    ///
    /// # Errors
    /// What is no answer about the target: a model that makes no program, a compiler that crashes.
    pub fn plan(
        &self,
        planner: &Planner,
        ask: &Ask,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Verdict, ServingError> {
        let (chip, most_chips) = match ask {
            Ask::Exactly(target) => (target.chip, target.chips),
            Ask::Any(chip) | Ask::NotCompiled(chip) => (*chip, INSTANCE_CHIPS_MAX),
        };
        let first = legal_counts(chip).first().copied().unwrap_or(1);
        let smallest = match Target::new(chip, first) {
            Ok(target) => target,
            Err(error) => return Ok(Verdict::Skipped { reason: error.to_string() }),
        };
        planner.plugin(&smallest)?;
        if smallest.plugin() == PluginKind::Cpu {
            return self.plan_here(planner, ask, &smallest, tell);
        }
        let options = (self.options)(smallest.plugin()).map_err(ServingError::Options)?;
        let mut misfit = None;
        let mut tried = Vec::new();
        let candidates = self.candidates(chip, most_chips, &options, &mut misfit);
        let mut best: Option<(Planned, bool)> = None;
        for candidate in candidates.iter().take(ATTEMPTS) {
            let instance = Instance::new(self, &candidate.target, &options);
            match instance.compile(planner, tell)? {
                Outcome::Fits(fits) => {
                    let (planned, good) = match self.planned(ask, &candidate.target, *fits) {
                        Ok(planned) => planned,
                        Err(slow) => {
                            misfit = Some(slow);
                            continue;
                        }
                    };
                    let better = best.as_ref().is_none_or(|(_, known)| good && !known);
                    if better {
                        best = Some((planned, good));
                    }
                    if good {
                        break;
                    }
                }
                Outcome::DoesNotFit(found) => {
                    tried.push(format!("{}: {}", candidate.target, found.sentence()));
                    misfit = Some(found);
                }
            }
        }
        match best {
            Some((plan, _)) => Ok(Verdict::Fits { plan: Box::new(plan) }),
            None => self.larger(planner, ask, &options, misfit, tried, tell),
        }
    }

    fn plan_here(
        &self,
        planner: &Planner,
        ask: &Ask,
        target: &Target,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Verdict, ServingError> {
        if matches!(ask, Ask::Exactly(target) if target.chips > 1) {
            return Ok(Verdict::Skipped {
                reason: "virtual devices share one processor: plan for `cpu`".to_string(),
            });
        }
        match self.measure(planner, target, tell)? {
            None => Ok(Verdict::Skipped { reason: here::NO_MEASURER.to_string() }),
            Some(Outcome::DoesNotFit(misfit)) => {
                Ok(Verdict::DoesNotFit { misfit, tried: Vec::new() })
            }
            Some(Outcome::Fits(fits)) => match self.planned(ask, target, *fits) {
                Ok((plan, _)) => Ok(Verdict::Fits { plan: Box::new(plan) }),
                Err(misfit) => Ok(Verdict::DoesNotFit { misfit, tried: Vec::new() }),
            },
        }
    }

    /// What would fit where what was asked for does not: more chips, compiled.
    fn larger(
        &self,
        planner: &Planner,
        ask: &Ask,
        options: &ProgramOptions,
        misfit: Option<Misfit>,
        mut tried: Vec<String>,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Verdict, ServingError> {
        let misfit = misfit.unwrap_or_else(|| Misfit {
            reason: "the model's heads and hidden layer cannot be split over so many devices"
                .to_string(),
            needed_bytes: None,
            available_bytes: None,
            compiled: false,
        });
        tell(News::DoesNotFit(&misfit));
        for way in self.ways(ask, options).into_iter().take(ATTEMPTS) {
            let instance = Instance::new(self, &way.target, &way.options);
            match instance.compile(planner, tell)? {
                Outcome::Fits(fits) => {
                    let target = &way.target;
                    let planned = self.planned(&Ask::Exactly(*target), target, *fits);
                    let Ok((mut plan, _)) = planned else { continue };
                    plan.changes = way.changes;
                    return Ok(Verdict::FitsChanged { misfit, plan: Box::new(plan) });
                }
                Outcome::DoesNotFit(found) => {
                    let what = way.changes.join(", ");
                    tried.push(format!("{what}: {}", found.sentence()));
                }
            }
        }
        Ok(Verdict::DoesNotFit { misfit, tried })
    }

    /// What could be changed, the least first: matrices in 8 bits, more chips, other chips of the same
    /// compiler that have more memory.
    fn ways(&self, ask: &Ask, options: &ProgramOptions) -> Vec<Way> {
        let (asked, chip) = match ask {
            Ask::Exactly(target) => (Some(*target), target.chip),
            Ask::Any(chip) | Ask::NotCompiled(chip) => (None, *chip),
        };
        let mut ways = Vec::new();
        let mut add = |chip: &'static Chip, most: usize, options: &ProgramOptions, int8: bool| {
            for candidate in self.candidates(chip, most, options, &mut None) {
                let target = candidate.target;
                // Within what was asked for.
                let within = asked.is_none_or(|asked| target.chips <= asked.chips);
                let within = within && chip.name == ask.chip().name;
                let mut changes = Vec::new();
                if !within {
                    changes.push(format!("{target} instead of {}", ask.name()));
                }
                if int8 {
                    changes.push("--quantization int8".to_string());
                }
                if !changes.is_empty() {
                    ways.push(Way { target, options: options.clone(), changes });
                }
            }
        };
        let most = asked.map_or(INSTANCE_CHIPS_MAX, |asked| asked.chips);
        let mut narrow = options.clone();
        narrow.held = Some(DType::S8);
        let has_narrow = options.held.is_none();
        if has_narrow {
            add(chip, most, &narrow, true);
        }
        add(chip, INSTANCE_CHIPS_MAX, options, false);
        if has_narrow {
            add(chip, INSTANCE_CHIPS_MAX, &narrow, true);
        }
        let mut others: Vec<&'static Chip> = chips()
            .iter()
            .filter(|other| other.plugin == chip.plugin && other.memory_bytes > chip.memory_bytes)
            .collect();
        others.sort_by_key(|other| other.memory_bytes);
        for other in others {
            add(other, INSTANCE_CHIPS_MAX, options, false);
        }
        ways
    }

    /// Sizes that an instance could have, the least chip-seconds for a request first; the reason if there
    /// are none.
    fn candidates(
        &self,
        chip: &'static Chip,
        most_chips: usize,
        options: &ProgramOptions,
        misfit: &mut Option<Misfit>,
    ) -> Vec<Candidate> {
        let mut found = Vec::new();
        for chips in legal_counts(chip) {
            // As many instances as fit into what was asked for must leave no chip over.
            let divides = most_chips.is_multiple_of(chips);
            if chips > most_chips.min(INSTANCE_CHIPS_MAX) || !divides {
                continue;
            }
            let Ok(target) = Target::new(chip, chips) else { continue };
            if target.hosts() > 1 || !splits(&self.model, target.devices()) {
                continue;
            }
            let instance = Instance::new(self, &target, options);
            let (needed, available) = (instance.least_bytes(), instance.usable_bytes());
            if let Some(available) = available
                && needed > available
            {
                *misfit = Some(Misfit {
                    reason: "weights and the cache of one sequence do not fit by themselves"
                        .to_string(),
                    needed_bytes: Some(needed),
                    available_bytes: Some(available),
                    compiled: false,
                });
                continue;
            }
            let formula = FormulaSteps::new(
                &self.model,
                &target,
                instance.weights_and_token_bytes(),
                (self.input as f64, self.output as f64),
                self.shapes.chunk as f64,
            );
            let shape = self.shape(instance.rows_max());
            let rate = most(&formula, &shape, &self.objectives)
                .map_or(1e-6, |load| load.requests_per_second);
            found.push(Candidate { target, chip_seconds: target.chips as f64 / rate });
        }
        found.sort_by(|a, b| a.chip_seconds.total_cmp(&b.chip_seconds));
        found
    }

    fn shape(&self, rows_max: usize) -> Shape {
        Shape { output: self.output as f64, rows_max: rows_max as f64 }
    }

    /// And whether it is as promised.
    fn planned(
        &self,
        ask: &Ask,
        instance: &Target,
        fits: instance::Fits,
    ) -> Result<(Planned, bool), Misfit> {
        let instance::Fits {
            steps,
            memory,
            pages,
            page,
            rows_max,
            compile_seconds,
            cached,
            drawn,
            notes,
        } = fits;
        let shape = self.shape(rows_max);
        let capacity = most(&steps, &shape, &self.objectives);
        // Where nothing is as promised: what it would be with one request at a time.
        let limit = capacity.or_else(|| most(&steps, &shape, &Objectives::default()));
        let Some(limit) = limit else { return Err(too_slow(instance)) };
        let limit_rate = limit.requests_per_second;
        let wanted = self.requests_per_second;
        let mut instances = match (wanted, ask) {
            (Some(wanted), _) => (wanted / limit_rate.max(1e-9)).ceil().max(1.0) as usize,
            (None, _) => 1,
        };
        // What was asked for is rented whole.
        let group = match ask {
            Ask::Exactly(asked) => (asked.chips / instance.chips).max(1),
            Ask::Any(_) | Ask::NotCompiled(_) => 1,
        };
        instances = instances.next_multiple_of(group);
        let rate = wanted.map_or(limit_rate, |wanted| wanted / instances as f64);
        let load = at(&steps, &shape, rate).unwrap_or(limit);
        let good = capacity.is_some() && meets(&load, &self.objectives);
        let chips_needed = instances * instance.chips;
        let output_tokens = load.requests_per_second * self.output as f64;
        let decode = nearest_decode(&steps, load.rows);
        let prefill = steps.prompt.first().cloned();
        let (decode_rows, decode) = decode.unwrap_or_else(|| (0, Time::unknown()));
        let (prefill_tokens, prefill) = prefill.unwrap_or_else(|| (0, Time::unknown()));
        let hours = Rental { ends: false, ..Rental::of(instance, 3600.0, output_tokens * 3600.0) };
        let mut money = price::money(instance.chip, &hours, &self.wish);
        let shares = load.prompt_share / load.busy_share.max(1e-9);
        let an_hour = money.total_dollars;
        let per_million = |share: f64, tokens: f64| {
            an_hour.map(|dollars| {
                dollars * share / (load.requests_per_second * tokens * 3600.0).max(1e-9) * 1e6
            })
        };
        let figures = Figures {
            instance: instance.to_string(),
            load,
            quickest: at(&steps.at(End::Low), &shape, load.requests_per_second),
            slowest: at(&steps.at(End::High), &shape, load.requests_per_second),
            capacity_requests_per_second: capacity.map_or(0.0, |load| load.requests_per_second),
            objectives: self.objectives,
            meets: good,
            instances,
            chips_needed,
            output_tokens_per_second: output_tokens * instances as f64,
            output_tokens_per_second_per_chip: output_tokens / instance.chips as f64,
            sequences_max: rows_max,
            cache_tokens: pages * page,
            dollars_per_million_input_tokens: per_million(shares, self.input as f64),
            dollars_per_million_output_tokens: per_million(1.0 - shares, self.output as f64),
            decode,
            decode_rows,
            prefill,
            prefill_tokens,
        };
        money.total_dollars = an_hour.map(|dollars| dollars * instances as f64);
        for part in &mut money.parts {
            part.dollars *= instances as f64;
        }
        let energy = self.energy(instance, &figures, drawn.as_ref());
        let planned = Planned {
            target: instance.to_string(),
            chips: instance.chips,
            hosts: instance.hosts(),
            mesh: instance::mesh(instance.devices()).to_string(),
            changes: Vec::new(),
            memory,
            job: JobFigures::Serving(Box::new(figures)),
            compile_seconds,
            cached,
            money,
            energy,
            notes,
        };
        Ok((planned, good))
    }

    /// Of one instance: it computes while there is work, but for what prompts and answers wait for links.
    fn energy(&self, instance: &Target, figures: &Figures, drawn: Option<&Drawn>) -> Energy {
        let load = &figures.load;
        let rate = load.requests_per_second * self.output as f64;
        let decode_share = (load.busy_share - load.prompt_share).max(0.0);
        let busy = load.prompt_share * energy::computing_share(&figures.prefill)
            + decode_share * energy::computing_share(&figures.decode);
        match (drawn, instance.plugin()) {
            (Some(drawn), _) => energy::of_meter(drawn, busy, rate),
            (None, PluginKind::Cpu) => Energy::unknown_here(),
            (None, _) => energy::of_chips(instance.chip, instance.chips as f64, busy, rate),
        }
    }
}

fn too_slow(instance: &Target) -> Misfit {
    Misfit {
        reason: format!("{instance} would not keep up with one request an hour"),
        needed_bytes: None,
        available_bytes: None,
        compiled: true,
    }
}

/// Whether heads and hidden layer can be split over so many devices: a cache is whole on what they are
/// not.
fn splits(model: &ModelConfig, devices: usize) -> bool {
    let groups = model.num_key_value_heads.is_multiple_of(devices);
    groups && model.intermediate_size.is_multiple_of(devices)
}

/// The compiled step whose rows are closest to the load's.
fn nearest_decode(steps: &CompiledSteps, rows: f64) -> Option<(usize, Time)> {
    let distance = |one: &&(usize, Time)| (one.0 as f64 - rows).abs();
    steps.decode.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).cloned()
}

impl Memory {
    /// Of the greedier one.
    fn or_larger(self, other: Memory) -> Memory {
        if other.needed_bytes > self.needed_bytes { other } else { self }
    }
}
