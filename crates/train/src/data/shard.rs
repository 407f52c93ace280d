//! One file of tokens: documents end to end, as little-endian numbers, with a checksum for every
//! mebibyte. Knows neither where the file lies nor how the tokens came about.
//!
//! ```text
//! tokens          2 or 4 bytes each, by the size of the vocabulary
//! said            a bit per token, for conversations only: whether the assistant said it
//! ends            8 bytes per document: the number of tokens up to its end
//! checksums       4 bytes (CRC-32) per mebibyte of all of the above
//! footer          sizes, and a checksum over the checksums and itself
//! ```
//!
//! Files are read at given places, not mapped into memory: safe Rust cannot map, since a
//! file that shrinks turns into a signal. What is read often stays in the system's page cache either way.

mod footer;
mod writer;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::DataError;
pub(super) use footer::{Footer, VERSION};
pub(super) use writer::ShardWriter;

/// Bytes under one checksum.
const BLOCK_BYTES: usize = 1 << 20;

/// A file whose checksums were right when it was looked at. It is not kept open: a large source has
/// more of them than a process may have open.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    pub(super) footer: Footer,
    /// Of its blocks, in their order.
    pub(super) checksums: Vec<u32>,
    /// Number of tokens up to the end of each document.
    pub(super) ends: Vec<u64>,
}

/// Why a file is of no use.
#[derive(Debug)]
pub(super) enum OpenFailure {
    Missing,
    /// Says what is wrong with it; it is to be made again.
    Damaged(String),
    Unreadable(io::Error),
}

impl From<io::Error> for OpenFailure {
    fn from(error: io::Error) -> OpenFailure {
        match error.kind() {
            io::ErrorKind::NotFound => OpenFailure::Missing,
            io::ErrorKind::UnexpectedEof => OpenFailure::Damaged("it ends too early".to_owned()),
            _ => OpenFailure::Unreadable(error),
        }
    }
}

