//! Tokens as backends count them.

use serde::Deserialize;

/// `usage` of an answer, in either interface's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    #[serde(alias = "input_tokens", default)]
    pub prompt_tokens: u64,
    #[serde(alias = "output_tokens", default)]
    pub completion_tokens: u64,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens, prompt_tokens_details: None }
    }

    /// Of the prompt's, never more than it has.
    pub fn cached_tokens(&self) -> u64 {
        let details = self.prompt_tokens_details.unwrap_or_default();
        details.cached_tokens.unwrap_or(0).min(self.prompt_tokens)
    }
}
