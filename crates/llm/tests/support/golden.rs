//! The tiny checkpoints of every family and what `transformers` says about them
//! (`tests/goldens/make_models.py`).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::shared;

#[derive(Deserialize)]
pub struct Expected {
    /// The prompts.
    pub token_ids: Vec<Vec<u32>>,
    /// For each prompt, of every token but the first.
    pub log_probs: Vec<Vec<f64>>,
    /// For each prompt, after every token.
    pub top: Vec<Vec<Top>>,
    pub greedy: Greedy,
}

#[derive(Deserialize)]
pub struct Top {
    pub ids: Vec<u32>,
    pub log_probs: Vec<f64>,
}

#[derive(Deserialize)]
pub struct Greedy {
    pub prompt: Vec<u32>,
    pub token_ids: Vec<u32>,
    /// Between the two best log-probabilities of each step.
    pub margins: Vec<f64>,
}

/// All folders of checkpoints.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/models")
}

pub fn model(name: &str) -> PathBuf {
    models().join(name)
}

pub fn expected(name: &str) -> Expected {
    let text = std::fs::read(model(name).join("expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The same checkpoint with room for `positions` tokens.
pub fn with_context(name: &str, positions: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    shared::copy_model(&model(name), folder.path());
    shared::change_config(folder.path(), |config| {
        config.insert("max_position_embeddings".to_string(), positions.into());
    });
    folder
}

/// A fixed sequence of tokens, none of them special.
pub fn tokens(count: usize, seed: u64, vocab_size: usize) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        // Knuth's MMIX generator; its upper bits are the better ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    (0..count).map(|_| (3 + next() % (vocab_size - 3)) as u32).collect()
}
