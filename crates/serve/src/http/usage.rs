//! Counting tokens for the one who pays for them.

use serde_json::{Value, json};

use super::generation::Counts;

/// Tokens of one request. A prompt counts once, however many answers it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub prompt: usize,
    pub answer: usize,
    pub reasoning: usize,
    pub cached: usize,
    /// How many answers each prompt gets.
    n: usize,
    ended: usize,
}

impl Usage {
    pub fn of_prompts(prompt: usize, n: usize) -> Usage {
        Usage { prompt, n, ..Usage::default() }
    }

    /// One answer has ended; they come prompt by prompt in any order.
    pub fn add(&mut self, counts: &Counts) {
        self.answer += counts.answer;
        self.reasoning += counts.reasoning;
        self.ended += 1;
        // Further answers to a prompt find all of it in the cache, which is no news: of one prompt,
        // the answer that found least is the one that paid for it.
        self.cached = match self.n {
            0 | 1 => self.cached + counts.cached,
            _ if self.ended == 1 => counts.cached,
            _ => self.cached.min(counts.cached),
        };
    }

    pub fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.answer,
            "total_tokens": self.prompt + self.answer,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        })
    }

    /// In the words of the interface for responses.
    pub fn to_responses_json(self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.answer,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.prompt + self.answer,
        })
    }
}
