//! One instance of a server on one target: the few of its programs that say how it would do, with a cache
//! that fills the memory. Knows no load and no money.

use graph::{Mesh, Role};
use llm::programs::ProgramOptions;
use runtime::profile::ProfileOptions;
use runtime::{Purpose, Target};
use serve::engine::{Compilation, Key, Ladder, Needs, Pool, Shapes, ShapesWish, usable_bytes};

use super::steps::{CompiledSteps, End};
use super::{ServingError, ServingJob};
use crate::compile::{Compiled, Planner};
use crate::each::News;
use crate::here::Drawn;
use crate::row::{Memory, Misfit, Time};
use crate::time;

/// Rows of the decode steps that are compiled, beside the most that the server lets in.
const FEW_ROWS: usize = 8;

/// Keys that a step gathers at once where no kernel reads pages in place (`graph`'s blocks of keys).
const KEYS_AT_ONCE: usize = 1024;

/// Beside weights and cache, what a program needs until a compiler says more: temporaries and code.
const BESIDE_SHARE: f64 = 0.05;

/// The host prepares a step in this time, beside the device: about 400 arguments, as measured with the
/// CPU's plugin.
const HOST_SECONDS: f64 = 1.4e-3;

pub struct Instance<'a> {
    job: &'a ServingJob,
    target: Target,
    options: ProgramOptions,
    wish: ShapesWish,
}

/// What compilers said.
pub enum Outcome {
    Fits(Box<Fits>),
    DoesNotFit(Misfit),
}

pub struct Fits {
    pub steps: CompiledSteps,
    pub memory: Memory,
    pub pages: usize,
    pub page: usize,
    pub rows_max: usize,
    pub compile_seconds: f64,
    pub cached: bool,
    /// By a meter, where it was measured and there is one.
    pub drawn: Option<Drawn>,
    pub notes: Vec<String>,
}

/// All devices along heads and hidden layer.
pub fn mesh(devices: usize) -> Mesh {
    match devices {
        1 => Mesh::single(),
        _ => Mesh::new(&[("tensor", devices)]),
    }
}

impl<'a> Instance<'a> {
    pub fn new(job: &'a ServingJob, target: &Target, options: &ProgramOptions) -> Instance<'a> {
        let mut options = options.clone();
        options.mesh = mesh(target.devices());
        let own = job.model.max_position_embeddings;
        let context = job.shapes.context.unwrap_or(job.input + job.output).min(own);
        let wish = ShapesWish { context: Some(context), ..job.shapes.clone() };
        Instance { job, target: *target, options, wish }
    }

    fn shapes(&self) -> Shapes<'_> {
        Shapes::new(&self.job.model, &self.options, &self.wish, self.target.plugin())
    }

    /// What of a device's memory can be planned with.
    pub fn usable_bytes(&self) -> Option<u64> {
        let all = self.target.memory_bytes_per_device()?;
        Some(usable_bytes(self.target.plugin(), all))
    }

    fn pages_of_a_sequence(&self) -> usize {
        let tokens = (self.job.input + self.job.output).min(self.shapes().context());
        tokens.div_ceil(self.wish.page.max(1)).max(1)
    }

    fn page_bytes(&self) -> u64 {
        (self.shapes().token_bytes_per_device * self.wish.page) as u64
    }

    /// Of one device: weights and the cache of one sequence of the full context.
    pub fn least_bytes(&self) -> u64 {
        let pages = self.shapes().context().div_ceil(self.wish.page.max(1)) as u64;
        self.weight_bytes() + pages * self.page_bytes()
    }

    /// On one device.
    fn weight_bytes(&self) -> u64 {
        let shapes = self.shapes();
        let fewest = shapes.context().div_ceil(self.wish.page.max(1)).max(2);
        let Some(key) = shapes.keys(fewest).first().copied() else { return 0 };
        let Ok(traced) = key.trace(&self.job.model, &self.options) else { return 0 };
        let program = traced.program;
        let weights = program.inputs.iter().filter(|input| input.role == Role::Parameter);
        weights.map(|input| crate::compile::bytes_on_device(input, &program.mesh)).sum()
    }

