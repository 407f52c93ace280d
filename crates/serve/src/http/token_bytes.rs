//! The bytes that one token stands for, which log-probabilities are reported with.
//!
//! A token may be a part of a character, so its text alone does not say.

use llm::tokenizer::Tokenizer;

/// The space in byte-level vocabularies, and in SentencePiece's.
const BYTE_LEVEL_SPACE: char = '\u{120}';
const SENTENCE_PIECE_SPACE: char = '\u{2581}';

/// The bytes of `token`; none for an id that is only padding.
pub(crate) fn token_bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let Some(spelled) = tokenizer.id_to_token(token) else { return Vec::new() };
    if tokenizer.is_special(token) {
        return spelled.into_bytes();
    }
    if let Some(byte) = byte_token(&spelled) {
        return vec![byte];
    }
    if spelled.contains(SENTENCE_PIECE_SPACE) {
        return spelled.replace(SENTENCE_PIECE_SPACE, " ").into_bytes();
    }
    let decoded = tokenizer.decode(&[token], false).unwrap_or_default();
    let is_byte_level = decoded.contains('\u{fffd}') || spelled.contains(BYTE_LEVEL_SPACE);
    let bytes: Option<Vec<u8>> = spelled.chars().map(byte_level_byte).collect();
    match bytes {
        Some(bytes) if is_byte_level => bytes,
        _ => decoded.into_bytes(),
    }
}

/// `<0x0A>`: SentencePiece's name for a byte without a token of its own.
fn byte_token(spelled: &str) -> Option<u8> {
    let digits = spelled.strip_prefix("<0x")?.strip_suffix('>')?;
    let are_digits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| are_digits)
}

/// GPT-2's spelling of bytes: printable ones of Latin-1 stand for themselves, the rest take the
/// characters from U+0100 on, in order.
fn byte_level_byte(character: char) -> Option<u8> {
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(character) {
        code @ 0..=0xff => Some(code as u8).filter(|byte| is_plain(*byte)),
        code => {
            let place = usize::try_from(code - 0x100).ok()?;
            (0..=255).filter(|byte| !is_plain(*byte)).nth(place)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_gpt_2_does() {
        assert_eq!(byte_level_byte('a'), Some(b'a'));
        assert_eq!(byte_level_byte('\u{120}'), Some(b' '));
        assert_eq!(byte_level_byte('\u{10a}'), Some(b'\n'));
        assert_eq!(byte_level_byte('é'), Some(0xe9));
        assert_eq!(byte_level_byte('\u{143}'), Some(0xad));
        assert_eq!(byte_level_byte('\u{144}'), None);
        assert_eq!(byte_level_byte(' '), None);
    }

    #[test]
    fn byte_tokens_are_told_from_text() {
        assert_eq!(byte_token("<0xE2>"), Some(0xe2));
        assert_eq!(byte_token("<0x+1>"), None);
        assert_eq!(byte_token("<0xE2"), None);
    }
}
