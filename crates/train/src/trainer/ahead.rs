//! Rows of the next batch, read while a step runs.

use std::ops::Range;
use std::sync::Arc;

use crate::data::{Batch, DataError, Dataset, Prefetcher};
use crate::device::rows_of;

/// The rows that this process's devices hold of every batch from a step on, one batch ahead.
pub(super) struct Ahead {
    dataset: Arc<Dataset>,
    /// The rows that one device or another asks for; several where they hold different ones.
    prefetcher: Option<Prefetcher>,
    rows: Range<usize>,
    current: Option<(u64, Batch)>,
}

impl Ahead {
    /// `rows` are all that will be asked for, of every step from `first` (counted from 0) on.
    pub fn start(dataset: Arc<Dataset>, first: u64, rows: Range<usize>) -> Ahead {
        let prefetcher = Some(Prefetcher::start(dataset.clone(), first, rows.clone()));
        Ahead { dataset, prefetcher, rows, current: None }
    }

    /// Rows of the batch of `step`, which never goes back.
    pub fn rows(&mut self, step: u64, wanted: Range<usize>) -> Result<Batch, DataError> {
        while self.current.as_ref().is_none_or(|(at, _)| *at < step) {
            let next = self.prefetcher.as_mut().and_then(Prefetcher::next_batch);
            let batch = match next {
                Some(batch) => batch?,
                // It ended with an error that was reported; asking again says it again.
                None => self.dataset.batch(step, self.rows.clone())?,
            };
            let at = self.current.as_ref().map_or(step, |(at, _)| at + 1);
            self.current = Some((at, batch));
        }
        match &self.current {
            Some((_, batch)) if self.rows.start <= wanted.start && wanted.end <= self.rows.end => {
                let start = wanted.start - self.rows.start;
                Ok(rows_of(batch, start..start + wanted.len()))
            }
            _ => self.dataset.batch(step, wanted),
        }
    }
}
