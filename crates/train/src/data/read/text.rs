//! Plain text: a file is a document. Read block by block, so that a file may be larger than memory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Content, Item, PIECE_BYTES, cut};
use crate::data::DataError;

/// Room to see what follows a piece.
const BLOCK_BYTES: usize = PIECE_BYTES + 16;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

pub(super) struct Pieces {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Bytes before `buffer`.
    bytes_before: u64,
    at_end: bool,
    begins: bool,
    done: bool,
}

impl Pieces {
    pub(super) fn open(path: &Path) -> Result<Pieces, DataError> {
        let file = File::open(path)
            .map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
        Ok(Pieces {
            path: path.to_path_buf(),
            file,
            buffer: Vec::new(),
            bytes_before: 0,
            at_end: false,
            begins: true,
            done: false,
        })
    }

    fn fill(&mut self) -> Result<(), DataError> {
        if self.at_end || self.buffer.len() >= BLOCK_BYTES {
            return Ok(());
        }
        let missing = BLOCK_BYTES - self.buffer.len();
        let count = (&mut self.file)
            .take(missing as u64)
            .read_to_end(&mut self.buffer)
            .map_err(|source| DataError::Read { path: self.path.clone(), source })?;
        self.at_end = count < missing;
        Ok(())
    }

    fn piece(&mut self) -> Result<Item, DataError> {
        self.fill()?;
        if self.begins && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.drain(..BYTE_ORDER_MARK.len());
            self.bytes_before += BYTE_ORDER_MARK.len() as u64;
        }
        let text = match std::str::from_utf8(&self.buffer) {
            Ok(text) => text,
            // The block may end within a character.
            Err(error) if error.error_len().is_none() && !self.at_end => {
                std::str::from_utf8(&self.buffer[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let byte = self.bytes_before + error.valid_up_to() as u64;
                return Err(DataError::NotUtf8 { path: self.path.clone(), byte });
            }
        };
        let ends = self.at_end && text.len() <= PIECE_BYTES;
        let end = if ends { text.len() } else { cut(text) };
        let text = text[..end].to_owned();
        self.buffer.drain(..end);
        self.bytes_before += end as u64;
        let begins = std::mem::replace(&mut self.begins, false);
        self.done = ends;
        let content = Content::Text { text, begins, ends };
        Ok(Item { content, record: 1, bytes_done: self.bytes_before })
    }
}

impl Iterator for Pieces {
    type Item = Result<Item, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.done).then(|| self.piece())
    }
}
