//! Host memory: how much there is, and some that a CPU plugin can use in place, aligned and filled once.

/// What XLA's CPU compiler assumes of every buffer; memory that is less aligned gets copied.
pub const ALIGNMENT_BYTES: usize = 64;

/// Bytes that start at a multiple of [`ALIGNMENT_BYTES`]. Zeroed, and not given pages by the system
/// until they are written.
#[derive(Debug)]
pub struct AlignedBytes {
    /// Longer than needed, and never resized, so that it stays in place.
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    pub fn zeroed(length: usize) -> AlignedBytes {
        let storage = vec![0u8; length + ALIGNMENT_BYTES];
        // A platform that cannot tell gets memory that is merely copied.
        let start = storage.as_ptr().align_offset(ALIGNMENT_BYTES).min(ALIGNMENT_BYTES);
        AlignedBytes { storage, start, length }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

impl AsMut<[u8]> for AlignedBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }
}

/// The machine's memory, where the system tells it (Linux).
pub fn total_bytes() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemTotal:")
}

/// The figure behind `label` in one of the files in which Linux tells sizes.
pub(crate) fn kibibytes(path: &str, label: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(label))?;
    let number: u64 = line[label.len()..].split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_aligned_and_as_many_as_asked_for() {
        for length in [0, 1, 63, 64, 1000, 1 << 20] {
            let mut bytes = AlignedBytes::zeroed(length);
            assert_eq!(bytes.as_mut().len(), length);
            assert_eq!(bytes.as_ref().as_ptr() as usize % ALIGNMENT_BYTES, 0);
        }
    }
}
