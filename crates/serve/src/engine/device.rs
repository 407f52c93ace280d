//! What the engine asks of a device: run some tokens of some rows, say later what was drawn. The real
//! one runs compiled programs; tests and measurements have others.

use std::path::Path;
use std::sync::Arc;

use llm::models::LoraSlots;

use super::request::{Alternative, Sampling};

/// The shapes that programs exist for, and the memory behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Prompt and answer together, in tokens.
    pub context: usize,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Tokens of a page.
    pub page: usize,
    /// Pages of all sequences together.
    pub pages: usize,
    /// Sequences at once.
    pub slots: usize,
    /// Rows of a decode step, ascending; the last is `slots`.
    pub batches: Vec<usize>,
    /// Tokens of a prefill step, ascending.
    pub chunks: Vec<usize>,
    /// Tokens that a row of a decode step can guess ahead; 0 for none.
    pub guesses: usize,
    /// Whether a step takes long to begin, so that the next should be enqueued before its results are
    /// read. A CPU begins at once, and would only compute rows that have ended.
    pub looks_ahead: bool,
    /// Room for adapters beside the model.
    pub adapters: Option<LoraSlots>,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Where the device keeps the last token drawn and what was counted.
    pub slot: usize,
    /// Of the first token, in the sequence.
    pub position: usize,
    /// The tokens to run; those behind the first of a decode step are guesses. Empty if the only token
    /// is the last one drawn for the slot.
    pub tokens: &'a [u32],
    /// How many of `tokens` belong to the prompt.
    pub prompt_tokens: usize,
    /// The slot was another sequence's.
    pub fresh: bool,
    /// Draws a token that counts; else the row only fills the cache.
    pub draws: bool,
    pub pages: &'a [u32],
    pub sampling: &'a Sampling,
    /// How many of the likeliest tokens are wanted.
    pub top: usize,
    /// The bits of tokens that may come, if not all may.
    pub mask: Option<&'a [u32]>,
    /// The slot of the adapter that it uses, counted from 1; 0 for none.
    pub adapter: usize,
}

impl Row<'_> {
    /// How many tokens it runs.
    pub fn count(&self) -> usize {
        self.tokens.len().max(1)
    }
}

/// A token drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    pub log_prob: f32,
    pub top: Vec<Alternative>,
}

/// What a row of a step gave: of a row with guesses, a token for each that was run, of which those up to
/// the first wrong guess count.
pub type Tokens = Vec<Token>;

/// Something went wrong on a device; what it held is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// Where a device keeps adapters. They can be put there while it runs, from any thread, and stay there
/// when it is reset.
pub trait AdapterMemory: Send + Sync {
    /// Puts the adapter of a folder, in PEFT's layout, into a slot that no row uses, counted from 0.
    ///
    /// # Errors
    /// What is wrong with it; the slot must not be used then.
    fn load(&self, slot: usize, folder: &Path) -> Result<(), String>;
}

/// A device that runs steps in the order in which they are launched.
pub trait Device: Send {
    /// A step under way.
    type Step: Send;

    fn ladder(&self) -> &Ladder;

    /// Runs a part of one sequence's known tokens.
    ///
    /// # Errors
    /// What the device reports.
    fn prefill(&mut self, row: &Row<'_>) -> Result<Self::Step, DeviceError>;

    /// Runs one token of each row, and guesses.
    ///
    /// # Errors
    /// What the device reports.
    fn decode(&mut self, rows: &[Row<'_>]) -> Result<Self::Step, DeviceError>;

    /// Waits for a step, and says what its rows gave.
    ///
    /// # Errors
    /// What the device reports.
    fn read(&mut self, step: Self::Step) -> Result<Vec<Tokens>, DeviceError>;

    /// Runs tokens of one sequence and returns the sum of the last layer's states over them.
    ///
    /// # Errors
    /// What the device reports.
    fn embed(
        &mut self,
        position: usize,
        tokens: &[u32],
        pages: &[u32],
    ) -> Result<Vec<f32>, DeviceError>;

    /// Makes the device usable after an error, with an empty cache.
    ///
    /// # Errors
    /// What the device reports; then it is given up.
    fn reset(&mut self) -> Result<(), DeviceError>;

    /// Where adapters are put; none without room for them.
    fn adapter_memory(&self) -> Option<Arc<dyn AdapterMemory>>;

    /// Programs that had to be compiled since the device was ready.
    fn compiled_late(&self) -> u64;
}
