//! What a training step takes in: a few rows of tokens with what is to be learned from them.

/// The target of a place that nothing is learned from.
pub const IGNORE: i32 = -100;

/// Rows of tokens. All four arrays are row-major `[rows, sequence_length]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub rows: usize,
    pub sequence_length: usize,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// The token that follows in the same document, also where a row ends within a document;
    /// [`IGNORE`] where the document ends or its loss mask says so.
    pub targets: Vec<i32>,
    /// Counts the documents in a row from 1; 0 is padding.
    pub segments: Vec<i32>,
    /// Place within the row's part of the document, from 0.
    pub positions: Vec<i32>,
}

impl Batch {
    pub(super) fn padding(rows: usize, sequence_length: usize, token: i32) -> Batch {
        let places = rows * sequence_length;
        Batch {
            rows,
            sequence_length,
            tokens: vec![token; places],
            targets: vec![IGNORE; places],
            segments: vec![0; places],
            positions: vec![0; places],
        }
    }

    pub(super) fn row_mut(&mut self, row: usize) -> RowMut<'_> {
        let places = row * self.sequence_length..(row + 1) * self.sequence_length;
        RowMut {
            tokens: &mut self.tokens[places.clone()],
            targets: &mut self.targets[places.clone()],
            segments: &mut self.segments[places.clone()],
            positions: &mut self.positions[places],
        }
    }

    /// Places that something is learned from.
    pub fn targets_count(&self) -> u64 {
        self.targets.iter().filter(|target| **target >= 0).count() as u64
    }

    /// Places that are not padding.
    pub fn tokens_count(&self) -> u64 {
        self.segments.iter().filter(|segment| **segment > 0).count() as u64
    }
}

/// One row, to be written.
pub(super) struct RowMut<'a> {
    tokens: &'a mut [i32],
    targets: &'a mut [i32],
    segments: &'a mut [i32],
    positions: &'a mut [i32],
}

impl RowMut<'_> {
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn set(
        &mut self,
        at: usize,
        token: i32,
        target: i32,
        segment: i32,
        position: usize,
    ) {
        self.tokens[at] = token;
        self.targets[at] = target;
        self.segments[at] = segment;
        self.positions[at] = position as i32;
    }
}
