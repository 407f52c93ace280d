//! A file that grows, and outlives a full disk: what cannot be written now waits, and comes first when
//! there is room again. So nothing in it is torn, and nothing is missing but what a process that ends
//! takes with it.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::MetricsError;

#[derive(Debug)]
pub(super) struct Growing {
    pub path: PathBuf,
    file: File,
    waiting: Vec<u8>,
}

impl Growing {
    /// `file` is at its end.
    pub fn new(path: PathBuf, file: File) -> Growing {
        Growing { path, file, waiting: Vec::new() }
    }

    /// Adds these bytes after everything that waits.
    ///
    /// # Errors
    /// When the disk is full, or the file cannot be written. The bytes wait then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), MetricsError> {
        self.waiting.extend_from_slice(bytes);
        while !self.waiting.is_empty() {
            let failure = match self.file.write(&self.waiting) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    self.waiting.drain(..count);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return Err(MetricsError::write(&self.path, failure));
        }
        Ok(())
    }
}
