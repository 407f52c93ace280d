//! The log-probability of every token of a given text.

use super::{Engine, EngineError, ProgramKey, floats, words};
use crate::models::CacheShape;

/// A token that the model might have put in a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alternative {
    pub token: u32,
    pub log_prob: f32,
}

/// What the model thought of one token, given those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    pub token: u32,
    /// Nothing for the first token, which has none before it.
    pub log_prob: Option<f32>,
    /// The likeliest tokens for this place, likeliest first; empty for the first token.
    pub top: Vec<Alternative>,
}

impl Engine {
    /// Scores `tokens`; `top` likeliest alternatives are reported for each place.
    ///
    /// # Errors
    /// As [`super::Session::generate`].
    pub fn score(&self, tokens: &[u32], top: usize) -> Result<Vec<TokenScore>, EngineError> {
        self.check_prompt(tokens)?;
        let top = top.clamp(1, self.config.vocab_size);
        let capacity = self.capacity_for(tokens.len());
        let chunk = self.chunk_for(tokens.len(), capacity);
        let cache = CacheShape { batch: 1, capacity };
        let compiled = self.program(ProgramKey::Score { cache, chunk, top })?;
        let mut arrays = self.new_cache(&compiled)?;
        let mut scores = vec![TokenScore { token: tokens[0], log_prob: None, top: Vec::new() }];
        // The last token has no successor to be scored, so it never runs.
        let last = tokens.len() - 1;
        while scores.len() <= last {
            let done = scores.len() - 1;
            // As in prefill: a chunk that would reach beyond the cache repeats some tokens.
            let from = done.min(capacity - chunk);
            let count = (last - from).min(chunk);
            let padded = |range: std::ops::Range<usize>| {
                let mut part = tokens[range].to_vec();
                part.resize(chunk, 0);
                part
            };
            let input = self.argument(&compiled, 0, &padded(from..from + count))?;
            let targets = self.argument(&compiled, 1, &padded(from + 1..from + 1 + count))?;
            let start = self.argument(&compiled, 2, &[from as u32])?;
            let data = vec![(&input).into(), (&targets).into(), (&start).into()];
            let (outputs, updated) = compiled.run(data, arrays)?;
            arrays = updated;
            let [log_probs, top_ids, top_log_probs] = &outputs[..] else {
                return Err(EngineError::Results { count: outputs.len() });
            };
            let (log_probs, ids) = (floats(log_probs)?, words(top_ids)?);
            let values = floats(top_log_probs)?;
            for (place, &log_prob) in log_probs.iter().enumerate().take(count).skip(done - from) {
                let position = from + place + 1;
                if !log_prob.is_finite() {
                    return Err(EngineError::NotFinite { position });
                }
                let row = place * top..(place + 1) * top;
                let pairs = ids[row.clone()].iter().zip(&values[row]);
                let top = pairs.map(|(&token, &log_prob)| Alternative { token, log_prob });
                let (token, top) = (tokens[position], top.collect());
                scores.push(TokenScore { token, log_prob: Some(log_prob), top });
            }
        }
        Ok(scores)
    }
}
