//! A job on many targets, several at a time: rows come as they are known. Knows threads and memory,
//! nothing of what a plan is made of.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use runtime::chips::Chip;
use runtime::{PluginKind, host_memory};

use crate::compile::{CompileError, Planner};
use crate::row::{Row, Verdict};
use crate::serving::{Ask, ServingError, ServingJob};
use crate::training::{TrainingError, TrainingJob};

/// What a compiler may take of memory: a training step of Llama-3-8B for 256 TPU chips took 3.6 GiB.
const COMPILER_BYTES: u64 = 5 << 30;

/// What is planned.
pub enum Job {
    Training(Box<TrainingJob>),
    Serving(Box<ServingJob>),
}

/// Why a target has no verdict.
#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error(transparent)]
    Training(#[from] TrainingError),
    #[error(transparent)]
    Serving(#[from] ServingError),
}

impl PlanError {
    /// Where the compiler is not installed, the others go on.
    fn verdict(&self) -> Verdict {
        match self {
            PlanError::Training(TrainingError::Compile(CompileError::NoPlugin(error)))
            | PlanError::Serving(ServingError::Compile(CompileError::NoPlugin(error))) => {
                Verdict::Skipped { reason: error.to_string() }
            }
            error => Verdict::Failed { reason: with_sources(error) },
        }
    }
}

impl Ask {
    pub fn chip(&self) -> &'static Chip {
        match self {
            Ask::Exactly(target) => target.chip,
            Ask::Any(chip) | Ask::NotCompiled(chip) => chip,
        }
    }

    /// As a user writes it.
    pub fn name(&self) -> String {
        match self {
            Ask::Exactly(target) => target.to_string(),
            Ask::Any(chip) | Ask::NotCompiled(chip) => chip.name.clone(),
        }
    }
}

/// What happens while planning, to be shown.
pub enum Event<'a> {
    /// A compiler begins; `what` says for what, in words.
    Compiling {
        target: &'a str,
        what: &'a str,
    },
    Done(&'a Row),
}

/// Compilations that this machine can run at once.
pub fn compilations_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = host_memory::available_bytes().map(|bytes| (bytes / COMPILER_BYTES) as usize);
    processors.min(memory.unwrap_or(1)).max(1)
}

impl Job {
    /// A row for each target, in their order. Blocks, possibly for many minutes.
    pub fn plan(
        &self,
        planner: &Planner,
        targets: &[Ask],
        threads: usize,
        deadline: Option<Instant>,
        on_event: &(dyn Fn(Event<'_>) + Sync),
    ) -> Vec<Row> {
        let rows = Mutex::new(Vec::with_capacity(targets.len()));
        // A processor is measured while nothing else is under way.
        let is_here = |ask: &Ask| ask.chip().plugin == Some(PluginKind::Cpu);
        for (index, target) in targets.iter().enumerate().filter(|(_, target)| is_here(target)) {
            let row = self.row(planner, target, deadline, on_event);
            on_event(Event::Done(&row));
            if let Ok(mut rows) = rows.lock() {
                rows.push((index, row));
            }
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, targets.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(target) = targets.get(index) else { return };
                        if is_here(target) {
                            continue;
                        }
                        let row = self.row(planner, target, deadline, on_event);
                        on_event(Event::Done(&row));
                        if let Ok(mut rows) = rows.lock() {
                            rows.push((index, row));
                        }
                    }
                });
            }
        });
        let mut rows = rows.into_inner().unwrap_or_default();
        rows.sort_by_key(|&(index, _)| index);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    fn row(
        &self,
        planner: &Planner,
        target: &Ask,
        deadline: Option<Instant>,
        on_event: &(dyn Fn(Event<'_>) + Sync),
    ) -> Row {
        let name = target.name();
        let now_compiling = |what: &str| on_event(Event::Compiling { target: &name, what });
        let verdict = match (self, target) {
            (_, Ask::NotCompiled(chip)) => Ok(Verdict::Skipped {
                reason: format!("nothing here compiles for {}", chip.description),
            }),
            (Job::Training(job), Ask::Exactly(target)) => {
                job.plan(planner, target, deadline, &now_compiling).map_err(PlanError::from)
            }
            (Job::Training(_), Ask::Any(chip)) => Ok(Verdict::Skipped {
                reason: format!("say on how many chips: `{}-` and a number", chip.name),
            }),
            (Job::Serving(job), ask) => {
                job.plan(planner, ask, &now_compiling).map_err(PlanError::from)
            }
        };
        let verdict = verdict.unwrap_or_else(|error| error.verdict());
        let (chip, chips, hosts) = match (target, verdict.planned()) {
            (Ask::Exactly(target), _) => (target.chip, target.chips, target.hosts()),
            (Ask::Any(chip) | Ask::NotCompiled(chip), planned) => {
                (*chip, planned.map_or(0, |plan| plan.chips), planned.map_or(0, |plan| plan.hosts))
            }
        };
        Row { target: name, chip: chip.name.clone(), chips, hosts, verdict }
    }
}

/// An error and what it stands on, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
