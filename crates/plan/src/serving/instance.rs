//! One instance of a server on one target: the few of its programs that say how it would do, with a cache
//! that fills the memory. Knows no load and no money.

use graph::{Mesh, Role};
use llm::programs::ProgramOptions;
use runtime::profile::ProfileOptions;
use runtime::{PluginKind, Purpose, Target};
use serve::engine::{Key, Shapes, ShapesWish, usable_bytes};

use super::steps::{CompiledSteps, End};
use super::{ServingError, ServingJob};
use crate::compile::{Compiled, Planner};
use crate::row::{Memory, Misfit};
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

/// Times that the cache is made smaller until it is given up.
const SHRINKS: usize = 3;

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

    /// Compiles a decode step of few rows, one of as many as there are, and the chunks of a prompt.
    ///
    /// # Errors
    /// All but that it does not fit.
    pub fn compile(
        &self,
        planner: &Planner,
        now_compiling: &dyn Fn(&str),
    ) -> Result<Outcome, ServingError> {
        let mut pages = self.pages_by_formula();
        let fewest = self.shapes().context().div_ceil(self.wish.page.max(1)).max(2);
        let mut last = None;
        for _ in 0..=SHRINKS {
            match self.compile_with(planner, pages, now_compiling)? {
                Ok(fits) => return Ok(Outcome::Fits(Box::new(fits))),
                Err(misfit) => {
                    let over = match (misfit.needed_bytes, misfit.available_bytes) {
                        (Some(needed), Some(available)) => needed.saturating_sub(available),
                        _ => 0,
                    };
                    last = Some(misfit);
                    // What is too much, and a twentieth for what grows with the cache.
                    let fewer = (over / self.page_bytes().max(1)) as usize + pages / 20 + 1;
                    if pages <= fewest {
                        break;
                    }
                    pages = pages.saturating_sub(fewer).max(fewest);
                }
            }
        }
        Ok(Outcome::DoesNotFit(last.unwrap_or_else(|| Misfit {
            reason: "it does not fit".to_string(),
            needed_bytes: None,
            available_bytes: None,
            compiled: true,
        })))
    }

    fn compile_with(
        &self,
        planner: &Planner,
        pages: usize,
        now_compiling: &dyn Fn(&str),
    ) -> Result<Result<Fits, Misfit>, ServingError> {
        let shapes = self.shapes();
        let (ladder, blocks) = shapes.with_pages(pages);
        let keys = shapes.keys(pages);
        let wanted = self.job.input + self.job.output;
        // Where short sequences have programs of their own.
        let blocks = blocks.iter().copied().find(|&blocks| blocks * ladder.page >= wanted);
        let blocks = blocks.unwrap_or_else(|| wanted.div_ceil(ladder.page));
        let find = |rows: usize, tokens: usize| {
            let of_kind = |key: &&Key| matches!(key.kind(), "decode" | "prefill");
            let mut keys = keys.iter().filter(of_kind);
            keys.find(|key| key.sizes() == [rows, tokens, blocks]).copied()
        };
        let rows_max = self.rows_of(pages);
        let most_rows = ladder.batches.iter().copied().find(|&rows| rows >= rows_max);
        let most_rows = most_rows.unwrap_or(rows_max);
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
            rows_max,
            compile_seconds: 0.0,
            cached: true,
            notes: Vec::new(),
        };
        let mut rows: Vec<usize> = vec![FEW_ROWS.min(most_rows), most_rows];
        rows.dedup();
        // The greediest first: where it does not fit, the others need not be compiled.
        for &rows in rows.iter().rev() {
            let Some(key) = find(rows, 1) else { continue };
            let turns = self.turns(wanted);
            let compiled = self.compile_key(planner, key, turns, now_compiling)?;
            let compiled = match self.room(compiled) {
                Ok(compiled) => compiled,
                Err(misfit) => return Ok(Err(misfit)),
            };
            let time = time::of(&compiled.profile);
            fits.add(compiled);
            fits.steps.decode.insert(0, (rows, time));
        }
        let mut done = 0;
        while done < self.job.input {
            let left = self.job.input - done;
            let chunk = ladder.chunks.iter().copied().find(|&chunk| chunk >= left);
            let chunk = chunk.or(ladder.chunks.last().copied()).unwrap_or(left);
            let Some(key) = find(1, chunk) else { break };
            let turns = self.turns((done + chunk).min(wanted));
            let compiled = self.compile_key(planner, key, turns, now_compiling)?;
            let compiled = match self.room(compiled) {
                Ok(compiled) => compiled,
                Err(misfit) => return Ok(Err(misfit)),
            };
            let time = time::of(&compiled.profile);
            fits.add(compiled);
            fits.steps.prompt.push((chunk.min(left), time));
            done += chunk;
        }
        Ok(Ok(fits))
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
        now_compiling: &dyn Fn(&str),
    ) -> Result<Result<Compiled, Misfit>, ServingError> {
        let traced = key.trace(&self.job.model, &self.options)?;
        now_compiling(&format!("{} ({key})", self.target));
        let options = ProfileOptions { unstated_loop_turns: Some(turns) };
        Ok(planner.compile_with(&traced.program, Purpose::Serving, &self.target, &options)?)
    }

    /// Whether a program leaves free what a server leaves free.
    fn room(&self, compiled: Result<Compiled, Misfit>) -> Result<Compiled, Misfit> {
        let compiled = compiled?;
        let needed = compiled.memory.needed_bytes;
        let all = compiled.memory.available_bytes;
        let usable = all.map(|bytes| usable_bytes(self.target.plugin(), bytes));
        match usable {
            Some(usable) if needed > usable && self.target.plugin() != PluginKind::Cpu => {
                Err(Misfit {
                    reason: "weights, cache and temporaries leave too little free".to_string(),
                    needed_bytes: Some(needed),
                    available_bytes: Some(usable),
                    compiled: true,
                })
            }
            _ => Ok(compiled),
        }
    }
}

impl Fits {
    fn add(&mut self, compiled: Compiled) {
        let Compiled { memory, profile, compile_seconds, cached } = compiled;
        self.memory = std::mem::take(&mut self.memory).or_larger(memory);
        self.compile_seconds += compile_seconds;
        self.cached &= cached;
        for note in profile.unknown {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}
