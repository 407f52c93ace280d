//! A server's programs, measured: chunks of prompts and tokens of several rows, over a cache that is
//! written before it is read, as it would be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use llm::ModelConfig;
use llm::engine::Engine;
use llm::programs::ProgramOptions;
use runtime::worker::MemoryUse;
use runtime::{PluginKind, Runtime};
use serve::engine::{Device, Ladder, Programs, Row, Sampling, keys};

use super::super::job::{self, Case};
use super::super::made_up;
use super::{Broken, Measured, broken};

pub struct Serving {
    programs: Programs,
    /// Tokens of each slot that are in the cache.
    filled: Vec<usize>,
    pages: Vec<Vec<u32>>,
    sampling: Sampling,
}

impl Serving {
    pub fn new(
        model: ModelConfig,
        shapes: &job::Serving,
        runtime: Runtime,
    ) -> Result<Serving, Broken> {
        let mut options = ProgramOptions::for_plugin(PluginKind::Cpu);
        options.kv_dtype = shapes.kv_cache.map(Into::into);
        options.joins = true;
        if runtime.plugin().has_ffi() {
            options.kernels.native = true;
            options.panels = Some(Arc::new(shapes.panels()));
        }
        let rows = shapes.batches.last().copied().unwrap_or(1);
        let each = shapes.context.div_ceil(shapes.page);
        let ladder = Ladder {
            context: shapes.context,
            vocab_size: model.vocab_size,
            hidden_size: model.hidden_size,
            page: shapes.page,
            pages: (each * rows).max(2),
            slots: shapes.slots.max(rows),
            batches: shapes.batches.clone(),
            chunks: shapes.chunks.clone(),
            guesses: 0,
            looks_ahead: false,
            adapters: None,
        };
        let blocks = vec![each];
        let keys = keys(&ladder, &blocks);
        let mesh = runtime.mesh(options.mesh.clone()).map_err(broken)?;
        let mut weights = HashMap::new();
        for key in &keys {
            let traced = key.trace(&model, &options).map_err(broken)?;
            let inputs = &traced.program.inputs[traced.data + traced.cache..];
            for (spec, input) in traced.parameters.iter().zip(inputs) {
                if !weights.contains_key(&spec.name) {
                    let array = made_up::array(&mesh, input, false).map_err(broken)?;
                    weights.insert(spec.name.clone(), Arc::new(array));
                }
            }
        }
        let engine = Engine::over(model, weights, runtime, options, Box::new(|_| {}));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let programs = Programs::prepare_some(
            engine.map_err(broken)?,
            ladder,
            blocks,
            &keys,
            threads,
            &|_, _| {},
        );
        let page_numbers = |row: usize| (row * each..(row + 1) * each).map(|page| page as u32);
        Ok(Serving {
            programs: programs.map_err(broken)?,
            filled: vec![0; rows],
            pages: (0..rows).map(|row| page_numbers(row).collect()).collect(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        })
    }

    fn prefill(&mut self, slot: usize, position: usize, count: usize) -> Result<f64, Broken> {
        let vocabulary = self.programs.ladder().vocab_size;
        let tokens: Vec<u32> =
            (0..count).map(|place| ((position + place) * 7919 % vocabulary) as u32).collect();
        let row = row(slot, position, &tokens, &self.pages, &self.sampling);
        let started = Instant::now();
        let step = self.programs.prefill(&row).map_err(broken)?;
        self.programs.read(step).map_err(broken)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Has the cache of a slot hold so many tokens.
    fn fill(&mut self, slot: usize, tokens: usize) -> Result<(), Broken> {
        let chunk = self.programs.ladder().chunks.last().copied().unwrap_or(1);
        while self.filled[slot] < tokens {
            let position = self.filled[slot];
            let count = chunk.min(tokens - position);
            self.prefill(slot, position, count)?;
            self.filled[slot] = position + count;
        }
        Ok(())
    }
}

impl Measured for Serving {
    fn memory(&self) -> Option<MemoryUse> {
        // Programs run one after the other, so what counts is the one that needs most beside what stays.
        let uses = self.programs.compiled().filter_map(|(_, compiled)| compiled.info().memory);
        uses.max_by_key(|memory| memory.temporary_bytes)
    }

    fn changing_bytes(&self) -> u64 {
        self.programs.cache_bytes() as u64
    }

    fn load(&mut self) -> Result<(), Broken> {
        Ok(())
    }

    fn begin(&mut self, case: Case) -> Result<(), Broken> {
        match case {
            Case::Step => Err(Broken("a server has no training steps".to_string())),
            Case::Prefill { position, .. } => self.fill(0, position),
            Case::Decode { rows, context } => (0..rows).try_for_each(|slot| {
                let last = context.saturating_sub(1);
                self.fill(slot, last.max(1))
            }),
        }
    }

    fn run(&mut self, case: Case) -> Result<f64, Broken> {
        match case {
            Case::Step => Err(Broken("a server has no training steps".to_string())),
            Case::Prefill { tokens, position } => {
                let seconds = self.prefill(0, position, tokens)?;
                self.filled[0] = self.filled[0].max(position + tokens);
                Ok(seconds)
            }
            Case::Decode { rows, context } => {
                let position = context.saturating_sub(1);
                // The token that was drawn last.
                let row = |slot| row(slot, position, &[], &self.pages, &self.sampling);
                let rows: Vec<Row<'_>> = (0..rows).map(row).collect();
                let started = Instant::now();
                let step = self.programs.decode(&rows).map_err(broken)?;
                self.programs.read(step).map_err(broken)?;
                Ok(started.elapsed().as_secs_f64())
            }
        }
    }
}

fn row<'a>(
    slot: usize,
    position: usize,
    tokens: &'a [u32],
    pages: &'a [Vec<u32>],
    sampling: &'a Sampling,
) -> Row<'a> {
    Row {
        slot,
        position,
        tokens,
        prompt_tokens: tokens.len(),
        fresh: position == 0,
        draws: true,
        pages: &pages[slot],
        sampling,
        top: 0,
        mask: None,
        adapter: 0,
    }
}
