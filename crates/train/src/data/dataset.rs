//! Rows of one or several sources, in the order in which a run sees them.

use std::ops::Range;

use super::batch::Batch;
use super::corpus::Corpus;
use super::order::{Permutation, Turns, key};
use super::packing::Rows;
use super::{DataError, SourceReport};

/// Batches by the number of the step. Holds no position: any process can ask for any rows of any
/// step at any time.
#[derive(Debug)]
pub struct Dataset {
    sources: Vec<Source>,
    turns: Turns,
    once: bool,
    shuffle: bool,
    seed: u64,
    sequence_length: usize,
    batch_size: usize,
    padding_token: i32,
    token_lengths: Vec<u32>,
}

/// One source's part of a data set.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) corpus: std::sync::Arc<Corpus>,
    pub(super) rows: Rows,
    pub(super) weight: f64,
}

/// What [`Dataset::new`] takes beside the sources.
pub(super) struct Arrangement {
    /// Every row once, then padding; otherwise epoch after epoch.
    pub(super) once: bool,
    pub(super) shuffle: bool,
    pub(super) seed: u64,
    pub(super) sequence_length: usize,
    pub(super) batch_size: usize,
    pub(super) padding_token: i32,
    pub(super) token_lengths: Vec<u32>,
}

impl Dataset {
    /// `sources` is not empty, and every source has rows.
    pub(super) fn new(sources: Vec<Source>, arrangement: Arrangement) -> Dataset {
        let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
        let Arrangement {
            once,
            shuffle,
            seed,
            sequence_length,
            batch_size,
            padding_token,
            token_lengths,
        } = arrangement;
        Dataset {
            turns: Turns::new(&weights),
            sources,
            once,
            shuffle,
            seed,
            sequence_length,
            batch_size,
            padding_token,
            token_lengths,
        }
    }

    /// Rows `rows` of the batch of `step`, which counts from 0 and has
    /// [`batch_size`](Dataset::batch_size) rows in all, whoever asks for them. Depends on nothing
    /// but the configuration, the data and `step`.
    ///
    /// # Errors
    /// When the tokens cannot be read any more.
    pub fn batch(&self, step: u64, rows: Range<usize>) -> Result<Batch, DataError> {
        let mut batch = Batch::padding(rows.len(), self.sequence_length, self.padding_token);
        for (at, row) in rows.enumerate() {
            let draw = step.saturating_mul(self.batch_size as u64).saturating_add(row as u64);
            let drawn = if self.once { self.draw_once(draw) } else { Some(self.draw(draw)) };
            if let Some((source, row)) = drawn {
                let Source { corpus, rows, .. } = &self.sources[source];
                rows.fill(corpus, row, &mut batch.row_mut(at))?;
            }
        }
        Ok(batch)
    }

    /// The source and its row of a draw, epoch after epoch.
    fn draw(&self, draw: u64) -> (usize, u64) {
        let (source, nth) = self.turns.at(draw);
        let count = self.sources[source].rows.count();
        let (epoch, index) = (nth / count, nth % count);
        if !self.shuffle {
            return (source, index);
        }
        let key = key(&[self.seed, epoch, source as u64]);
        (source, Permutation::new(count, key).apply(index))
    }

    /// The same if every row comes once: the first draws are a fair sample of all sources.
    fn draw_once(&self, draw: u64) -> Option<(usize, u64)> {
        let count = self.rows();
        if draw >= count {
            return None;
        }
        let key = key(&[self.seed]);
        let mut index = if self.shuffle { Permutation::new(count, key).apply(draw) } else { draw };
        for (source, part) in self.sources.iter().enumerate() {
            match index.checked_sub(part.rows.count()) {
                Some(rest) => index = rest,
                None => return Some((source, index)),
            }
        }
        None
    }

    /// Rows of all sources.
    pub fn rows(&self) -> u64 {
        self.sources.iter().map(|source| source.rows.count()).sum()
    }

    /// Steps in which as many rows are drawn as there are. For a validation set, the batches that
    /// show every row once; those behind them are padding.
    pub fn batches(&self) -> u64 {
        self.rows().div_ceil(self.batch_size as u64)
    }

    /// How often the data has been gone through when `step` begins. With weights, this is so over
    /// all sources, and each one has an epoch of its own.
    pub fn epoch(&self, step: u64) -> f64 {
        step as f64 * self.batch_size as f64 / self.rows() as f64
    }

    /// Rows per step, all processes together.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    pub fn sequence_length(&self) -> usize {
        self.sequence_length
    }

    /// Bytes of text that a batch's targets stand for: the sum of their losses in nats, divided by
    /// this and by ln 2, is bits per byte. Ends of texts and other special tokens have no bytes;
    /// their losses count.
    pub fn target_bytes(&self, batch: &Batch) -> u64 {
        let length = |target: &i32| {
            let id = usize::try_from(*target).ok()?;
            self.token_lengths.get(id).map(|length| u64::from(*length))
        };
        batch.targets.iter().filter_map(length).sum()
    }

    /// Tokens of all sources, before they were parted into training and validation.
    pub fn tokens(&self) -> u64 {
        self.sources.iter().map(|source| source.corpus.tokens()).sum()
    }

    /// Bytes of text per token, over all sources.
    pub fn bytes_per_token(&self) -> f64 {
        let bytes: u64 = self.sources.iter().map(|source| source.corpus.text_bytes).sum();
        bytes as f64 / self.tokens().max(1) as f64
    }

    /// What became of each source, in the order of the configuration.
    pub fn sources(&self) -> Vec<SourceReport> {
        let report = |source: &Source| SourceReport {
            path: source.corpus.name.clone(),
            documents: source.corpus.ends.len() as u64,
            tokens: source.corpus.tokens(),
            text_bytes: source.corpus.text_bytes,
            contents: source.corpus.contents,
            rows: source.rows.count(),
            truncated: source.rows.truncated,
            without_answer: source.rows.without_answer,
        };
        self.sources.iter().map(report).collect()
    }
}
