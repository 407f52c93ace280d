//! The checksum of a checkpoint's pieces: XXH3, 128 bits.
//!
//! It is there to notice what disks, networks and cut-off copies do to bytes, at the speed of memory,
//! so that all of a checkpoint can be checked before it is used. It does not keep anyone from forging
//! a checkpoint: whoever can write the data can write the manifest as well.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u128);

impl Checksum {
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(xxh3_128(bytes))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksum, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = digits.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        value.map(Checksum).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is not 32 hexadecimal digits"))
        })
    }
}

/// Takes the bytes piece by piece.
pub struct Checksummer(Box<Xxh3>);

impl Checksummer {
    pub fn new() -> Checksummer {
        Checksummer(Box::new(Xxh3::new()))
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> Checksum {
        Checksum(self.0.digest128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..10_000u32).map(|index| (index * 7 % 251) as u8).collect();
        let mut pieces = Checksummer::new();
        bytes.chunks(777).for_each(|piece| pieces.add(piece));
        assert_eq!(pieces.finish(), Checksum::of(&bytes));
        // The value that the reference implementation gives for nothing at all.
        assert_eq!(Checksum::of(b"").to_string(), "99aa06d3014798d86001c324468d497f");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let checksum = Checksum::of(b"abc");
        let text = serde_json::to_string(&checksum).unwrap();
        assert_eq!(serde_json::from_str::<Checksum>(&text).unwrap(), checksum);
        assert!(serde_json::from_str::<Checksum>("\"+123\"").is_err());
    }
}
