//! One sequence being generated: its tokens, and the KV cache that holds all but the last of them.

use runtime::{Argument, Array};

use super::{Compiled, Drawn, Engine, EngineError, ProgramKey, Sampling, State, floats, words};
use crate::models::CacheShape;

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end-of-sequence token, which is not part of the answer.
    EndOfSequence,
    /// The caller's limit of tokens.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller asked to stop.
    Stopped,
}

/// Tokens of an answer that a cache has room for from the start: growing it later stalls the stream.
const ANSWER_ROOM: usize = 512;

/// One token of the answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generated {
    pub token: u32,
    /// Its log-probability under the model's own distribution.
    pub log_prob: f32,
}

/// A sequence with its cache. Prompts that begin with what the cache holds run only the rest.
pub struct Session<'e> {
    engine: &'e Engine,
    /// The tokens whose keys and values are in the cache.
    cached: Vec<u32>,
    cache: Option<Cache>,
    /// Marks of the tokens in the sequence, for the repetition penalty; only while generating.
    seen: Option<Array>,
}

struct Cache {
    capacity: usize,
    arrays: Vec<Array>,
}

impl Engine {
    /// A new, empty sequence.
    pub fn session(&self) -> Session<'_> {
        Session { engine: self, cached: Vec::new(), cache: None, seen: None }
    }
}

impl Session<'_> {
    /// Continues `prompt` by at most `max_tokens`. `on_token` gets each token and says whether to go
    /// on; `end_tokens` end the answer without being part of it.
    ///
    /// # Errors
    /// A prompt that is empty, too long or not of this vocabulary; settings out of range; what the
    /// devices report. The session stays usable.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_tokens: usize,
        sampling: &Sampling,
        end_tokens: &[u32],
        mut on_token: impl FnMut(Generated) -> bool,
    ) -> Result<Finish, EngineError> {
        sampling.check()?;
        self.engine.check_prompt(prompt)?;
        if max_tokens == 0 {
            return Ok(Finish::Length);
        }
        let settings = sampling.upload(self.engine, 1)?;
        let expected = prompt.len() + max_tokens.min(ANSWER_ROOM);
        let mut drawn = self.prefill(prompt, expected, &settings)?;
        let room = self.engine.context - prompt.len();
        let mut last: Option<u32> = None;
        for count in 1.. {
            // The token's own place in the cache; reading it can wait until the next step runs.
            let step = prompt.len() + count - 1;
            let next = match count < max_tokens && count <= room {
                true => Some(self.step(&drawn, step, &settings)?),
                false => None,
            };
            let Generated { token, log_prob } = self.read(&drawn, step)?;
            if let Some(last) = last.replace(token) {
                self.cached.push(last);
            }
            if end_tokens.contains(&token) {
                return Ok(Finish::EndOfSequence);
            }
            if !on_token(Generated { token, log_prob }) {
                return Ok(Finish::Stopped);
            }
            match next {
                Some(next) => drawn = next,
                None if count == max_tokens => return Ok(Finish::Length),
                None => return Ok(Finish::ContextFull),
            }
        }
        Ok(Finish::Length)
    }

    /// The drawn token. A run that failed shows here, and its cache is of no more use.
    fn read(&mut self, drawn: &Drawn, position: usize) -> Result<Generated, EngineError> {
        let read = || -> Result<Generated, EngineError> {
            let token = words(&drawn.token)?.first().copied().unwrap_or(0);
            let log_prob = floats(&drawn.log_prob)?.first().copied().unwrap_or(f32::NAN);
            match log_prob.is_finite() {
                true => Ok(Generated { token, log_prob }),
                false => Err(EngineError::NotFinite { position }),
            }
        };
        read().inspect_err(|_| self.forget())
    }

    /// Drops the cache, so that the next prompt runs from its beginning.
    pub fn forget(&mut self) {
        self.cached.clear();
        self.cache = None;
        self.seen = None;
    }

    /// Brings the whole prompt into the cache and draws the token after it.
    /// The cache gets room for `expected` tokens if the context allows.
    fn prefill(
        &mut self,
        prompt: &[u32],
        expected: usize,
        settings: &[Array],
    ) -> Result<Drawn, EngineError> {
        let engine = self.engine;
        let same = self.cached.iter().zip(prompt).take_while(|(old, new)| old == new).count();
        // The last token always runs: its state gives the next one.
        let mut start = same.min(prompt.len() - 1);
        let mut cache = self.take_cache(expected, &mut start)?;
        let mut seen: Option<Array> = None;
        loop {
            let rest = prompt.len() - start;
            let chunk = engine.chunk_for(rest, cache.capacity);
            // A chunk must not reach beyond the cache: move it back over tokens that it repeats.
            let from = start.min(cache.capacity - chunk);
            let count = (prompt.len() - from).min(chunk);
            let shape = CacheShape { batch: 1, capacity: cache.capacity };
            let compiled = engine.program(ProgramKey::Prefill { cache: shape, chunk })?;
            let mut padded = prompt[from..from + count].to_vec();
            padded.resize(chunk, 0);
            let tokens = engine.argument(&compiled, 0, &padded)?;
            let first = engine.argument(&compiled, 1, &[from as u32])?;
            let real = engine.argument(&compiled, 2, &[count as u32])?;
            let marks = match seen.take() {
                Some(seen) => seen,
                None => engine.seen(&compiled, &prompt[..from])?,
            };
            let mut data: Vec<Argument<'_>> =
                vec![(&tokens).into(), (&first).into(), (&real).into()];
            data.extend(settings.iter().map(Argument::from));
            let (drawn, state) = compiled.draw(data, State { seen: marks, cache: cache.arrays })?;
            cache.arrays = state.cache;
            start = from + count;
            if start == prompt.len() {
                self.cached = prompt.to_vec();
                self.cache = Some(cache);
                self.seen = Some(state.seen);
                return Ok(drawn);
            }
            seen = Some(state.seen);
        }
    }

    /// Enqueues the decode of a drawn token that will stand at `position`.
    fn step(
        &mut self,
        drawn: &Drawn,
        position: usize,
        settings: &[Array],
    ) -> Result<Drawn, EngineError> {
        let engine = self.engine;
        let mut start = position;
        let cache = self.take_cache(position + 1, &mut start)?;
        let shape = CacheShape { batch: 1, capacity: cache.capacity };
        let compiled = engine.program(ProgramKey::Decode { cache: shape })?;
        let mut data: Vec<Argument<'_>> = vec![(&drawn.token).into(), (&drawn.position).into()];
        data.extend(settings.iter().map(Argument::from));
        let seen = match self.seen.take() {
            Some(seen) => seen,
            None => engine.seen(&compiled, &self.cached)?,
        };
        let (drawn, state) = compiled.draw(data, State { seen, cache: cache.arrays })?;
        self.cache = Some(Cache { capacity: cache.capacity, arrays: state.cache });
        self.seen = Some(state.seen);
        Ok(drawn)
    }

    /// The cache with room for `tokens`, grown if need be. When it had to be made anew, `start`
    /// becomes 0.
    fn take_cache(&mut self, tokens: usize, start: &mut usize) -> Result<Cache, EngineError> {
        let engine = self.engine;
        let wanted = engine.capacity_for(tokens);
        match self.cache.take() {
            Some(cache) if cache.capacity >= wanted => Ok(cache),
            Some(cache) => engine.grow(cache, wanted),
            None => {
                *start = 0;
                let shape = CacheShape { batch: 1, capacity: wanted };
                let compiled = engine.program(ProgramKey::Decode { cache: shape })?;
                Ok(Cache { capacity: wanted, arrays: engine.new_cache(&compiled)? })
            }
        }
    }
}

