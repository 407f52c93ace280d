//! Data for training: from files to batches of token ids.
//!
//! Sources are found and their documents read (`find`, `read`), turned into tokens once and kept on
//! the disk (`encode`, `chat`, `shard`, `cache`), cut into rows (`packing`) and drawn in an order
//! that is a function of the step's number (`order`, [`Dataset`]). So a run can be resumed at any
//! step without replay, and the order does not depend on the number of hosts.
//!
//! Knows no device, no model and no terminal: progress goes to callbacks.

mod batch;
mod cache;
mod chat;
mod config;
mod corpus;
mod dataset;
mod digest;
mod encode;
mod error;
mod find;
mod learn;
mod order;
mod overlap;
mod packing;
mod prefetch;
mod read;
mod shard;
mod token_bytes;

use std::path::Path;
use std::sync::Arc;

use llm::{ChatTemplate, Tokenizer};
use runtime::CacheFolder;
use runtime::install::Installer;

use crate::checkpoint::Checksum;
pub use batch::{Batch, IGNORE};
pub use config::{DataConfig, Format, SourceConfig};
pub use dataset::Dataset;
pub use error::DataError;
pub use learn::{END_OF_TEXT, LearnedTokenizer, learn_tokenizer};
pub use prefetch::Prefetcher;

use cache::{PART_BYTES, TokenCache};
use corpus::Corpus;
use dataset::{Arrangement, Source};
use digest::Contents;
use encode::Encoder;
use overlap::HeldOut;
use packing::{Part, Rows};
use token_bytes::TokenBytes;