    /// Over all devices, for a formula.
    pub fn weights_and_token_bytes(&self) -> (f64, f64) {
        let devices = self.target.devices() as f64;
        (self.weight_bytes() as f64 * devices, self.shapes().token_bytes as f64)
    }

    /// Pages that memory has room for, before any compiler is asked.
    fn pages_by_formula(&self) -> usize {
        let Some(usable) = self.usable_bytes() else { return 0 };
        let beside = (usable as f64 * BESIDE_SHARE) as u64;
        let left = usable.saturating_sub(self.weight_bytes() + beside);
        let fewest = self.shapes().context().div_ceil(self.wish.page.max(1)).max(2);
        ((left / self.page_bytes().max(1)) as usize).max(fewest)
    }

    fn rows_of(&self, pages: usize) -> usize {
        let (ladder, _) = self.shapes().with_pages(pages);
        (pages / self.pages_of_a_sequence()).clamp(1, ladder.slots)
    }

    /// Sequences at once, by formula.
    pub fn rows_max(&self) -> usize {
        self.rows_of(self.pages_by_formula())
    }

    /// Compiles a decode step of few rows, one of as many as there are, and the chunks of a prompt, with
    /// a cache that fills the memory, as a server finds its size.
    ///
    /// # Errors
    /// All but that it does not fit.
    pub fn compile(
        &self,
        planner: &Planner,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Outcome, ServingError> {
        let shapes = self.shapes();
        let mut known: Vec<(Key, Compiled)> = Vec::new();
        let (mut compile_seconds, mut cached) = (0.0, true);
        let pool = shapes.fill(None, |keys| -> Result<Compilation, ServingError> {
            let mut uses = Vec::new();
            let mut available_bytes = u64::MAX;
            for &key in keys.iter().filter(|key| self.tells(key)) {
                if !known.iter().any(|(of, _)| *of == key) {
                    match self.compile_key(planner, key, 1, tell)? {
                        Ok(compiled) => {
                            compile_seconds += compiled.compile_seconds;
                            cached &= compiled.cached;
                            known.push((key, compiled));
                        }
                        Err(misfit) => {
                            let bytes = misfit.needed_bytes.zip(misfit.available_bytes);
                            return Ok(Compilation::DoesNotFit { bytes });
                        }
                    }
                }
                if let Some((_, compiled)) = known.iter().find(|(of, _)| *of == key) {
                    let all = compiled.memory.available_bytes.unwrap_or(u64::MAX);
                    let usable = usable_bytes(self.target.plugin(), all);
                    available_bytes = available_bytes.min(usable);
                    uses.push((key, compiled.usage));
                }
            }
            Ok(Compilation::Done { uses, available_bytes })
        })?;
        let pages = match pool {
            Pool::Fits { pages } => pages,
            Pool::TooSmall { needed } => return Ok(Outcome::DoesNotFit(misfit(needed))),
        };
        let mut fits = self.timed(planner, pages, tell)?;
        fits.compile_seconds = compile_seconds;
        fits.cached = cached;
        Ok(Outcome::Fits(Box::new(fits)))
    }

    /// The shapes with the smallest cache that is of use; all but its pages are those of any.
    fn smallest(&self) -> Ladder {
        let shapes = self.shapes();
        let fewest = shapes.context().div_ceil(self.wish.page.max(1)).max(2);
        shapes.with_pages(fewest).0
    }

    /// Whether a program is one of those that say how a server would do.
    fn tells(&self, key: &Key) -> bool {
        let [rows, tokens, _] = key.sizes();
        let slots = self.smallest().slots;
        match key.kind() {
            "decode" => rows == FEW_ROWS.min(slots) || rows == slots,
            "prefill" => self.chunks().any(|(_, chunk)| chunk == tokens),
            _ => false,
        }
    }

    /// The chunks of a prompt: where each begins, and for how many tokens its program is.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let sizes = self.smallest().chunks;
        let input = self.job.input;
        let mut begin = 0;
        std::iter::from_fn(move || {
            let left = input.checked_sub(begin).filter(|&left| left > 0)?;
            let covering = sizes.iter().copied().find(|&size| size >= left);
            let chunk = covering.or(sizes.last().copied())?;
            let begins = begin;
            begin += chunk;
            Some((begins, chunk))
        })
    }

