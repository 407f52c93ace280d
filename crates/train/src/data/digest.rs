//! Digests: of files, to know their contents again wherever they lie, and of all that decides which
//! tokens these become.

use std::fs;
use std::io::Read;

use sha2::{Digest, Sha256};

use super::find::SourceFile;
use super::{DataError, Progress};

const DIGEST_BLOCK_BYTES: usize = 1 << 20;

/// A source's files, each with the SHA-256 of its contents.
pub(super) struct Contents {
    pub(super) files: Vec<SourceFile>,
    pub(super) digests: Vec<String>,
}

impl Contents {
    /// Reads all files. `name` is the source's.
    pub(super) fn of(
        name: &str,
        files: Vec<SourceFile>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Contents, DataError> {
        let digests = digests(name, &files, progress)?;
        Ok(Contents { files, digests })
    }
}

fn digests(
    name: &str,
    files: &[SourceFile],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<String>, DataError> {
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let mut bytes_done = 0;
    let mut block = vec![0; DIGEST_BLOCK_BYTES];
    let digest = |file: &SourceFile| {
        let mut hasher = Sha256::new();
        let mut digest = || -> std::io::Result<()> {
            let mut open = fs::File::open(&file.path)?;
            loop {
                let count = open.read(&mut block)?;
                if count == 0 {
                    return Ok(());
                }
                hasher.update(&block[..count]);
                bytes_done += count as u64;
                progress(Progress::Reading { source: name, bytes_done, bytes_total });
            }
        };
        match digest() {
            Ok(()) => Ok(hexadecimal(&hasher.finalize())),
            Err(source) => Err(DataError::Read { path: file.path.clone(), source }),
        }
    };
    files.iter().map(digest).collect()
}

/// A digest over labelled pieces. Lengths count too, so a byte that moves from one piece to the next
/// changes the result.
#[derive(Default)]
pub(super) struct LabelledDigest(Sha256);

impl LabelledDigest {
    pub(super) fn add(&mut self, label: &str, bytes: &[u8]) {
        for piece in [label.as_bytes(), bytes] {
            self.0.update((piece.len() as u64).to_le_bytes());
            self.0.update(piece);
        }
    }

    pub(super) fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
