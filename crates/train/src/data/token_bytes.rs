//! Which bytes each token stands for. Says where in a text its tokens are, and how many bytes of
//! text a batch teaches, which turns a loss per token into bits per byte.

use std::ops::Range;

use llm::Tokenizer;

/// The bytes of every token of a vocabulary.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes end in `bytes`.
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl TokenBytes {
    pub(super) fn of(tokenizer: &Tokenizer) -> TokenBytes {
        let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let mut table = TokenBytes { bytes: Vec::new(), ends: Vec::new(), special: Vec::new() };
        for id in 0..count {
            table.bytes.extend(tokenizer.token_bytes(id).unwrap_or_default());
            table.ends.push(table.bytes.len());
            table.special.push(tokenizer.is_special(id));
        }
        table
    }

    fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(end) = self.ends.get(id).copied() else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Bytes of text that each token stands for; none for special tokens, which are no text.
    pub(super) fn lengths(&self) -> Vec<u32> {
        let length = |id: usize| match self.special[id] {
            true => 0,
            false => self.get(id as u32).len() as u32,
        };
        (0..self.ends.len()).map(length).collect()
    }

    /// The bytes of `text` behind each of its tokens; `None` if they do not spell it, which
    /// happens when the tokenizer rewrites text (composes accents, say).
    pub(super) fn locate(&self, text: &str, ids: &[u32]) -> Option<Vec<Range<usize>>> {
        let text = text.as_bytes();
        let mut places = Vec::with_capacity(ids.len());
        let mut at = 0;
        for id in ids {
            let bytes = self.get(*id);
            let rest = &text[at..];
            let length = match bytes {
                _ if rest.starts_with(bytes) => bytes.len(),
                // SentencePiece puts a space before a text that has none.
                [b' ', word @ ..] if rest.starts_with(word) => word.len(),
                _ => return None,
            };
            places.push(at..at + length);
            at += length;
        }
        (at == text.len()).then_some(places)
    }
}
