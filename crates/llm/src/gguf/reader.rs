//! Reads little-endian numbers and strings from an untrusted stream of known length.

use std::io::{ErrorKind, Read};

use super::GgufError;

/// Longest accepted string. Chat templates, the longest in practice, stay below 100 kB.
const STRING_BYTES_MAX: u64 = 16 << 20;

/// A stream that knows how much is left of it, so that a length can be judged before it is
/// allocated.
pub(super) struct Reader<R> {
    source: R,
    position: u64,
    file_bytes: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R, file_bytes: u64) -> Reader<R> {
        Reader { source, position: 0, file_bytes }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn remaining(&self) -> u64 {
        self.file_bytes.saturating_sub(self.position)
    }

    pub(super) fn truncated(&self, what: &'static str) -> GgufError {
        GgufError::Truncated { what, position: self.position, file_bytes: self.file_bytes }
    }

    fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), GgufError> {
        if buffer.len() as u64 > self.remaining() {
            return Err(self.truncated(what));
        }
        self.source.read_exact(buffer).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => self.truncated(what),
            _ => GgufError::Read { what, position: self.position, source },
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let mut buffer = [0; N];
        self.fill(&mut buffer, what)?;
        Ok(buffer)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, GgufError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, GgufError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A 64-bit count, refused above `count_max`.
    pub(super) fn count(&mut self, what: &'static str, count_max: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > count_max {
            Err(GgufError::TooMany { what, count, count_max })
        } else {
            Ok(count)
        }
    }

    /// `length` bytes, which the caller has bounded.
    pub(super) fn bytes(&mut self, length: u64, what: &'static str) -> Result<Vec<u8>, GgufError> {
        if length > self.remaining() {
            return Err(self.truncated(what));
        }
        let mut buffer = vec![0; length as usize];
        self.fill(&mut buffer, what)?;
        Ok(buffer)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &'static str) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        if length > self.remaining() {
            return Err(self.truncated(what));
        }
        if length > STRING_BYTES_MAX {
            return Err(GgufError::TooMany {
                what: "bytes in one string",
                count: length,
                count_max: STRING_BYTES_MAX,
            });
        }
        let position = self.position;
        String::from_utf8(self.bytes(length, what)?)
            .map_err(|_| GgufError::NotUtf8 { what, position })
    }
}
