//! Timing of the programs that generation is made of, for benchmarks.

use std::time::Instant;

use runtime::Argument;

use super::{Drawn, Engine, EngineError, ProgramKey, Sampling, State, words};
use crate::models::CacheShape;

impl Engine {
    /// Seconds of each of `steps` greedy decode steps of `batch` sequences, after a prompt of
    /// `prompt` tokens and `warm_up` steps that do not count. Each step ends when its tokens are on
    /// the host.
    ///
    /// # Errors
    /// What compiling or running objects to.
    pub fn time_decode(
        &self,
        batch: usize,
        prompt: usize,
        warm_up: usize,
        steps: usize,
    ) -> Result<Vec<f64>, EngineError> {
        let capacity = self.capacity_for(prompt + warm_up + steps);
        let cache = CacheShape { batch, capacity };
        let (mut drawn, mut state) = self.run_prefill(cache, prompt)?;
        let compiled = self.program(ProgramKey::Decode { cache })?;
        let settings = Sampling::default().upload(self, batch)?;
        let mut seconds = Vec::with_capacity(steps);
        for step in 0..warm_up + steps {
            let started = Instant::now();
            let mut data: Vec<Argument<'_>> = vec![(&drawn.token).into(), (&drawn.position).into()];
            data.extend(settings.iter().map(Argument::from));
            (drawn, state) = compiled.draw(data, state)?;
            words(&drawn.token)?;
            if step >= warm_up {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(seconds)
    }

    /// Seconds of each of `repeat` prefills of `tokens` tokens in one chunk, after one that does not
    /// count.
    ///
    /// # Errors
    /// What compiling or running objects to.
    pub fn time_prefill(&self, tokens: usize, repeat: usize) -> Result<Vec<f64>, EngineError> {
        let capacity = self.capacity_for(tokens);
        let cache = CacheShape { batch: 1, capacity };
        let mut seconds = Vec::with_capacity(repeat);
        for round in 0..=repeat {
            let started = Instant::now();
            let (drawn, _) = self.run_prefill(cache, tokens)?;
            words(&drawn.token)?;
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(seconds)
    }

    /// Prefills an empty cache with the same made-up prompt in every row.
    fn run_prefill(&self, cache: CacheShape, tokens: usize) -> Result<(Drawn, State), EngineError> {
        let key = ProgramKey::Prefill { cache, chunk: tokens };
        let compiled = self.program(key)?;
        let batch = cache.batch;
        let vocab = self.config.vocab_size;
        let prompt: Vec<u32> = (0..tokens).map(|place| (place * 7919 % vocab) as u32).collect();
        let ids = self.argument(&compiled, 0, &prompt.repeat(batch))?;
        let start = self.argument(&compiled, 1, &vec![0; batch])?;
        let count = self.argument(&compiled, 2, &vec![tokens as u32; batch])?;
        let settings = Sampling::default().upload(self, batch)?;
        let seen = self.seen(&compiled, &[])?;
        let mut data: Vec<Argument<'_>> = vec![(&ids).into(), (&start).into(), (&count).into()];
        data.extend(settings.iter().map(Argument::from));
        compiled.draw(data, State { seen, cache: self.new_cache(&compiled)? })
    }
}
