//! A job on many targets, several at a time: rows come as they are known. Knows threads and memory,
//! nothing of what a plan is made of.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use runtime::chips::Chip;
use runtime::{PluginKind, host_memory};

use crate::compile::{CompileError, Planner};
use crate::row::{Misfit, Row, Verdict};
use crate::serving::{Ask, ServingError, ServingJob};
use crate::training::{Other, TrainingError, TrainingJob};
use crate::words::with_sources;

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

/// What is heard of one target while it is planned for.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A compiler begins; for what, in words.
    Compiling(&'a str),
    /// It does not fit as it was asked for, and what would is looked for.
    DoesNotFit(&'a Misfit),
}

/// What happens while planning, to be shown.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    News {
        target: &'a str,
        news: News<'a>,
    },
    Done(&'a Row),
    /// A target that is done already, with a mesh that turned out to be quicker.
    Better(&'a Row),
}

/// A row, its place among the others, and what else could be compiled for it.
type Known = (usize, Row, Vec<Other>);

/// Compilations that this machine can run at once.
pub fn compilations_at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = host_memory::available_bytes().map(|bytes| (bytes / COMPILER_BYTES) as usize);
    processors.min(memory.unwrap_or(1)).max(1)
}

impl Job {
    /// A row for each target, in their order. Every target has its turn; then, until `deadline` if there
    /// is one, other meshes are compiled, of whichever target they look best. Blocks, possibly for many
    /// minutes.
    pub fn plan(
        &self,
        planner: &Planner,
        targets: &[Ask],
        threads: usize,
        deadline: Option<Instant>,
        on_event: &(dyn Fn(Event<'_>) + Sync),
    ) -> Vec<Row> {
        let known = Mutex::new(Vec::with_capacity(targets.len()));
        let plan = |index: usize, target: &Ask| {
            let (row, others) = self.row(planner, target, on_event);
            on_event(Event::Done(&row));
            lock(&known).push((index, row, others));
        };
        // A processor is measured while nothing else is under way.
        let is_here = |target: &Ask| target.chip().plugin == Some(PluginKind::Cpu);
        for (index, target) in targets.iter().enumerate().filter(|(_, target)| is_here(target)) {
            plan(index, target);
        }
        let others = targets.iter().enumerate().filter(|(_, target)| !is_here(target));
        side_by_side(threads, others.collect(), |(index, target)| plan(index, target));
        if let Some(deadline) = deadline {
            self.compare(planner, &known, threads, deadline, on_event);
        }
        let mut known = known.into_inner().unwrap_or_else(PoisonError::into_inner);
        known.sort_by_key(|&(index, ..)| index);
        known.into_iter().map(|(_, row, _)| row).collect()
    }

    /// Compiles other meshes while there is time, and keeps what is quicker.
    fn compare(
        &self,
        planner: &Planner,
        known: &Mutex<Vec<Known>>,
        threads: usize,
        deadline: Instant,
        on_event: &(dyn Fn(Event<'_>) + Sync),
    ) {
        let Job::Training(job) = self else { return };
        let mut others: Vec<(usize, String, Other)> = Vec::new();
        for (index, row, of_row) in lock(known).iter_mut() {
            others.extend(of_row.drain(..).map(|other| (*index, row.target.clone(), other)));
        }
        others.sort_by(|(.., a), (.., b)| a.seconds_share.total_cmp(&b.seconds_share));
        side_by_side(threads, others, |(index, target, other)| {
            if Instant::now() >= deadline {
                return;
            }
            let tell = |news: News<'_>| on_event(Event::News { target: &target, news });
            // What there is already is an answer, whatever becomes of the others.
            let Ok(Some(plan)) = job.plan_other(planner, &other, &tell) else { return };
            let mut known = lock(known);
            let Some((_, row, _)) = known.iter_mut().find(|(of, ..)| *of == index) else { return };
            if row.verdict.replace_if_quicker(plan) {
                on_event(Event::Better(row));
            }
        });
    }

    fn row(
        &self,
        planner: &Planner,
        target: &Ask,
        on_event: &(dyn Fn(Event<'_>) + Sync),
    ) -> (Row, Vec<Other>) {
        let name = target.name();
        let tell = |news: News<'_>| on_event(Event::News { target: &name, news });
        let alone = |verdict: Verdict| (verdict, Vec::new());
        let verdict = match (self, target) {
            (_, Ask::NotCompiled(chip)) => Ok(alone(Verdict::Skipped {
                reason: format!("nothing here compiles for {}", chip.description),
            })),
            (Job::Training(job), Ask::Exactly(target)) => {
                job.plan(planner, target, &tell).map_err(PlanError::from)
            }
            (Job::Training(job), Ask::Any(chip)) => {
                job.plan_fewest(planner, chip, &tell).map_err(PlanError::from)
            }
            (Job::Serving(job), ask) => {
                job.plan(planner, ask, &tell).map(alone).map_err(PlanError::from)
            }
        };
        let (verdict, others) = verdict.unwrap_or_else(|error| alone(error.verdict()));
        let (chip, chips, hosts) = match (target, verdict.planned()) {
            (Ask::Exactly(target), _) => (target.chip, target.chips, target.hosts()),
            (Ask::Any(chip) | Ask::NotCompiled(chip), planned) => {
                (*chip, planned.map_or(0, |plan| plan.chips), planned.map_or(0, |plan| plan.hosts))
            }
        };
        (Row { target: name, chip: chip.name.clone(), chips, hosts, verdict }, others)
    }
}

/// What a thread that panicked left behind is whole: rows are put in at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does all of the work, in its order, so much at a time.
fn side_by_side<T: Send>(threads: usize, work: Vec<T>, one: impl Fn(T) + Sync) {
    let threads = threads.clamp(1, work.len().max(1));
    let work = Mutex::new(work.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Not in the loop's head, where the lock would be held for all of its body.
                    let next = lock(&work).next();
                    let Some(next) = next else { return };
                    one(next);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_once_and_in_its_order() {
        for threads in [0, 1, 3, 100] {
            let done = Mutex::new(Vec::new());
            side_by_side(threads, (0..20).collect(), |number: usize| lock(&done).push(number));
            let mut done = done.into_inner().unwrap();
            assert!(threads > 1 || done.is_sorted(), "{done:?}");
            done.sort_unstable();
            assert_eq!(done, (0..20).collect::<Vec<_>>());
        }
        side_by_side(4, Vec::<u8>::new(), |_| panic!("there is none"));
    }
}
