//! What the stub says: each token is a function of the prompt, the seed and its position, so that
//! every instance says the same and can go on where another stopped.

/// Ids below are single bytes; words follow.
const BYTES: u32 = 256;
/// Some need escapes in JSON.
const WORDS: [&str; 32] = [
    " a",
    " river",
    " of",
    " light",
    " runs",
    " under",
    " the",
    " old",
    " bridge",
    ",",
    " and",
    " nobody",
    " asks",
    " where",
    " it",
    " goes",
    ".",
    " Then",
    " rain",
    " falls",
    " on",
    " \"red\"",
    " roofs",
    " back\\slash",
    " tab\there",
    " so",
    " quietly",
    " that",
    " cats",
    " sleep",
    " through",
    "!",
];
/// Characters that take several tokens, one for each byte.
const CHARACTERS: [&str; 8] = ["é", "ß", "ж", "日", "本", "€", "🙂", "🚀"];
/// Tokens are chosen by blocks, as a character's bytes must follow each other.
const BLOCK: u64 = 4;
const BYTE_TABLE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte as u8;
        byte += 1;
    }
    table
};

/// One answer, known in full before it is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    state: u64,
}

impl Script {
    pub fn new(prompt_hash: u64, seed: i64) -> Script {
        Script { state: mix(prompt_hash ^ mix(seed as u64)) }
    }

    /// After so many tokens it stops by itself.
    pub fn length(&self) -> u64 {
        16 + self.state % 64
    }

    pub fn token(&self, position: u64) -> u32 {
        let drawn = mix(self.state.wrapping_add(position / BLOCK));
        let at = (position % BLOCK) as usize;
        let character = CHARACTERS[(drawn >> 8) as usize % CHARACTERS.len()].as_bytes();
        match character.get(at) {
            Some(&byte) if drawn.is_multiple_of(3) => u32::from(byte),
            _ => BYTES + ((drawn >> (16 + 8 * at)) % WORDS.len() as u64) as u32,
        }
    }

    /// What the first tokens say, as far as it is whole characters.
    pub fn text(&self, tokens: u64) -> String {
        let mut text = Text::default();
        (0..tokens).map(|position| text.push(self.token(position))).collect()
    }

    /// The least number of tokens that say just this, up to a number.
    pub fn tokens_of(&self, said: &str, most: u64) -> Option<u64> {
        let mut text = Text::default();
        let mut rest = said;
        for position in 0..most {
            if rest.is_empty() {
                return Some(position);
            }
            rest = rest.strip_prefix(text.push(self.token(position)).as_str())?;
        }
        rest.is_empty().then_some(most)
    }
}

fn bytes_of(token: u32) -> &'static [u8] {
    match BYTE_TABLE.get(token as usize..=token as usize) {
        Some(byte) => byte,
        None => WORDS.get((token - BYTES) as usize).map_or(&[], |word| word.as_bytes()),
    }
}

/// Makes text of tokens and holds back characters that are not whole yet.
#[derive(Debug, Default)]
pub(super) struct Text {
    held: Vec<u8>,
}

impl Text {
    pub fn push(&mut self, token: u32) -> String {
        self.held.extend_from_slice(bytes_of(token));
        match String::from_utf8(std::mem::take(&mut self.held)) {
            Ok(text) => text,
            // Words come whole, so what is held is the beginning of one character.
            Err(error) => {
                self.held = error.into_bytes();
                String::new()
            }
        }
    }

    /// What is left at the end: half a character becomes the sign for that.
    pub fn finish(&mut self) -> &'static str {
        let is_empty = std::mem::take(&mut self.held).is_empty();
        if is_empty { "" } else { "\u{fffd}" }
    }
}

/// FNV-1a, which is the same in every process.
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // The length too, so that parts cannot flow into each other.
        for &byte in part.len().to_le_bytes().iter().chain(*part) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    state
}

/// SplitMix64's output function: Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_split_and_come_whole() {
        let mut split = 0;
        for prompt in 0..50 {
            let script = Script::new(prompt, 1);
            let mut text = Text::default();
            let pieces: Vec<String> =
                (0..script.length()).map(|position| text.push(script.token(position))).collect();
            split += pieces.iter().filter(|piece| piece.is_empty()).count();
            assert!(!pieces.concat().contains('\u{fffd}'));
        }
        assert!(split > 100, "{split}");
    }

    #[test]
    fn a_text_is_found_in_its_script() {
        let script = Script::new(7, 7);
        for tokens in 0..script.length() {
            let found = script.tokens_of(&script.text(tokens), script.length()).unwrap();
            assert_eq!(script.text(found), script.text(tokens));
            assert!(found <= tokens);
        }
        assert_eq!(script.tokens_of("something else", 100), None);
    }
}
