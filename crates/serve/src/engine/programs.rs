//! The real device: compiled programs over a KV cache in pages that stays on the chips.

mod key;
mod ladder;
mod pool;

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm::adapter::Adapter;
use llm::engine::{AdapterSlots, Compiled, Engine, EngineError};
use llm::programs::{BIAS_MAX, Column, Flag, RowLayout, StepShape, TOP_MAX, result_words};
use runtime::{Argument, Array};

use super::device::{AdapterMemory, Device, DeviceError, Ladder, Row, Token, Tokens};
use super::request::Alternative;

use key::{embed_shape, step_shape};

pub use key::{Key, for_each_key, keys};
pub use ladder::{LadderChoice, blocks_ladder, ladder};
pub use pool::{Compilation, Needs, Pool, fill_device};

/// What stays on the devices between steps.
struct State {
    last: Array,
    counts: Array,
    cache: Vec<Array>,
}

/// Inputs of a step that hardly ever change: free masks and no biases.
struct Neutral {
    mask: Array,
    bias_ids: Array,
    bias_values: Array,
}

/// A model's serving programs on its devices.
pub struct Programs {
    engine: Engine,
    ladder: Ladder,
    /// Numbers of pages that steps are compiled for, ascending.
    blocks: Vec<usize>,
    compiled: HashMap<Key, Compiled>,
    neutral: HashMap<usize, Neutral>,
    /// Nothing after an error, until it is made anew.
    state: Option<State>,
    /// None without room for adapters.
    adapters: Option<Arc<AdapterSlots>>,
    compiled_late: u64,
}

/// A step under way: what it draws, and which rows of it count.
pub struct Step {
    drawn: Array,
    rows: usize,
    /// Draws per row.
    width: usize,
    counts: Vec<usize>,
}

/// Called with how many programs are ready, of how many.
pub type OnReady<'a> = dyn Fn(usize, usize) + Sync + 'a;

impl From<EngineError> for DeviceError {
    fn from(error: EngineError) -> DeviceError {
        DeviceError(error.to_string())
    }
}

impl Programs {
    /// Compiles all programs of the ladder, several at a time, or takes them from the cache, and loads
    /// the weights.
    ///
    /// # Errors
    /// What the compiler or the model's files object to.
    pub fn prepare(
        engine: Engine,
        ladder: Ladder,
        blocks: Vec<usize>,
        threads: usize,
        on_ready: &OnReady<'_>,
    ) -> Result<Programs, EngineError> {
        let keys = keys(&ladder, &blocks);
        Programs::prepare_some(engine, ladder, blocks, &keys, threads, on_ready)
    }

    /// The same for some programs of the ladder only, for whoever knows which will run.
    ///
    /// # Errors
    /// As [`Programs::prepare`].
    pub fn prepare_some(
        engine: Engine,
        ladder: Ladder,
        blocks: Vec<usize>,
        keys: &[Key],
        threads: usize,
        on_ready: &OnReady<'_>,
    ) -> Result<Programs, EngineError> {
        let done = AtomicUsize::new(0);
        on_ready(0, keys.len());
        let compiled = for_each_key(keys, threads, |key| {
            let compiled = load(&engine, key)?;
            on_ready(done.fetch_add(1, Ordering::Relaxed) + 1, keys.len());
            Ok::<_, EngineError>(compiled)
        })?;
        let compiled: HashMap<Key, Compiled> = compiled.into_iter().collect();
        let adapters = match (ladder.adapters, compiled.iter().find(|(key, _)| key.adapts())) {
            (Some(room), Some((_, compiled))) => {
                Some(Arc::new(AdapterSlots::new(&engine, compiled.program(), room)?))
            }
            _ => None,
        };
        let mut programs = Programs {
            engine,
            ladder,
            blocks,
            compiled,
            neutral: HashMap::new(),
            state: None,
            adapters,
            compiled_late: 0,
        };
        programs.start_over()?;
        Ok(programs)
    }

    /// Memory that the largest program uses beside its arguments, and other facts.
    pub fn compiled(&self) -> impl Iterator<Item = (&Key, &Compiled)> {
        self.compiled.iter()
    }

    /// Bytes of the KV cache, over all devices.
    pub fn cache_bytes(&self) -> usize {
        let state = self.state.iter();
        state.flat_map(|state| &state.cache).map(|array| array.shape().bytes()).sum()
    }

