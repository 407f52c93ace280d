//! What the outside sees of an engine, so that whatever stands around it can be tested alone.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;

use super::request::{Answer, Failure, Refusal, Request};

/// Something that answers requests; shared by all connections.
pub trait Answering: Send + Sync + 'static {
    /// Takes a request, or says at once why not.
    ///
    /// # Errors
    /// What is wrong with the request, or that there are too many.
    fn submit(&self, request: Request) -> Result<Answer, Refusal>;

    /// The mean of the last layer's states over `tokens`, scaled to length 1.
    fn embed(&self, tokens: Vec<u32>) -> Embedding;

    fn limits(&self) -> Limits;

    fn stats(&self) -> Stats;

    /// The names of adapters that requests can ask for.
    fn adapters(&self) -> Vec<String>;

    /// Reads an adapter in PEFT's layout from a folder. Blocks until it is on the devices.
    ///
    /// # Errors
    /// What is wrong with it: another base, a rank or matrices that the programs were not made for.
    fn load_adapter(&self, name: &str, folder: &Path) -> Result<(), String>;

    /// Requests that use it already keep it until they are done.
    ///
    /// # Errors
    /// When there is none of that name.
    fn unload_adapter(&self, name: &str) -> Result<(), String>;

    /// Takes no new requests from now on; those that were taken go on.
    fn drain(&self);
}

/// An embedding to come.
pub type Embedding = Pin<Box<dyn Future<Output = Result<Vec<f32>, EmbedError>> + Send>>;

/// Why there is no embedding.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmbedError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// What requests must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Prompt and answer together, in tokens.
    pub context: usize,
    pub vocab_size: usize,
    /// The length of an embedding.
    pub hidden_size: usize,
}

/// What an engine is doing and has done since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    pub running: usize,
    pub waiting: usize,
    pub pages_used: usize,
    pub pages_total: usize,
    /// Tokens of prompts, and how many of them were found in the prefix cache.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub preemptions: u64,
    /// Programs that were compiled after the engine was ready: anything but 0 is a defect.
    pub compiled_after_ready: u64,
    /// Tokens guessed ahead, and how many of them were right.
    pub drafted: u64,
    pub accepted: u64,
    /// Launches of programs, and the host's share of the time around them.
    pub steps: u64,
    pub host_seconds: f64,
    pub device_seconds: f64,
    /// Times that a device failed and the engine recovered.
    pub device_failures: u64,
    /// The most adapters that there is room for, and those of answers under way and of waiting ones.
    pub adapters_max: usize,
    pub adapters_running: BTreeSet<String>,
    pub adapters_waiting: BTreeSet<String>,
}