/// What preparing data tells while it runs. `source` is a source's path as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A known data set is being fetched.
    Installing(runtime::install::Progress<'a>),
    /// Another process prepares data in the same cache.
    Waiting,
    /// Reading texts to learn a vocabulary from.
    Learning {
        source: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    /// Comparing the source's bytes with what was prepared before.
    Reading {
        source: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    Tokenizing {
        source: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    /// Comparing checksums of what was prepared.
    Verifying {
        source: &'a str,
        bytes_done: u64,
        bytes_total: u64,
    },
    /// A prepared file is damaged and is made again.
    Damaged {
        path: &'a Path,
        reason: &'a str,
    },
    /// A file of a source is validation data too, and is not trained on.
    LeftOut {
        source: &'a str,
        path: &'a Path,
    },
}

/// The model's side of the data.
#[derive(Clone, Copy, Debug)]
pub struct ModelSide<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Needed for conversations only.
    pub chat_template: Option<&'a ChatTemplate>,
    /// Rows of the model's embedding.
    pub vocab_size: usize,
    /// The longest sequence that the model takes; none if any.
    pub max_positions: Option<usize>,
}

/// What became of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// As the configuration calls it.
    pub path: String,
    /// Of the whole source, as are tokens and bytes.
    pub documents: u64,
    pub tokens: u64,
    pub text_bytes: u64,
    /// Another one if the tokens are.
    pub contents: Checksum,
    /// Rows of `sequence_length` tokens of this part of it.
    pub rows: u64,
    /// Conversations that are longer than a row, of which the rest is left out.
    pub truncated: u64,
    /// Conversations left out because the assistant says nothing in them that fits in a row.
    pub without_answer: u64,
}

/// Training and validation data of a run.
#[derive(Debug)]
pub struct Data {
    pub training: Arc<Dataset>,
    /// Every row once; batches behind the last row are padding.
    pub validation: Option<Arc<Dataset>>,
}

impl Data {
    /// Prepares the data, which takes long the first time only. `batch_size` is in rows per step,
    /// all processes together.
    ///
    /// # Errors
    /// See [`DataError`]; what was prepared up to then is kept.
    pub fn open(
        config: &DataConfig,
        model: &ModelSide<'_>,
        cache: &CacheFolder,
        batch_size: usize,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Data, DataError> {
        let table = TokenBytes::of(model.tokenizer);
        let opener = Opener::new(config, model, cache, batch_size, &table)?;
        let mut validation = Vec::with_capacity(config.validation.len());
        for source in &config.validation {
            validation.push(opener.contents(source, progress)?);
        }
        let never_trained_on = HeldOut::new(&validation);
        let mut training = Vec::new();
        let mut held_out = Vec::new();
        for source in &config.sources {
            let contents = opener.contents(source, progress)?;
            let contents = never_trained_on.leave_out(&source.path, contents, progress)?;
            let corpus = &opener.corpus(source, &contents, progress)?;
            let part = if config.validation_fraction > 0.0 {
                let (part, end) = Part::split(corpus, config.validation_fraction);
                held_out.push(opener.source(corpus, end, None, "held out")?);
                part
            } else {
                Part::whole(corpus)
            };
            training.push(opener.source(corpus, part, source.weight, "trained on")?);
        }
        for (source, contents) in config.validation.iter().zip(&validation) {
            let corpus = &opener.corpus(source, contents, progress)?;
            held_out.push(opener.source(corpus, Part::whole(corpus), None, "held out")?);
        }
        let training = Arc::new(opener.dataset(training, false));
        let validation = match held_out.is_empty() {
            true => None,
            false => Some(Arc::new(opener.dataset(held_out, true))),
        };
        Ok(Data { training, validation })
    }

    /// The sources of `config` to measure a model with: every row once. Validation data is left
    /// aside.
    ///
    /// # Errors
    /// As [`Data::open`].
    pub fn open_once(
        config: &DataConfig,
        model: &ModelSide<'_>,
        cache: &CacheFolder,
        batch_size: usize,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Dataset, DataError> {
        let table = TokenBytes::of(model.tokenizer);
        let opener = Opener::new(config, model, cache, batch_size, &table)?;
        let mut sources = Vec::with_capacity(config.sources.len());
        for source in &config.sources {
            let contents = opener.contents(source, progress)?;
            let corpus = &opener.corpus(source, &contents, progress)?;
            sources.push(opener.source(corpus, Part::whole(corpus), None, "measured")?);
        }
        Ok(opener.dataset(sources, true))
    }
}

/// What all sources of a run have in common.
struct Opener<'a> {
    config: &'a DataConfig,
    model: &'a ModelSide<'a>,
    installer: Installer,
    tokens: TokenCache<'a>,
    batch_size: usize,
    table: &'a TokenBytes,
}

impl<'a> Opener<'a> {
    fn new(
        config: &'a DataConfig,
        model: &'a ModelSide<'a>,
        cache: &'a CacheFolder,
        batch_size: usize,
        table: &'a TokenBytes,
    ) -> Result<Opener<'a>, DataError> {
        config.check()?;
        let sequence_length = config.sequence_length;
        if let Some(max_positions) = model.max_positions.filter(|max| sequence_length > *max) {
            return Err(DataError::TooLong { sequence_length, max_positions });
        }
        if batch_size == 0 {
            return Err(DataError::Setting(
                "the batch size is 0: a step needs at least one sequence".to_owned(),
            ));
        }
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
        let ModelSide { tokenizer, chat_template, .. } = *model;
        let tokens = TokenCache {
            folder: cache,
            tokenizer,
            template: chat_template,
            tokenizer_digest: cache::identity(tokenizer)?,
            encoder: Encoder::new(tokenizer, chat_template, table, threads, sequence_length)?,
            threads,
            part_bytes: PART_BYTES,
        };
        let installer = Installer::new(cache.clone());
        Ok(Opener { config, model, installer, tokens, batch_size, table })
    }

    fn contents(
        &self,
        source: &SourceConfig,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Contents, DataError> {
        let files = find::files(source, &self.installer, progress)?;
        Contents::of(&source.path, files, progress)
    }

    fn corpus(
        &self,
        source: &SourceConfig,
        contents: &Contents,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Arc<Corpus>, DataError> {
        let shards = self.tokens.shards(source, contents, progress)?;
        let corpus = Corpus::new(&source.path, shards)?;
        let (id, vocab_size) = (corpus.largest_id, self.model.vocab_size);
        if id as usize >= vocab_size {
            return Err(DataError::Vocabulary { path: source.path.clone(), id, vocab_size });
        }
        Ok(Arc::new(corpus))
    }

    /// Without a weight, a source's share is its size. `use_of_it` is for an error.
    fn source(
        &self,
        corpus: &Arc<Corpus>,
        part: Part,
        weight: Option<f64>,
        use_of_it: &'static str,
    ) -> Result<Source, DataError> {
        let rows = Rows::new(corpus, part, self.config.sequence_length)?;
        if rows.count() == 0 {
            return Err(DataError::EmptyPart { path: corpus.name.clone(), part: use_of_it });
        }
        let weight = weight.unwrap_or(rows.count() as f64);
        Ok(Source { corpus: corpus.clone(), rows, weight })
    }

    fn dataset(&self, sources: Vec<Source>, once: bool) -> Dataset {
        let arrangement = Arrangement {
            once,
            shuffle: self.config.shuffle,
            seed: self.config.seed,
            sequence_length: self.config.sequence_length,
            batch_size: self.batch_size,
            padding_token: self.model.tokenizer.eos_token_id().map_or(0, |id| id as i32),
            token_lengths: self.table.lengths(),
        };
        Dataset::new(sources, arrangement)
    }
}
