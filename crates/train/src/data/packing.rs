//! Cuts a source into rows of `sequence_length` tokens. A text goes over as many rows as it needs; a
//! conversation stays whole, since the beginning of an answer is of no use without its question.
//! Knows the order of the files only; which row is drawn when is decided in `order`.

use std::ops::Range;

use super::DataError;
use super::batch::{IGNORE, RowMut};
use super::corpus::Corpus;

/// Rows that conversations may still join. A larger number fills rows a little better and makes
/// neighbours in the file less likely to be neighbours in a row.
const OPEN_ROWS_MAX: usize = 64;

/// The documents of a source that are trained on, or those that are held out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// These tokens of the run of all texts.
    Tokens(Range<u64>),
    /// These conversations.
    Documents(Range<usize>),
}

impl Part {
    pub(super) fn whole(corpus: &Corpus) -> Part {
        match corpus.is_chat {
            true => Part::Documents(0..corpus.ends.len()),
            false => Part::Tokens(0..corpus.tokens()),
        }
    }

    /// Everything but the end of a source, and that end: `fraction` of it. Between two texts if
    /// that comes to something between half and twice the fraction, else within a text.
    pub(super) fn split(corpus: &Corpus, fraction: f64) -> (Part, Part) {
        if corpus.is_chat {
            let count = corpus.ends.len();
            let held_out = ((count as f64 * fraction).round() as usize).max(1).min(count);
            let cut = count - held_out;
            return (Part::Documents(0..cut), Part::Documents(cut..count));
        }
        let tokens = corpus.tokens();
        let wanted = ((tokens as f64 * fraction).round() as u64).clamp(1, tokens);
        let ideal = tokens - wanted;
        let after = corpus.ends.partition_point(|end| *end < ideal);
        let boundaries = [after.checked_sub(1), Some(after)].into_iter().flatten();
        let boundary = boundaries
            .map(|index| corpus.ends[index])
            .filter(|end| {
                let held_out = tokens - end;
                *end > 0 && held_out.saturating_mul(2) >= wanted && held_out <= wanted * 2
            })
            .min_by_key(|end| end.abs_diff(ideal));
        let cut = boundary.unwrap_or(ideal);
        (Part::Tokens(0..cut), Part::Tokens(cut..tokens))
    }
}

/// Rows of a part of a source.
#[derive(Debug)]
pub(super) struct Rows {
    content: Content,
    sequence_length: usize,
    /// Conversations longer than a row, of which the rest is left out.
    pub(super) truncated: u64,
    /// Conversations in which the assistant says nothing that fits in a row; they are left out.
    pub(super) without_answer: u64,
}

#[derive(Debug)]
enum Content {
    Text(Range<u64>),
    /// Documents by row: those of row `i` are `documents[starts[i]..starts[i + 1]]`.
    Chat {
        documents: Vec<usize>,
        starts: Vec<usize>,
    },
}