    /// Bytes of the room for adapters, over all devices.
    pub fn adapter_bytes(&self) -> usize {
        self.adapters.as_ref().map_or(0, |adapters| adapters.bytes())
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn start_over(&mut self) -> Result<(), EngineError> {
        self.state = None;
        let step = self.compiled.iter().find(|(key, _)| matches!(key, Key::Step(_)));
        let Some((_, compiled)) = step else { return Ok(()) };
        let zeros = |index: usize| {
            let shape = &compiled.program().program.inputs[index].shape;
            self.engine.argument(compiled, index, &vec![0; shape.elements()])
        };
        let (last, counts) = (zeros(4)?, zeros(5)?);
        let cache = self.engine.new_cache(compiled)?;
        self.state = Some(State { last, counts, cache });
        Ok(())
    }

    /// The program of a step of these sizes; one that is missing is compiled now, and counted.
    fn find(&mut self, key: Key) -> Result<(), EngineError> {
        if !self.compiled.contains_key(&key) {
            self.compiled_late += 1;
            let compiled = load(&self.engine, key)?;
            self.compiled.insert(key, compiled);
        }
        Ok(())
    }

    fn blocks_for(&self, rows: &[Row<'_>]) -> usize {
        let page = self.ladder.page;
        let needed = rows.iter().map(|row| (row.position + row.count()).div_ceil(page));
        let needed = needed.max().unwrap_or(1);
        let enough = self.blocks.iter().copied().find(|&blocks| blocks >= needed);
        enough.or(self.blocks.last().copied()).unwrap_or(needed)
    }

    /// The narrowest chunk that takes so many tokens of one sequence.
    fn width_for(&self, tokens: usize) -> usize {
        let chunks = &self.ladder.chunks;
        chunks.iter().copied().find(|&chunk| chunk >= tokens).unwrap_or(tokens)
    }

    fn launch(&mut self, rows: &[Row<'_>], mut shape: StepShape) -> Result<Step, DeviceError> {
        if rows.iter().any(|row| row.adapter > 0) {
            shape.adapters = self.ladder.adapters;
        }
        let key = Key::Step(shape);
        self.find(key)?;
        self.ready_neutral(key, shape.batch)?;
        let lost = || DeviceError("the cache was lost to an earlier error".to_string());
        let compiled = self.compiled.get(&key).ok_or_else(lost)?;
        let neutral = self.neutral.get(&shape.batch).ok_or_else(lost)?;
        let layout = RowLayout { width: shape.width, blocks: shape.blocks };
        let mut words = vec![0u32; shape.batch * layout.columns()];
        for (row, words) in rows.iter().zip(words.chunks_exact_mut(layout.columns())) {
            describe(row, layout, words);
        }
        for words in words.chunks_exact_mut(layout.columns()).skip(rows.len()) {
            words[Column::Slot as usize] = (shape.slots - 1) as u32;
        }
        let described = self.engine.argument(compiled, 0, &words)?;
        let mask = match rows.iter().any(|row| row.mask.is_some()) {
            true => Some(self.engine.argument(compiled, 1, &self.masks(rows, shape.batch))?),
            false => None,
        };
        let bias = match rows.iter().any(|row| !row.sampling.logit_bias.is_empty()) {
            true => {
                let (ids, values) = self.biases(rows, shape.batch);
                let ids = self.engine.argument(compiled, 2, &ids)?;
                Some((ids, self.engine.argument(compiled, 3, &values)?))
            }
            false => None,
        };
        let State { last, counts, cache } = self.state.take().ok_or_else(lost)?;
        let (bias_ids, bias_values) = match &bias {
            Some((ids, values)) => (ids, values),
            None => (&neutral.bias_ids, &neutral.bias_values),
        };
        let data = vec![
            Argument::Borrowed(&described),
            Argument::Borrowed(mask.as_ref().unwrap_or(&neutral.mask)),
            Argument::Borrowed(bias_ids),
            Argument::Borrowed(bias_values),
            Argument::Donated(last),
            Argument::Donated(counts),
        ];
        let adapters = self.adapters.as_ref().filter(|_| shape.adapters.is_some());
        let adapters = adapters.map(|adapters| adapters.arrays()).unwrap_or_default();
        let (outputs, cache) = compiled.run_with(data, cache, &adapters)?;
        let outputs = <[Array; 3]>::try_from(outputs);
        let Ok([drawn, last, counts]) = outputs else {
            return Err(DeviceError("a step returned another number of results".to_string()));
        };
        self.state = Some(State { last, counts, cache });
        let width = if shape.draws_each { shape.width } else { 1 };
        let counts = rows.iter().map(|row| if shape.draws_each { row.count() } else { 1 });
        Ok(Step { drawn, rows: rows.len(), width, counts: counts.collect() })
    }

    fn ready_neutral(&mut self, key: Key, batch: usize) -> Result<(), DeviceError> {
        if self.neutral.contains_key(&batch) {
            return Ok(());
        }
        let Some(compiled) = self.compiled.get(&key) else { return Ok(()) };
        let filled = |index: usize, value: u32| {
            let shape = &compiled.program().program.inputs[index].shape;
            self.engine.argument(compiled, index, &vec![value; shape.elements()])
        };
        let neutral = Neutral {
            mask: filled(1, u32::MAX)?,
            bias_ids: filled(2, self.ladder.vocab_size as u32)?,
            bias_values: filled(3, 0)?,
        };
        self.neutral.insert(batch, neutral);
        Ok(())
    }

    fn masks(&self, rows: &[Row<'_>], batch: usize) -> Vec<u32> {
        let words = self.ladder.vocab_size.div_ceil(32);
        let mut masks = vec![u32::MAX; batch * words];
        for (row, own) in rows.iter().zip(masks.chunks_exact_mut(words)) {
            if let Some(mask) = row.mask {
                own.copy_from_slice(mask);
            }
        }
        masks
    }

    fn biases(&self, rows: &[Row<'_>], batch: usize) -> (Vec<u32>, Vec<u32>) {
        let mut ids = vec![self.ladder.vocab_size as u32; batch * BIAS_MAX];
        let mut values = vec![0; batch * BIAS_MAX];
        for (index, row) in rows.iter().enumerate() {
            for (place, &(id, value)) in row.sampling.logit_bias.iter().take(BIAS_MAX).enumerate() {
                ids[index * BIAS_MAX + place] = id;
                values[index * BIAS_MAX + place] = value.to_bits();
            }
        }
        (ids, values)
    }
}

impl AdapterMemory for AdapterSlots {
    fn load(&self, slot: usize, folder: &Path) -> Result<(), String> {
        let put = || AdapterSlots::load(self, slot, &Adapter::open(folder)?);
        put().map_err(|error: EngineError| {
            let sources = std::iter::successors(error.source(), |cause| (*cause).source());
            sources.fold(error.to_string(), |message, cause| format!("{message}: {cause}"))
        })
    }
}

fn load(engine: &Engine, key: Key) -> Result<Compiled, EngineError> {
    engine.load(key.trace(engine.config(), engine.options())?)
}

/// A row in the words of a step's matrix.
fn describe(row: &Row<'_>, layout: RowLayout, words: &mut [u32]) {
    let sampling = row.sampling;
    let penalized = sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0;
    let flags = [
        (Flag::FromLast, row.tokens.is_empty()),
        (Flag::Fresh, row.fresh),
        (Flag::Draws, row.draws),
        (Flag::Masked, row.mask.is_some()),
        (Flag::Penalized, penalized),
        (Flag::Biased, !sampling.logit_bias.is_empty()),
        (Flag::Top, row.top > 0),
    ];
    let flags = flags.iter().filter(|(_, set)| *set).map(|&(flag, _)| flag as u32).sum();
    let columns = [
        (Column::Slot, row.slot as u32),
        (Column::Position, row.position as u32),
        (Column::Count, row.count() as u32),
        (Column::Flags, flags),
        (Column::AnswerFrom, row.prompt_tokens as u32),
        (Column::Temperature, sampling.temperature.to_bits()),
        (Column::TopK, sampling.top_k.min(i32::MAX as u32)),
        (Column::TopP, sampling.top_p.to_bits()),
        (Column::MinP, sampling.min_p.to_bits()),
        (Column::RepetitionPenalty, sampling.repetition_penalty.to_bits()),
        (Column::PresencePenalty, sampling.presence_penalty.to_bits()),
        (Column::FrequencyPenalty, sampling.frequency_penalty.to_bits()),
        (Column::SeedLow, sampling.seed as u32),
        (Column::SeedHigh, (sampling.seed >> 32) as u32),
        (Column::Adapter, row.adapter as u32),
    ];
    for (column, value) in columns {
        words[column as usize] = value;
    }
    words[layout.tokens()..][..row.tokens.len()].copy_from_slice(row.tokens);
    let pages = row.pages.len().min(layout.blocks);
    words[layout.pages()..][..pages].copy_from_slice(&row.pages[..pages]);
}

/// A token and its alternatives out of a step's results.
fn token(words: &[u32], top: usize) -> Token {
    let (ids, log_probs) = words[2..].split_at(TOP_MAX);
    let pairs = ids.iter().zip(log_probs).take(top);
    let alternative =
        |(&token, &bits): (&u32, &u32)| Alternative { token, log_prob: f32::from_bits(bits) };
    Token {
        id: words[0],
        log_prob: f32::from_bits(words[1]),
        top: pairs.map(alternative).collect(),
    }
}

impl Device for Programs {
    type Step = (Step, Vec<usize>);

    fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    fn prefill(&mut self, row: &Row<'_>) -> Result<Self::Step, DeviceError> {
        let width = self.width_for(row.count());
        let rows = std::slice::from_ref(row);
        let blocks = self.blocks_for(rows);
        let shape = step_shape(&self.ladder, 1, width, false, blocks);
        Ok((self.launch(rows, shape)?, vec![row.top]))
    }

    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Self::Step, DeviceError> {
        let batches = &self.ladder.batches;
        let wanted = rows.len();
        let batch = batches.iter().copied().find(|&batch| batch >= wanted).unwrap_or(wanted);
        let guesses = rows.iter().any(|row| row.count() > 1);
        let width = if guesses { self.ladder.guesses + 1 } else { 1 };
        let shape = step_shape(&self.ladder, batch, width, guesses, self.blocks_for(rows));
        Ok((self.launch(rows, shape)?, rows.iter().map(|row| row.top).collect()))
    }

    fn read(&mut self, (step, top): Self::Step) -> Result<Vec<Tokens>, DeviceError> {
        let bytes = step.drawn.to_host().map_err(EngineError::from)?;
        let words: Vec<u32> =
            bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let of_row = words.chunks_exact(step.width * result_words()).take(step.rows);
        let rows = of_row.zip(&step.counts).zip(top);
        Ok(rows
            .map(|((words, &count), top)| {
                words
                    .chunks_exact(result_words())
                    .take(count)
                    .map(|words| token(words, top))
                    .collect()
            })
            .collect())
    }

    fn embed(
        &mut self,
        position: usize,
        tokens: &[u32],
        pages: &[u32],
    ) -> Result<Vec<f32>, DeviceError> {
        let width = self.width_for(tokens.len());
        let sampling = super::request::Sampling::default();
        let row = Row {
            slot: self.ladder.slots,
            position,
            tokens,
            prompt_tokens: tokens.len(),
            fresh: false,
            draws: false,
            pages,
            sampling: &sampling,
            top: 0,
            mask: None,
            adapter: 0,
        };
        let blocks = self.blocks_for(std::slice::from_ref(&row));
        let key = Key::Embed(embed_shape(&self.ladder, width, blocks));
        self.find(key)?;
        let lost = || DeviceError("the cache was lost to an earlier error".to_string());
        let compiled = self.compiled.get(&key).ok_or_else(lost)?;
        let layout = RowLayout { width, blocks };
        let mut words = vec![0u32; layout.columns()];
        describe(&row, layout, &mut words);
        let described = self.engine.argument(compiled, 0, &words)?;
        let State { last, counts, cache } = self.state.take().ok_or_else(lost)?;
        let (outputs, cache) = compiled.run(vec![Argument::Borrowed(&described)], cache)?;
        self.state = Some(State { last, counts, cache });
        let Some(sum) = outputs.first() else {
            return Err(DeviceError("embedding returned nothing".to_string()));
        };
        let bytes = sum.to_host().map_err(EngineError::from)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        Ok(self.start_over()?)
    }

    fn adapter_memory(&self) -> Option<Arc<dyn AdapterMemory>> {
        self.adapters.clone().map(|adapters| adapters as Arc<dyn AdapterMemory>)
    }

    fn compiled_late(&self) -> u64 {
        self.compiled_late
    }
}
