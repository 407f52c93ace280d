//! What a plan says of a target: data that can be printed, drawn and written as JSON. Units are in the
//! names; memory is of one device.

use runtime::profile::Temporary;
use serde::Serialize;

use crate::goal::Goal;
use crate::price::Offer;

/// A target with everything that was found out about it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// As asked for, such as `v6e-256`.
    pub target: String,
    pub chip: String,
    pub chips: usize,
    pub hosts: usize,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It fits as it was asked for.
    Fits { plan: Box<Planned> },
    /// It does not; with some changes, which were compiled, it does.
    FitsChanged { misfit: Misfit, plan: Box<Planned> },
    /// Nothing that was tried fits.
    DoesNotFit { misfit: Misfit, tried: Vec<String> },
    /// It was left out.
    Skipped { reason: String },
    /// The compiler, or what reads its answer, failed.
    Failed { reason: String },
}

/// Why a job does not fit.
#[derive(Clone, Debug, Serialize)]
pub struct Misfit {
    /// A whole sentence's worth.
    pub reason: String,
    pub needed_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    /// Whether a compiler said so; else it follows from what must be in memory at once.
    pub compiled: bool,
}

/// A program, or several, that fit.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// Where it was compiled for, if that is another target than was asked for.
    pub target: String,
    pub chips: usize,
    pub hosts: usize,
    pub mesh: String,
    /// What differs from what was asked for, as a user would write it.
    pub changes: Vec<String>,
    pub memory: Memory,
    pub job: JobFigures,
    /// Seconds in compilers, whether now or before.
    pub compile_seconds: f64,
    /// Whether all of it was kept from before.
    pub cached: bool,
    pub money: Money,
    pub energy: Energy,
    /// What the estimate does not know.
    pub notes: Vec<String>,
}

/// What the two kinds of jobs have of their own.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobFigures {
    Training(Box<crate::training::Figures>),
    Serving(Box<crate::serving::Figures>),
}

/// What is in a device's memory at the greediest program's peak.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    pub weights_bytes: u64,
    pub optimizer_bytes: u64,
    pub kv_cache_bytes: u64,
    pub other_argument_bytes: u64,
    pub temporary_bytes: u64,
    pub code_bytes: u64,
    /// As the compiler counts it; less than the sum where things take turns.
    pub needed_bytes: u64,
    /// What the compiler lets a program use, else the data sheet's figure.
    pub available_bytes: Option<u64>,
    pub largest_temporaries: Vec<Temporary>,
}

/// A time with its range, and what it is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Time {
    pub seconds: f64,
    pub low_seconds: f64,
    pub high_seconds: f64,
    /// Where it comes from, in words.
    pub source: String,
    /// The resource that takes most of it: `matrix unit`, `memory`, `links`, ...
    pub bound_by: String,
    /// Shares of the time by resource, the largest first; they add up to 1.
    pub bounds: Vec<Part>,
    /// Shares of the time by where the estimate comes from.
    pub sources: Vec<Part>,
    /// Transfers that run beside other work and are not in the time.
    pub hidden_seconds: f64,
    /// Kinds of instructions that the compiler gives no estimate for, and how each was timed.
    pub not_estimated: Vec<NotEstimated>,
}