impl Engine {
    pub(super) fn check_prompt(&self, prompt: &[u32]) -> Result<(), EngineError> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() > self.context {
            let model_limit = self.context == self.config.max_position_embeddings;
            let (tokens, context) = (prompt.len(), self.context);
            return Err(EngineError::PromptTooLong { tokens, context, model_limit });
        }
        self.check_tokens(prompt)
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocab_size = self.config.vocab_size;
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(&token) => Err(EngineError::UnknownToken { token, vocab_size }),
            None => Ok(()),
        }
    }

    /// The marks of tokens that are already in the sequence.
    pub(super) fn seen(&self, compiled: &Compiled, tokens: &[u32]) -> Result<Array, EngineError> {
        let input = &compiled.program.program.inputs[compiled.program.data - 1];
        let mut marks = vec![0u8; input.shape.bytes()];
        for &token in tokens {
            marks[token as usize] = 1;
        }
        Ok(Array::from_host(&self.mesh, &input.shape, &input.sharding, &marks)?)
    }

    /// The same cache with a larger capacity: what it holds is copied by way of the host, which
    /// happens once for every doubling.
    fn grow(&self, cache: Cache, capacity: usize) -> Result<Cache, EngineError> {
        let shape = CacheShape { batch: 1, capacity };
        let compiled = self.program(ProgramKey::Decode { cache: shape })?;
        let inputs = &compiled.program.program.inputs[compiled.program.data..];
        let mut arrays = Vec::with_capacity(cache.arrays.len());
        for (old, input) in cache.arrays.into_iter().zip(inputs) {
            let from = old.shape().sizes();
            let bytes = old.to_host()?;
            drop(old);
            let mut wider = vec![0; input.shape.bytes()];
            let ranges: Vec<_> = from.iter().map(|&size| 0..size).collect();
            let element = input.shape.dtype.bytes();
            runtime::layout::place(&bytes, &input.shape.sizes(), element, &ranges, &mut wider);
            arrays.push(Array::from_host(&self.mesh, &input.shape, &input.sharding, &wider)?);
        }
        Ok(Cache { capacity, arrays })
    }
}
