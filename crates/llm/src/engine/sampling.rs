//! How the next token is chosen.

use graph::{DType, Shape};
use runtime::Array;

use super::{Engine, EngineError};
use crate::programs::SAMPLING_INPUTS;

/// A request's sampling settings, with vLLM's names and meanings.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token every time.
    pub temperature: f32,
    /// Only this many of the likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens whose probabilities add up to this; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 for all.
    pub min_p: f32,
    /// Above 1, tokens that were already there become less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The same seed gives the same text, on every chip with the same numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// # Errors
    /// The setting that is out of range.
    pub fn check(&self) -> Result<(), EngineError> {
        let rules = [
            ("temperature", self.temperature, 0.0..=100.0, "it must be between 0 and 100"),
            ("top-p", self.top_p, f32::MIN_POSITIVE..=1.0, "it must be above 0 and at most 1"),
            ("min-p", self.min_p, 0.0..=1.0, "it must be between 0 and 1"),
            (
                "repetition-penalty",
                self.repetition_penalty,
                f32::MIN_POSITIVE..=100.0,
                "it must be above 0 and at most 100",
            ),
        ];
        for (setting, value, range, wanted) in rules {
            if !range.contains(&value) {
                return Err(EngineError::Sampling { setting, value: value.to_string(), wanted });
            }
        }
        Ok(())
    }

    /// The settings as device arrays, the same for each of `batch` sequences, in the order of
    /// [`SAMPLING_INPUTS`].
    pub(super) fn upload(&self, engine: &Engine, batch: usize) -> Result<Vec<Array>, EngineError> {
        let words = [
            self.temperature.to_bits(),
            self.top_k.min(i32::MAX as u32),
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.repetition_penalty.to_bits(),
            self.seed as u32,
            (self.seed >> 32) as u32,
        ];
        let array = |((_, dtype), word): (&(&str, DType), u32)| {
            let shape = Shape::new(*dtype, &[("batch", batch)]);
            engine.activation(&shape, &vec![word; batch])
        };
        SAMPLING_INPUTS.iter().zip(words).map(array).collect()
    }
}
