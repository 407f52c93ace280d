//! What the HTTP side knows of the model: its words, its names, its way to be spoken to.

use std::sync::Arc;

use llm::chat::{ChatInput, ChatTemplate};
use llm::tokenizer::{Tokenizer, TokenizerError};

use super::error::ApiError;
use crate::engine::Limits;
use crate::structure::Structures;

/// A model's text side.
pub struct ModelText {
    pub tokenizer: Arc<Tokenizer>,
    /// Without one there are completions, but no chats.
    pub chat_template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// The names that requests may use; the first is the one that answers carry. At least one.
    pub served_names: Vec<String>,
    /// What the model runs on, and on how many of them, as `GET /version` shows it.
    pub chip: String,
    pub devices: usize,
    /// Where the model came from, as `GET /v1/models` shows it.
    pub root: String,
    /// In seconds since 1970.
    pub created_seconds: u64,
    /// Tells clients which program, device and weights gave an answer.
    pub system_fingerprint: String,
    pub structures: Arc<dyn Structures>,
}

impl ModelText {
    /// The name that answers of the base model carry.
    pub(crate) fn name(&self) -> &str {
        self.served_names.first().map_or("", String::as_str)
    }

    /// The text of a conversation as the model was trained to read it.
    pub(crate) fn render(&self, input: &ChatInput) -> Result<String, ApiError> {
        let Some(template) = &self.chat_template else {
            return Err(ApiError::invalid(
                "this model has no chat template; use /v1/completions with the whole prompt",
            ));
        };
        template.render(input).map_err(|error| {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            ApiError::field("messages", format!("{error}{cause}"))
        })
    }

    /// # Errors
    /// 400 for a text that no context of this size can hold: finding that out by its length alone
    /// spares the work.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
        limits: Limits,
    ) -> Result<Vec<u32>, ApiError> {
        // Normalization may compose characters, but never so many into one.
        let bytes_max = limits.context.saturating_mul(TOKEN_BYTES_MAX);
        if text.len() > bytes_max {
            return Err(ApiError {
                code: Some("context_length_exceeded"),
                ..ApiError::invalid(format!(
                    "the prompt has {} bytes, more than a context of {} tokens can hold",
                    text.len(),
                    limits.context
                ))
            });
        }
        self.tokenizer.encode(text, add_special_tokens).map_err(|error| not_encoded(&error))
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String, ApiError> {
        self.tokenizer
            .decode(ids, false)
            .map_err(|error| ApiError::field("tokens", error.to_string()))
    }
}

/// More than the longest token that any known vocabulary has (a run of spaces).
const TOKEN_BYTES_MAX: usize = 1024;

fn not_encoded(error: &TokenizerError) -> ApiError {
    ApiError::invalid(error.to_string())
}
