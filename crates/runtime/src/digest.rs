//! SHA-256 of files and of labelled pieces of data. Knows nothing of what they mean.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 1 << 20;

/// Lower-case hexadecimal SHA-256 of a file; `seen` is told how many bytes are done.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(path: &Path, mut seen: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut done: u64 = 0;
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&block[..count]);
        done += count as u64;
        seen(done);
    }
}

/// Lower-case hexadecimal SHA-256 of bytes in memory.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// A digest over labelled pieces. Lengths are hashed too, so moving a byte from one piece to the
/// next changes the result.
#[derive(Clone, Default)]
pub struct Labelled {
    hasher: Sha256,
}

impl Labelled {
    pub fn add(&mut self, label: &str, bytes: &[u8]) -> &mut Labelled {
        for piece in [label.as_bytes(), bytes] {
            self.hasher.update((piece.len() as u64).to_le_bytes());
            self.hasher.update(piece);
        }
        self
    }

    pub fn finish(self) -> String {
        hexadecimal(&self.hasher.finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), expected);
    }

    #[test]
    fn pieces_do_not_run_together() {
        let digest = |first: &[u8], second: &[u8]| {
            let mut labelled = Labelled::default();
            labelled.add("x", first).add("y", second);
            labelled.finish()
        };
        assert_ne!(digest(b"ab", b"c"), digest(b"a", b"bc"));
    }
}