impl Time {
    /// Of a program that there is not.
    pub fn unknown() -> Time {
        Time {
            seconds: 0.0,
            low_seconds: 0.0,
            high_seconds: 0.0,
            source: "not known".to_string(),
            bound_by: String::new(),
            bounds: Vec::new(),
            sources: Vec::new(),
            hidden_seconds: 0.0,
            not_estimated: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Part {
    pub name: String,
    /// From 0 to 1.
    pub share: f64,
}

/// Instructions that are timed by a model of ours.
#[derive(Clone, Debug, Serialize)]
pub struct NotEstimated {
    pub name: String,
    pub instructions: usize,
    pub bytes: f64,
    pub share: f64,
    pub model: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Money {
    /// The offer that the figures below are for: the cheapest of the kind that was asked for.
    pub offer: Option<Offer>,
    /// Why there is none, such as `no spot price of v5e at aws`.
    pub no_offer: Option<String>,
    /// Training: of the tokens trained on. Serving: of those generated, when all is charged to them.
    pub dollars_per_million_tokens: Option<f64>,
    /// Training: of the whole run. Serving: of an hour of the whole deployment.
    pub total_dollars: Option<f64>,
    /// What the total is made of, the largest first.
    pub parts: Vec<MoneyPart>,
    /// How long the run takes at the offer; nothing of a server, which stays.
    pub run: Option<RunTime>,
    /// All offers, by what the job costs there.
    pub offers: Vec<OfferCost>,
    /// Prices that are of no use for the job, and why.
    pub left_out: Vec<String>,
}

/// How long a run takes at an offer, from asking for machines to the last step: what is expected, where
/// chance has a part in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunTime {
    /// Of the steps alone.
    pub work_seconds: f64,
    /// Until the first of them.
    pub startup_seconds: f64,
    /// Steps that are done again, and starting again, when spot machines are taken back.
    pub lost_seconds: f64,
    /// How often that happens.
    pub preemptions: f64,
}

impl RunTime {
    pub fn seconds(&self) -> f64 {
        self.work_seconds + self.startup_seconds + self.lost_seconds
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct MoneyPart {
    pub name: String,
    pub dollars: f64,
    /// Whether a figure behind it is assumed; else it has a source.
    pub assumed: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct OfferCost {
    pub offer: Offer,
    pub dollars_per_million_tokens: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct Energy {
    pub kilowatt_hours_per_million_tokens: Option<f64>,
    /// Where it comes from: a meter, or the chips' power.
    pub source: String,
}

impl Planned {
    /// What a plan is ranked by; none where it is not known. Time is that of a run, or of a
    /// whole answer.
    pub fn value(&self, goal: Goal) -> Option<f64> {
        match goal {
            Goal::Cost => self.money.dollars_per_million_tokens,
            Goal::Energy => self.energy.kilowatt_hours_per_million_tokens,
            Goal::Time => Some(match &self.job {
                JobFigures::Training(figures) => self.run_seconds(figures),
                JobFigures::Serving(figures) => figures.answer_seconds(),
            }),
        }
    }

    /// How long a run takes, with starting up and what spot capacity loses where an offer is known; its
    /// steps alone where none is.
    pub fn run_seconds(&self, figures: &crate::training::Figures) -> f64 {
        self.money.run.as_ref().map_or(figures.total_seconds, RunTime::seconds)
    }

    /// Whether its times were measured on this machine; else they are estimates.
    pub fn is_measured(&self) -> bool {
        self.target == "cpu"
    }

    /// Whether a server is as was promised; a run always is.
    pub fn keeps_promises(&self) -> bool {
        match &self.job {
            JobFigures::Training(_) => true,
            JobFigures::Serving(figures) => figures.meets,
        }
    }
}

impl Energy {
    /// Of this machine's processor, where nothing was metered.
    pub fn unknown_here() -> Energy {
        Energy {
            kilowatt_hours_per_million_tokens: None,
            source: "this machine's power is not known".to_string(),
        }
    }
}

impl Verdict {
    /// Takes another plan of the same training step instead of its own, if that is quicker; says whether
    /// it was.
    pub fn replace_if_quicker(&mut self, other: Planned) -> bool {
        let (Verdict::Fits { plan } | Verdict::FitsChanged { plan, .. }) = self else {
            return false;
        };
        let step = |plan: &Planned| match &plan.job {
            JobFigures::Training(figures) => figures.step.seconds,
            JobFigures::Serving(_) => f64::INFINITY,
        };
        let quicker = step(&other) < step(plan);
        if quicker {
            **plan = other;
        }
        quicker
    }

    pub fn planned(&self) -> Option<&Planned> {
        match self {
            Verdict::Fits { plan } | Verdict::FitsChanged { plan, .. } => Some(plan),
            _ => None,
        }
    }
}
