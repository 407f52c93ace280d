//! Which bytes each token stands for. Says where in a text its tokens are, and how many bytes of
//! text a batch teaches, which turns a loss per token into bits per byte.

use std::collections::HashMap;
use std::ops::Range;

use llm::Tokenizer;

/// The bytes of every token of a vocabulary.
pub(super) struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes end in `bytes`.
    ends: Vec<usize>,
    special: Vec<bool>,
}

/// How a vocabulary spells bytes that are no characters.
#[derive(Clone, Copy)]
enum Spelling {
    /// Every byte is a printable character, a space is `Ġ` (GPT-2's way).
    ByteLevel,
    /// A space is `▁`, any byte may be written `<0x0A>` (SentencePiece's way).
    SentencePiece,
}

impl TokenBytes {
    pub(super) fn of(tokenizer: &Tokenizer) -> TokenBytes {
        let spelling = match tokenizer.token_to_id("<0x0A>").or(tokenizer.token_to_id("▁")) {
            Some(_) => Spelling::SentencePiece,
            None => Spelling::ByteLevel,
        };
        let alphabet = byte_level_alphabet();
        let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let mut table = TokenBytes { bytes: Vec::new(), ends: Vec::new(), special: Vec::new() };
        for id in 0..count {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            let special = tokenizer.is_special(id);
            match spelling {
                // Special tokens are spelled as they are; so are tokens that somebody added, which
                // shows by characters outside the alphabet.
                _ if special => table.bytes.extend(token.as_bytes()),
                Spelling::ByteLevel => {
                    let bytes: Option<Vec<u8>> =
                        token.chars().map(|character| alphabet.get(&character).copied()).collect();
                    table.bytes.extend(bytes.unwrap_or_else(|| token.as_bytes().to_vec()));
                }
                Spelling::SentencePiece => match byte_token(&token) {
                    Some(byte) => table.bytes.push(byte),
                    None => table.bytes.extend(token.replace('▁', " ").as_bytes()),
                },
            }
            table.ends.push(table.bytes.len());
            table.special.push(special);
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

/// GPT-2's `bytes_to_unicode`, backwards: printable characters of Latin-1 stand for themselves, the
/// other bytes, in order, for the characters from U+0100 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => (char::from(byte), byte),
            _ => {
                let character = char::from_u32(next).unwrap_or_default();
                next += 1;
                (character, byte)
            }
        })
        .collect()
}

/// `<0x0A>`
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_one_of_gpt2() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        for (character, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('a', b'a'), ('ł', 0xA0), ('Ń', 0xAD)]
        {
            assert_eq!(alphabet[&character], byte, "{character}");
        }
    }

    #[test]
    fn bytes_as_tokens() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xFFF>"), None);
        assert_eq!(byte_token("<s>"), None);
    }
}
