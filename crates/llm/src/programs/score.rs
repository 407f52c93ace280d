//! Scoring: the log-probability of given tokens and the likeliest alternatives at every place.

use graph::{DType, Graph, Shape, TraceError, ops, output};

use super::{CacheKind, ModelProgram, ProgramOptions, Tracing};
use crate::config::ModelConfig;
use crate::models::{CacheShape, KvCache, Sequence};

/// Runs `chunk` tokens of each sequence through the model.
///
/// Data: `tokens` and `targets` (the token that follows each) `[batch, seq]`, `start` `[batch]`.
/// Results: `log_probs` `[batch, seq]` of the targets, `top_ids` and `top_log_probs` `[batch, seq,
/// vocab = top]` of the likeliest tokens, the cache.
///
/// # Errors
/// A model that does not fit together.
pub fn score(
    config: &ModelConfig,
    options: &ProgramOptions,
    cache: CacheShape,
    chunk: usize,
    top: usize,
) -> Result<ModelProgram, TraceError> {
    let graph = Graph::new();
    let row = Shape::new(DType::S32, &[("batch", cache.batch)]);
    let tokens = Shape::new(DType::S32, &[("batch", cache.batch), ("seq", chunk)]);
    let data = [("tokens", tokens.clone()), ("targets", tokens), ("start", row)];
    let tracing = Tracing::new(&graph, config, options, &data, CacheKind::Rows(cache));
    let (tokens, targets, start) = (tracing.data[0], tracing.data[1], tracing.data[2]);
    let positions = start + ops::iota(&graph, DType::S32, "seq", chunk);
    let sequence = Sequence { tokens, positions, segments: None };
    let (states, updated) = tracing.decoder.states(sequence, Some(tracing.cache.clone()));
    let log_probs = tracing.decoder.logits(states).log_softmax("vocab");
    let (top_log_probs, top_ids) = log_probs.top_k("vocab", top.min(config.vocab_size));
    let results = vec![
        output("log_probs", log_probs.take("vocab", targets)),
        output("top_ids", top_ids),
        output("top_log_probs", top_log_probs),
    ];
    let updated = updated.unwrap_or(KvCache { tensors: Vec::new(), table: None });
    tracing.finish("score", results, &updated)
}