    /// The times of the steps with so many pages.
    fn timed(
        &self,
        planner: &Planner,
        pages: usize,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Fits, ServingError> {
        let shapes = self.shapes();
        let (ladder, blocks) = shapes.with_pages(pages);
        let keys = shapes.keys(pages);
        let wanted = self.job.input + self.job.output;
        // Where short sequences have programs of their own.
        let blocks = blocks.iter().copied().find(|&blocks| blocks * ladder.page >= wanted);
        let blocks = blocks.unwrap_or_else(|| wanted.div_ceil(ladder.page));
        let find = |kind: &str, rows: usize, tokens: usize| {
            let is = |key: &&Key| key.kind() == kind && key.sizes() == [rows, tokens, blocks];
            let missing = || ServingError::NoProgram(format!("{kind} {rows} x {tokens}"));
            keys.iter().find(is).copied().ok_or_else(missing)
        };
        let mut fits = Fits {
            steps: CompiledSteps {
                decode: Vec::new(),
                prompt: Vec::new(),
                host_seconds: HOST_SECONDS,
                end: End::Likely,
            },
            memory: Memory::default(),
            pages,
            page: ladder.page,
            rows_max: self.rows_of(pages),
            compile_seconds: 0.0,
            cached: true,
            drawn: None,
            notes: Vec::new(),
        };
        let mut rows = vec![FEW_ROWS.min(ladder.slots), ladder.slots];
        rows.dedup();
        for rows in rows {
            let key = find("decode", rows, 1)?;
            let compiled = self.compile_key(planner, key, self.turns(wanted), tell)?;
            if let Ok(compiled) = compiled {
                let time = fits.add(compiled);
                fits.steps.decode.push((rows, time));
            }
        }
        for (begin, chunk) in self.chunks() {
            // A chunk of one token is a decode step.
            let kind = if chunk == 1 { "decode" } else { "prefill" };
            let key = find(kind, 1, chunk)?;
            let turns = self.turns((begin + chunk).min(wanted));
            if let Ok(compiled) = self.compile_key(planner, key, turns, tell)? {
                let time = fits.add(compiled);
                fits.steps.prompt.push((chunk, time));
            }
        }
        Ok(fits)
    }

    /// Turns of a loop over pages that ends with so many tokens.
    fn turns(&self, tokens: usize) -> u64 {
        tokens.div_ceil(KEYS_AT_ONCE).max(1) as u64
    }

    fn compile_key(
        &self,
        planner: &Planner,
        key: Key,
        turns: u64,
        tell: &dyn Fn(News<'_>),
    ) -> Result<Result<Compiled, Misfit>, ServingError> {
        let traced = key.trace(&self.job.model, &self.options)?;
        tell(News::Compiling(&format!("{} ({key})", self.target)));
        let options = ProfileOptions { unstated_loop_turns: Some(turns) };
        Ok(planner.compile_with(&traced.program, Purpose::Serving, &self.target, &options)?)
    }
}

fn misfit(needed: Needs) -> Misfit {
    let (needed_bytes, available_bytes) = match needed {
        Needs::Known { needed_bytes, available_bytes } => {
            (Some(needed_bytes), Some(available_bytes))
        }
        Needs::TooMuch => (None, None),
    };
    Misfit {
        reason: "weights, programs and the cache of one sequence".to_string(),
        needed_bytes,
        available_bytes,
        compiled: true,
    }
}

impl Fits {
    /// Takes a program's memory and notes in; returns its time.
    fn add(&mut self, compiled: Compiled) -> Time {
        let time = time::of(&compiled.profile);
        self.memory = std::mem::take(&mut self.memory).or_larger(compiled.memory);
        for note in compiled.profile.unknown {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        time
    }
}
