//! Writes a file of tokens from front to back, without knowing its size beforehand.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::BLOCK_BYTES;
use super::footer::Footer;

/// Makes one file. It is of no use until [`ShardWriter::finish`].
pub(in crate::data) struct ShardWriter {
    file: File,
    /// What does not fill a block yet.
    block: Vec<u8>,
    checksums: Vec<u32>,
    footer: Footer,
    /// One bit per token, for conversations.
    said: Vec<u8>,
    ends: Vec<u64>,
}

impl ShardWriter {
    /// `wide`: four bytes per token instead of two.
    pub(in crate::data) fn create(path: &Path, wide: bool, chat: bool) -> io::Result<ShardWriter> {
        Ok(ShardWriter {
            file: File::create_new(path)?,
            block: Vec::with_capacity(BLOCK_BYTES),
            checksums: Vec::new(),
            footer: Footer {
                token_bytes: if wide { 4 } else { 2 },
                is_chat: chat,
                ..Footer::default()
            },
            said: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// Appends tokens to the document at the end. `said` is as long as `ids` for conversations, and
    /// empty for texts.
    pub(in crate::data) fn push(&mut self, ids: &[u32], said: &[bool]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for id in ids {
            let id_bytes = id.to_le_bytes();
            bytes.extend(&id_bytes[..self.footer.token_bytes as usize]);
            self.footer.largest_id = self.footer.largest_id.max(*id);
        }
        for (token, said) in (self.footer.tokens..).zip(said) {
            if token % 8 == 0 {
                self.said.push(0);
            }
            if let Some(byte) = self.said.last_mut() {
                *byte |= u8::from(*said) << (token % 8);
            }
        }
        self.footer.tokens += ids.len() as u64;
        self.write(&bytes)
    }

    /// Ends a document; one without tokens is none.
    pub(in crate::data) fn end_document(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.footer.tokens {
            self.ends.push(self.footer.tokens);
        }
    }

    /// Completes the file and brings it to the disk.
    pub(in crate::data) fn finish(mut self, text_bytes: u64) -> io::Result<()> {
        self.end_document();
        let said = std::mem::take(&mut self.said);
        self.write(&said)?;
        let ends: Vec<u8> = self.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        self.write(&ends)?;
        self.write_block()?;
        self.footer.documents = self.ends.len() as u64;
        self.footer.text_bytes = text_bytes;
        self.file.write_all(&self.footer.write(&self.checksums))?;
        // A name for the file must not reach the disk before its contents.
        self.file.sync_data()
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK_BYTES - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.write_block()?;
            }
        }
        Ok(())
    }

    fn write_block(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.checksums.push(crc32fast::hash(&self.block));
            self.file.write_all(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }
}
