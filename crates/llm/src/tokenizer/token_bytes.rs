//! What a token adds to a text, byte for byte: what decides which tokens a grammar allows.
//!
//! Decoding a token alone does not tell: a part of a character becomes U+FFFD, and SentencePiece
//! drops the first space of a text.

use tokenizers::DecoderWrapper;

use super::Tokenizer;

/// SentencePiece's visible stand-in for a space.
const SPACE: char = '▁';

/// How a vocabulary spells bytes.
#[derive(Clone, Copy)]
enum Spelling {
    /// Every byte is a printable character, as in GPT-2.
    ByteLevel,
    /// Characters stand for themselves, `▁` for a space, `<0x0A>` for a byte.
    SentencePiece,
}

impl Tokenizer {
    /// The bytes that `id` adds in the middle of a text, special tokens being spelled out. None for
    /// ids that the vocabulary lacks.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.inner.id_to_token(id)?;
        Some(match self.spelling() {
            Some(Spelling::ByteLevel) => {
                // Added tokens may hold characters that spell no byte; the decoder takes such
                // tokens as they are.
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            Some(Spelling::SentencePiece) => match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace(SPACE, " ").into_bytes(),
            },
            None => self.inner.decode(&[id], false).ok()?.into_bytes(),
        })
    }

    fn spelling(&self) -> Option<Spelling> {
        let decoder = self.inner.get_decoder()?;
        let steps = match decoder {
            DecoderWrapper::Sequence(steps) => steps.get_decoders(),
            single => std::slice::from_ref(single),
        };
        steps.iter().find_map(|step| match step {
            DecoderWrapper::ByteLevel(_) => Some(Spelling::ByteLevel),
            DecoderWrapper::ByteFallback(_) | DecoderWrapper::Metaspace(_) => {
                Some(Spelling::SentencePiece)
            }
            _ => None,
        })
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 for itself, the
/// others, in order, for U+0100 and up.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(printable),
        code => {
            let rank = usize::try_from(code.checked_sub(0x100)?).ok()?;
            // The 68 others: 0 to 0x20, 0x7f to 0xa0, and 0xad.
            match rank {
                0..=0x20 => u8::try_from(rank).ok(),
                0x21..=0x42 => u8::try_from(rank - 0x21 + 0x7f).ok(),
                0x43 => Some(0xad),
                _ => None,
            }
        }
    }
}

/// `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_spells_every_byte_once() {
        let spelled: Vec<u8> = ('\0'..='\u{143}')
            .filter_map(byte_of)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        assert_eq!(spelled, (0..=255).collect::<Vec<u8>>());
        assert_eq!(('\0'..='\u{200}').filter_map(byte_of).count(), 256);
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(
            (byte_of('a'), byte_of('ł'), byte_of('Ń')),
            (Some(b'a'), Some(0xa0), Some(0xad))
        );
    }

    #[test]
    fn only_byte_tokens_are_bytes() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        for other in ["<s>", "<0xFFF>", "<0x0>", "<0x0AB>", "0x0A", "<0xZZ>", "<0x+1>x", "x<0x0A>"]
        {
            assert_eq!(byte_token(other), None, "{other}");
        }
    }
}
