//! The end of a file of tokens: what is in it and whether it is whole.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BLOCK_BYTES, OpenFailure};

const MAGIC: [u8; 8] = *b"FNGTOKEN";
/// Of this layout, and of the rules by which documents become tokens: raise it when either changes.
pub(in crate::data) const VERSION: u32 = 1;
const FOOTER_BYTES: u64 = 56;

/// Sizes of a file's parts, and what is worth knowing without reading them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::data) struct Footer {
    /// 2 or 4.
    pub(in crate::data) token_bytes: u32,
    pub(in crate::data) is_chat: bool,
    pub(in crate::data) tokens: u64,
    pub(in crate::data) documents: u64,
    /// Of the documents, before they became tokens.
    pub(in crate::data) text_bytes: u64,
    pub(in crate::data) largest_id: u32,
}

impl Footer {
    pub(super) fn said_start(&self) -> u64 {
        self.tokens.saturating_mul(u64::from(self.token_bytes))
    }

    pub(super) fn ends_start(&self) -> u64 {
        let said = if self.is_chat { self.tokens.div_ceil(8) } else { 0 };
        self.said_start().saturating_add(said)
    }

    /// Everything that is under the blocks' checksums.
    pub(super) fn data_bytes(&self) -> u64 {
        self.ends_start().saturating_add(self.documents.saturating_mul(8))
    }

    /// The end of the file: checksums and footer.
    pub(super) fn write(&self, checksums: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            checksums.iter().flat_map(|checksum| checksum.to_le_bytes()).collect();
        bytes.extend(MAGIC);
        for number in [VERSION, self.token_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.tokens, self.documents, self.text_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        for number in [self.largest_id, u32::from(self.is_chat), BLOCK_BYTES as u32] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// The footer and the blocks' checksums of a file of `file_bytes`.
    pub(super) fn read(file: &File, file_bytes: u64) -> Result<(Footer, Vec<u32>), OpenFailure> {
        let damaged = |what: &str| OpenFailure::Damaged(what.to_owned());
        let start = file_bytes
            .checked_sub(FOOTER_BYTES)
            .ok_or_else(|| damaged("it is shorter than its own footer"))?;
        let mut bytes = [0; FOOTER_BYTES as usize];
        file.read_exact_at(&mut bytes, start)?;
        let narrow = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let wide = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| bytes[at + i]));
        if bytes[..8] != MAGIC || narrow(8) != VERSION || narrow(48) != BLOCK_BYTES as u32 {
            return Err(damaged("its footer is not there, or of another version"));
        }
        let footer = Footer {
            token_bytes: narrow(12),
            tokens: wide(16),
            documents: wide(24),
            text_bytes: wide(32),
            largest_id: narrow(40),
            is_chat: narrow(44) == 1,
        };
        let data_bytes = footer.data_bytes();
        let blocks = data_bytes.div_ceil(BLOCK_BYTES as u64);
        // Sizes are compared before memory is asked for: the file holds what it promises.
        let expected = data_bytes.checked_add(blocks * 4);
        if !matches!(footer.token_bytes, 2 | 4) || expected != Some(start) {
            return Err(damaged("its size is not what its footer says"));
        }
        let mut table = vec![0; blocks as usize * 4];
        file.read_exact_at(&mut table, data_bytes)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&table);
        hasher.update(&bytes[..52]);
        if hasher.finalize() != narrow(52) {
            return Err(damaged("the checksum of its footer is wrong"));
        }
        let checksums = table.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number));
        Ok((footer, checksums.collect()))
    }
}