impl Shard {
    /// Looks at a file and compares all its checksums; `seen` is told how many bytes are done.
    pub(super) fn open(path: &Path, mut seen: impl FnMut(u64)) -> Result<Shard, OpenFailure> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let (footer, checksums) = Footer::read(&file, file_bytes)?;
        let mut block = vec![0; BLOCK_BYTES];
        let mut at = 0;
        for (index, expected) in checksums.iter().enumerate() {
            let count = (footer.data_bytes() - at).min(BLOCK_BYTES as u64);
            let bytes = &mut block[..count as usize];
            file.read_exact_at(bytes, at)?;
            if crc32fast::hash(bytes) != *expected {
                let end = at + count;
                return Err(OpenFailure::Damaged(format!(
                    "the checksum of its block {index} (bytes {at} to {end}) is wrong"
                )));
            }
            at += count;
            seen(at);
        }
        let mut bytes = vec![0; footer.documents as usize * 8];
        file.read_exact_at(&mut bytes, footer.ends_start())?;
        let ends: Vec<u64> =
            bytes.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
        let ordered = ends.is_sorted_by(|left, right| left < right);
        if !ordered || ends.last().copied().unwrap_or(0) != footer.tokens {
            return Err(OpenFailure::Damaged(
                "its table of documents contradicts itself".to_owned(),
            ));
        }
        Ok(Shard { path: path.to_path_buf(), footer, checksums, ends })
    }

    /// The file, to read from.
    pub(super) fn file(&self) -> Result<File, DataError> {
        File::open(&self.path)
            .map_err(|source| DataError::Changed { path: self.path.clone(), source })
    }

    /// Appends the tokens of `range`; `file` is [`Shard::file`].
    pub(super) fn tokens(
        &self,
        file: &File,
        range: Range<u64>,
        out: &mut Vec<i32>,
    ) -> Result<(), DataError> {
        let width = u64::from(self.footer.token_bytes);
        let mut bytes = vec![0; ((range.end - range.start) * width) as usize];
        self.read(file, &mut bytes, range.start * width)?;
        match self.footer.token_bytes {
            2 => {
                out.extend(bytes.as_chunks().0.iter().map(|id| i32::from(u16::from_le_bytes(*id))))
            }
            _ => out.extend(bytes.as_chunks().0.iter().map(|id| i32::from_le_bytes(*id))),
        }
        Ok(())
    }

    /// Appends whether the assistant said each token of `range`; nothing for texts.
    pub(super) fn said(
        &self,
        file: &File,
        range: Range<u64>,
        out: &mut Vec<bool>,
    ) -> Result<(), DataError> {
        if !self.footer.is_chat {
            return Ok(());
        }
        let first_byte = range.start / 8;
        let mut bytes = vec![0_u8; (range.end.div_ceil(8) - first_byte) as usize];
        self.read(file, &mut bytes, self.footer.said_start() + first_byte)?;
        out.extend(range.map(|token| {
            let byte = bytes[(token / 8 - first_byte) as usize];
            byte >> (token % 8) & 1 == 1
        }));
        Ok(())
    }

    fn read(&self, file: &File, bytes: &mut [u8], at: u64) -> Result<(), DataError> {
        file.read_exact_at(bytes, at)
            .map_err(|source| DataError::Changed { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(path: &Path, documents: &[Vec<u32>], chat: bool, wide: bool) {
        let mut writer = ShardWriter::create(path, wide, chat).unwrap();
        for ids in documents {
            let said: Vec<bool> = ids.iter().map(|id| id % 3 == 0).collect();
            writer.push(ids, if chat { &said } else { &[] }).unwrap();
            writer.end_document();
        }
        writer.finish(77).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_written_is_read(
            documents in prop::collection::vec(prop::collection::vec(0_u32..60_000, 1..40), 1..20),
            chat: bool,
            wide: bool,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shard");
            write(&path, &documents, chat, wide);
            let shard = Shard::open(&path, |_| {}).unwrap();
            let all: Vec<u32> = documents.concat();
            prop_assert_eq!(shard.footer.tokens, all.len() as u64);
            prop_assert_eq!(shard.footer.text_bytes, 77);
            prop_assert_eq!(shard.footer.largest_id, all.iter().copied().max().unwrap());
            prop_assert_eq!(shard.ends.len(), documents.len());
            let range = all.len() / 3..all.len();
            let (mut tokens, mut said) = (Vec::new(), Vec::new());
            let file = shard.file().unwrap();
            shard.tokens(&file, range.start as u64..range.end as u64, &mut tokens).unwrap();
            shard.said(&file, range.start as u64..range.end as u64, &mut said).unwrap();
            let expected: Vec<i32> = all[range.clone()].iter().map(|id| *id as i32).collect();
            prop_assert_eq!(tokens, expected);
            let expected: Vec<bool> = all[range].iter().map(|id| id % 3 == 0).collect();
            prop_assert_eq!(said, if chat { expected } else { Vec::new() });
        }

        /// A changed byte or a missing end is always noticed, and never anything worse.
        #[test]
        fn damage_is_noticed(at in 0.0..1.0_f64, change in 1_u8.., cut: bool) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shard");
            write(&path, &[vec![1, 2, 3], vec![4; 2000]], true, false);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = (at * bytes.len() as f64) as usize;
            if cut { bytes.truncate(at) } else { bytes[at] ^= change }
            std::fs::write(&path, &bytes).unwrap();
            let failure = Shard::open(&path, |_| {}).unwrap_err();
            prop_assert!(matches!(failure, OpenFailure::Damaged(_)), "{:?}", failure);
        }
    }

    #[test]
    fn a_damaged_block_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shard");
        write(&path, &[vec![7; BLOCK_BYTES]], false, false);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[BLOCK_BYTES + 5] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        match Shard::open(&path, |_| {}).unwrap_err() {
            OpenFailure::Damaged(what) => assert!(what.contains("block 1 "), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