impl Rows {
    pub(super) fn new(
        corpus: &Corpus,
        part: Part,
        sequence_length: usize,
    ) -> Result<Rows, DataError> {
        let documents = match part {
            Part::Tokens(range) => {
                let content = Content::Text(range);
                return Ok(Rows { content, sequence_length, truncated: 0, without_answer: 0 });
            }
            Part::Documents(documents) => documents,
        };
        let (mut truncated, mut without_answer) = (0, 0);
        let mut lengths = Vec::with_capacity(documents.len());
        let mut said = Vec::new();
        for document in documents {
            let range = corpus.document(document);
            let length = range.end - range.start;
            let used = length.min(sequence_length as u64);
            said.clear();
            corpus.said(range.start + 1..range.end.min(range.start + used + 1), &mut said)?;
            if !said.contains(&true) {
                without_answer += 1;
                continue;
            }
            truncated += u64::from(used < length);
            lengths.push((document, used as usize));
        }
        let rows = pack(&lengths, sequence_length);
        let mut starts = vec![0];
        starts.extend(rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        }));
        let content = Content::Chat { documents: rows.concat(), starts };
        Ok(Rows { content, sequence_length, truncated, without_answer })
    }

    pub(super) fn count(&self) -> u64 {
        match &self.content {
            // The last token of all is only a target.
            Content::Text(range) => {
                (range.end - range.start).saturating_sub(1).div_ceil(self.sequence_length as u64)
            }
            Content::Chat { starts, .. } => starts.len() as u64 - 1,
        }
    }

    /// Writes one row over `out`, which holds padding.
    pub(super) fn fill(
        &self,
        corpus: &Corpus,
        row: u64,
        out: &mut RowMut<'_>,
    ) -> Result<(), DataError> {
        match &self.content {
            Content::Text(range) => self.fill_text(corpus, range, row, out),
            Content::Chat { documents, starts } => {
                let row = row as usize;
                fill_chat(corpus, &documents[starts[row]..starts[row + 1]], out)
            }
        }
    }

    fn fill_text(
        &self,
        corpus: &Corpus,
        range: &Range<u64>,
        row: u64,
        out: &mut RowMut<'_>,
    ) -> Result<(), DataError> {
        let start = range.start + row * self.sequence_length as u64;
        let end = range.end.min(start + self.sequence_length as u64);
        // One more, to be the last target.
        let mut ids = Vec::with_capacity(self.sequence_length + 1);
        corpus.read(start..range.end.min(end + 1), &mut ids)?;
        let mut document = corpus.ends.partition_point(|document_end| *document_end <= start);
        let (mut at, mut token) = (0, start);
        let mut segment = 0;
        while token < end {
            let document_end = corpus.ends[document];
            segment += 1;
            for position in 0..(end.min(document_end) - token) as usize {
                // The next token is a target even if it begins the next row, but not if it belongs
                // to another document or to the other part of this source.
                let has_next = token + 1 < document_end.min(range.end);
                let target = if has_next { ids[at + 1] } else { IGNORE };
                out.set(at, ids[at], target, segment, position);
                at += 1;
                token += 1;
            }
            document += 1;
        }
        Ok(())
    }
}

fn fill_chat(corpus: &Corpus, documents: &[usize], out: &mut RowMut<'_>) -> Result<(), DataError> {
    let mut at = 0;
    for (document, segment) in documents.iter().zip(1..) {
        let range = corpus.document(*document);
        let room = (out.len() - at) as u64;
        let end = range.end.min(range.start + room + 1);
        let (mut ids, mut said) = (Vec::new(), Vec::new());
        corpus.read(range.start..end, &mut ids)?;
        corpus.said(range.start..end, &mut said)?;
        let used = ids.len().min(room as usize);
        for position in 0..used {
            let next = position + 1;
            let is_learned = said.get(next).copied().unwrap_or(false);
            let target = if is_learned { ids[next] } else { IGNORE };
            out.set(at, ids[position], target, segment, position);
            at += 1;
        }
    }
    Ok(())
}

/// Puts documents, given with their lengths, into rows: each into the open row with the least room
/// that is enough, else into a new one. Rows stand in the order of their first documents.
fn pack(lengths: &[(usize, usize)], sequence_length: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Room and number of the rows that may still be joined.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (document, length) in lengths {
        let fitting = open.iter_mut().filter(|(room, _)| room >= length);
        if let Some((room, row)) = fitting.min_by_key(|place| **place) {
            *room -= length;
            rows[*row].push(*document);
            continue;
        }
        if open.len() == OPEN_ROWS_MAX
            && let Some(fullest) = (0..open.len()).min_by_key(|index| open[*index])
        {
            open.swap_remove(fullest);
        }
        open.push((sequence_length - length, rows.len()));
        rows.push(vec![*document]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_document_is_packed_once_and_no_row_is_too_long(
            lengths in prop::collection::vec(1_usize..100, 0..300),
        ) {
            let numbered: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
            let rows = pack(&numbered, 100);
            for row in &rows {
                prop_assert!(row.iter().map(|document| lengths[*document]).sum::<usize>() <= 100);
                prop_assert!(row.is_sorted());
            }
            prop_assert!(rows.is_sorted_by_key(|row| row[0]));
            let mut all = rows.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_tightest_row_is_taken() {
        let rows = pack(&[(0, 50), (1, 60), (2, 40), (3, 50), (4, 1)], 100);
        assert_eq!(rows, [vec![0, 3], vec![1, 2], vec![4]]);
    }
}
