//! Turns a stream of token ids into a stream of text.
//!
//! A token may end inside a character, and what a token looks like may depend on the ones before
//! it: SentencePiece drops the first space of a text, and shows a run of bytes as characters only
//! if the whole run is valid. So each step decodes the tokens of the last piece of text, as
//! context, with those that follow, and passes on what those added once it ends in a whole
//! character.

use super::{Tokenizer, TokenizerError};

/// Tokens of a prompt that serve as context.
const CONTEXT_TOKENS: usize = 4;
/// A character has at most four bytes, hence four tokens. What is no character by then never will
/// be.
const CHARACTER_TOKENS_MAX: usize = 4;
/// Tokens without any text are kept as context of the next, up to this many.
const SILENT_TOKENS_MAX: usize = 16;
const REPLACEMENT: char = '\u{fffd}';

/// State of one stream. Feed every id once, in order, then call
/// [`flush`](IncrementalDecoder::flush).
#[derive(Debug, Clone)]
pub struct IncrementalDecoder {
    skip_special_tokens: bool,
    /// Context, then tokens whose text has not been passed on.
    window: Vec<u32>,
    pending_start: usize,
    /// How many of the last tokens, in a row, left a character incomplete.
    incomplete_tokens: usize,
    /// The context is still the end of the prompt, which may begin inside a character.
    untrimmed: bool,
}

impl IncrementalDecoder {
    /// A stream that continues `prompt`, whose own text is not repeated.
    pub fn new(prompt: &[u32], skip_special_tokens: bool) -> IncrementalDecoder {
        let context_tokens = CONTEXT_TOKENS + CHARACTER_TOKENS_MAX - 1;
        let window = prompt[prompt.len().saturating_sub(context_tokens)..].to_vec();
        IncrementalDecoder {
            skip_special_tokens,
            pending_start: window.len(),
            window,
            incomplete_tokens: 0,
            untrimmed: true,
        }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TokenizerError> {
        if self.skip_special_tokens && tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        let text = self.pending_text(tokenizer).inspect_err(|_| {
            self.window.pop();
        })?;
        if text.is_empty() && self.window.len() - self.pending_start < SILENT_TOKENS_MAX {
            return Ok(text);
        }
        self.incomplete_tokens =
            if text.ends_with(REPLACEMENT) { self.incomplete_tokens + 1 } else { 0 };
        if (1..CHARACTER_TOKENS_MAX).contains(&self.incomplete_tokens) {
            return Ok(String::new());
        }
        self.settle();
        Ok(text)
    }

    /// The rest at the end of a stream, with U+FFFD for bytes that never became a character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn flush(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        let text = self.pending_text(tokenizer)?;
        self.settle();
        Ok(text)
    }

    fn pending_text(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
        if self.pending_start == self.window.len() {
            return Ok(String::new());
        }
        if std::mem::take(&mut self.untrimmed) {
            self.trim_prompt(tokenizer)?;
        }
        let (context, pending) = self.window.split_at(self.pending_start);
        let context = tokenizer.decode(context, self.skip_special_tokens)?;
        let whole = tokenizer.decode(&self.window, self.skip_special_tokens)?;
        if let Some(text) = whole.strip_prefix(&context) {
            return Ok(text.to_owned());
        }
        if context.ends_with(REPLACEMENT) {
            // The prompt ended inside a character, which is complete now.
            let same = context.chars().zip(whole.chars()).take_while(|(left, right)| left == right);
            let shared_bytes: usize = same.map(|(character, _)| character.len_utf8()).sum();
            return Ok(whole[shared_bytes..].to_owned());
        }
        // An invalid byte spoils the run of bytes before it, which has been passed on already.
        tokenizer.decode(pending, self.skip_special_tokens)
    }

    /// Drops tokens in front of the context until it begins with a whole character, if it ever
    /// does.
    fn trim_prompt(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        for dropped in 0..CHARACTER_TOKENS_MAX.min(self.pending_start) {
            let context = tokenizer
                .decode(&self.window[dropped..self.pending_start], self.skip_special_tokens)?;
            if !context.starts_with(REPLACEMENT) {
                self.window.drain(..dropped);
                self.pending_start -= dropped;
                break;
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.incomplete_tokens = 0;
        if self.pending_start < self.window.len() {
            self.window.drain(..self.pending_start);
            self.pending_start = self.window.len();
        }
    }
}
