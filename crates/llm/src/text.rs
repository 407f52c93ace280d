//! Token ids of an answer into text that can be shown, with stop strings.

use crate::tokenizer::{IncrementalDecoder, Tokenizer, TokenizerError};

/// Text that is certain: it holds no stop string and no part of one that may still be completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// A stop string was completed; it and what follows are not part of the text.
    pub stopped: bool,
}

/// The text of one answer, token by token.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    decoder: IncrementalDecoder,
    stop: Vec<String>,
    /// Stop strings that are complete within so many tokens do not count.
    min_tokens: usize,
    tokens: usize,
    /// Decoded text that may be the beginning of a stop string.
    held: String,
    /// How many bytes of it came with those tokens.
    exempt: usize,
    stopped: bool,
    /// Which of `stop` was completed.
    found: Option<usize>,
}

impl<'t> TextStream<'t> {
    /// An answer that follows `prompt` and ends before any of the texts in `stop`.
    pub fn new(tokenizer: &'t Tokenizer, prompt: &[u32], stop: Vec<String>) -> TextStream<'t> {
        TextStream::of(tokenizer, IncrementalDecoder::new(prompt, true), stop)
    }

    /// The same, but control tokens are shown as their vocabulary spells them: some models write
    /// tool calls with them.
    pub fn with_special_tokens(
        tokenizer: &'t Tokenizer,
        prompt: &[u32],
        stop: Vec<String>,
    ) -> TextStream<'t> {
        TextStream::of(tokenizer, IncrementalDecoder::new(prompt, false), stop)
    }

    fn of(
        tokenizer: &'t Tokenizer,
        decoder: IncrementalDecoder,
        stop: Vec<String>,
    ) -> TextStream<'t> {
        TextStream {
            tokenizer,
            decoder,
            stop,
            min_tokens: 0,
            tokens: 0,
            held: String::new(),
            exempt: 0,
            stopped: false,
            found: None,
        }
    }

    /// The same, but only what comes behind so many tokens can complete a stop string, as in vLLM.
    pub fn with_min_tokens(self, min_tokens: usize) -> TextStream<'t> {
        TextStream { min_tokens, ..self }
    }

    /// # Errors
    /// A token that the tokenizer does not know.
    pub fn push(&mut self, token: u32) -> Result<Piece, TokenizerError> {
        let text = self.decoder.push(self.tokenizer, token)?;
        self.tokens += 1;
        Ok(self.take(&text, false))
    }

    /// What is left when the answer is over.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self) -> Result<Piece, TokenizerError> {
        let text = self.decoder.flush(self.tokenizer)?;
        Ok(self.take(&text, true))
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The stop string that was completed.
    pub fn found(&self) -> Option<&str> {
        self.found.and_then(|index| self.stop.get(index)).map(String::as_str)
    }

    fn take(&mut self, text: &str, last: bool) -> Piece {
        if self.stopped {
            return Piece { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        if self.tokens <= self.min_tokens {
            self.exempt = self.held.len();
        }
        let places = self.stop.iter().enumerate();
        let places = places.filter_map(|(index, stop)| {
            // One that ends in what is exempt was complete too early.
            let first = (self.exempt + 1).saturating_sub(stop.len());
            let first = self.held.ceil_char_boundary(first);
            Some((first + self.held[first..].find(stop)?, index))
        });
        if let Some((place, index)) = places.min() {
            self.stopped = true;
            self.found = Some(index);
            self.held.truncate(place);
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = if last { 0 } else { possible_beginning(&self.held, &self.stop) };
        let shown = self.held.len() - keep;
        self.exempt = self.exempt.saturating_sub(shown);
        let rest = self.held.split_off(shown);
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }
}

/// How many bytes at the end of `text` could be the beginning of a stop string.
fn possible_beginning(text: &str, stop: &[String]) -> usize {
    let longest = |stop: &String| {
        let ends = stop.char_indices().map(|(end, _)| end).rev();
        ends.into_iter().find(|&end| text.ends_with(&stop[..end])).unwrap_or(0)
    };
    stop.iter().map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::possible_beginning;

    #[test]
    fn only_a_real_beginning_is_held_back() {
        let stop = ["</end>".to_string(), "\n\n".to_string()];
        assert_eq!(possible_beginning("text", &stop), 0);
        assert_eq!(possible_beginning("text</e", &stop), 3);
        assert_eq!(possible_beginning("text\n", &stop), 1);
        assert_eq!(possible_beginning("<</en", &stop), 4);
    }
}
