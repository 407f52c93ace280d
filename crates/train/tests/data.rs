//! From files to batches: `train::data` as a training run uses it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "data/cache.rs"]
mod cache;
#[path = "data/chat.rs"]
mod chat;
#[path = "data/learn.rs"]
mod learn;
#[path = "data/order.rs"]
mod order;
#[path = "data/rows.rs"]
mod rows;
#[path = "../../../tests/support/mod.rs"]
mod shared;
#[path = "data/sources.rs"]
mod sources;

use std::path::{Path, PathBuf};

use llm::{ChatTemplate, Tokenizer};
use runtime::CacheFolder;
use train::data::{
    Batch, Data, DataConfig, DataError, IGNORE, ModelSide, Progress, SourceConfig, learn_tokenizer,
};

/// The token that ends a text.
const END: i32 = 0;

/// A folder with data, a cache, and a tokenizer whose tokens are bytes.
struct Sandbox {
    folder: tempfile::TempDir,
    cache: CacheFolder,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

impl Sandbox {
    fn new() -> Sandbox {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheFolder::at(folder.path().join("cache"));
        let tokenizer =
            learn_tokenizer(&[], 257, &cache, &mut |_| {}).unwrap().tokenizer().unwrap();
        Sandbox { folder, cache, tokenizer, template: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and returns its path as a source has it.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn model(&self) -> ModelSide<'_> {
        ModelSide {
            tokenizer: &self.tokenizer,
            chat_template: self.template.as_ref(),
            vocab_size: 257,
            max_positions: None,
        }
    }

    fn open(&self, config: &DataConfig, batch_size: usize) -> Result<Data, DataError> {
        Data::open(config, &self.model(), &self.cache, batch_size, &mut |_| {})
    }

    /// The error of a source that is no good, with its causes.
    fn refusal(&self, source: SourceConfig) -> String {
        explain(&self.open(&config(8, &[source]), 1).unwrap_err())
    }

    /// The names of the steps that opening the data reports.
    fn steps(&self, config: &DataConfig) -> Vec<String> {
        let mut steps = Vec::new();
        let mut note = |step: Progress<'_>| {
            let step = format!("{step:?}");
            let name = step.split([' ', '(']).next().unwrap().to_owned();
            if steps.last() != Some(&name) {
                steps.push(name);
            }
        };
        Data::open(config, &self.model(), &self.cache, 1, &mut note).unwrap();
        steps
    }

    fn text(&self, ids: impl IntoIterator<Item = i32>) -> String {
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        self.tokenizer.decode(&ids, false).unwrap()
    }
}

fn config(sequence_length: usize, sources: &[SourceConfig]) -> DataConfig {
    DataConfig {
        sources: sources.to_vec(),
        sequence_length,
        shuffle: false,
        ..DataConfig::default()
    }
}

fn at(path: &str) -> SourceConfig {
    SourceConfig::at(path)
}

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(name).to_str().unwrap().to_owned()
}

/// An error with its causes, as the program prints it.
fn explain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", explain(source)),
        None => error.to_string(),
    }
}

/// What must be true of every batch.
fn check_batch(batch: &Batch) {
    let places = batch.rows * batch.sequence_length;
    let all = [&batch.tokens, &batch.targets, &batch.segments, &batch.positions];
    assert!(all.iter().all(|array| array.len() == places));
    for row in 0..batch.rows {
        let (mut segment, mut position) = (0, -1);
        let mut ended = false;
        for at in row * batch.sequence_length..(row + 1) * batch.sequence_length {
            match batch.segments[at] {
                0 => {
                    ended = true;
                    assert_eq!((batch.targets[at], batch.positions[at]), (IGNORE, 0));
                }
                same if same == segment => position += 1,
                next => {
                    assert_eq!(next, segment + 1);
                    (segment, position) = (next, 0);
                }
            }
            if !ended {
                assert_eq!(batch.positions[at], position);
                let next_is_here = (at + 1) % batch.sequence_length != 0
                    && batch.segments[at + 1] == batch.segments[at];
                if batch.targets[at] != IGNORE && next_is_here {
                    assert_eq!(batch.targets[at], batch.tokens[at + 1]);
                }
            }
        }
    }
}
