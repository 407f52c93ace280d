//! Prefill (a chunk of a prompt) and decode (one token per sequence). Both end with a drawn token
//! that stays on the device and can be fed straight into the next decode.

use graph::{DType, Graph, Role, Shape, Tensor, TraceError, ops, output};

use super::sampler::{self, Sampled, Sampler};
use super::{CacheKind, ModelProgram, ProgramOptions, Tracing};
use crate::config::ModelConfig;
use crate::models::{CacheShape, KvCache, Sequence};

/// Runs `chunk` tokens of each sequence through the model.
///
/// Data: `tokens` `[batch, seq]`, `start` (position of the first) and `count` (how many are real;
/// the rest is padding) `[batch]`, the sampler's. Results: the token drawn after the last real one,
/// its position, its log-probability (`[batch]` each), `seen`, the cache.
///
/// # Errors
/// A model that does not fit together.
pub fn prefill(
    config: &ModelConfig,
    options: &ProgramOptions,
    cache: CacheShape,
    chunk: usize,
) -> Result<ModelProgram, TraceError> {
    let graph = Graph::new();
    let row = Shape::new(DType::S32, &[("batch", cache.batch)]);
    let tokens = Shape::new(DType::S32, &[("batch", cache.batch), ("seq", chunk)]);
    let mut data = vec![("tokens", tokens), ("start", row.clone()), ("count", row)];
    data.extend(sampler::inputs(cache.batch, config.vocab_size));
    let tracing = Tracing::new(&graph, config, options, &data, CacheKind::Rows(cache));
    let (tokens, start, count) = (tracing.data[0], tracing.data[1], tracing.data[2]);
    let offset = ops::iota(&graph, DType::S32, "seq", chunk);
    let number = |value: usize| ops::constant(&graph, DType::S32, value as f64);
    let real = offset.less(count);
    let positions = match cache.batch {
        // Padding of one row must not reach into what the row already holds.
        2.. => real.select(start + offset, number(cache.capacity)),
        _ => start + offset,
    };
    let before = Some(tracing.cache.clone());
    let sequence = Sequence { tokens, positions, segments: None };
    let (states, updated) = tracing.decoder.states(sequence, before);
    let last = states.take("seq", count - 1.0);
    let written = real.select(tokens, number(config.vocab_size));
    finish(tracing, "prefill", last, start + count, written, updated)
}

/// Runs one token of each sequence through the model.
///
/// Data: `tokens` and `positions` `[batch]`, the sampler's. Results as [`prefill`]'s: they are the
/// next decode's data. Among several rows one whose position is the capacity is idle: it leaves no trace.
///
/// # Errors
/// A model that does not fit together.
pub fn decode(
    config: &ModelConfig,
    options: &ProgramOptions,
    cache: CacheShape,
) -> Result<ModelProgram, TraceError> {
    let graph = Graph::new();
    let row = Shape::new(DType::S32, &[("batch", cache.batch)]);
    let mut data = vec![("tokens", row.clone()), ("positions", row)];
    data.extend(sampler::inputs(cache.batch, config.vocab_size));
    let tracing = Tracing::new(&graph, config, options, &data, CacheKind::Rows(cache));
    let (tokens, positions) = (tracing.data[0], tracing.data[1]);
    let number = |value: usize| ops::constant(&graph, DType::S32, value as f64);
    let is_busy = positions.less(number(cache.capacity));
    let written = is_busy.select(tokens, number(config.vocab_size));
    let before = Some(tracing.cache.clone());
    let (tokens_row, positions_row) = (as_row(tokens), as_row(positions));
    let sequence = Sequence { tokens: tokens_row, positions: positions_row, segments: None };
    let (states, updated) = tracing.decoder.states(sequence, before);
    let last = states.squeeze("seq");
    finish(tracing, "decode", last, positions + 1.0, as_row(written), updated)
}

/// `[batch]` as `[batch, seq = 1]`.
fn as_row(tensor: Tensor<'_>) -> Tensor<'_> {
    tensor.expand("seq").transpose(&["batch", "seq"])
}

/// Draws the next token from the last states and names the results. `written` `[batch, seq]` are
/// the tokens that this step has taken in.
fn finish<'g>(
    tracing: Tracing<'_, 'g>,
    name: &str,
    last: Tensor<'g>,
    position: Tensor<'g>,
    written: Tensor<'g>,
    updated: Option<KvCache<'g>>,
) -> Result<ModelProgram, TraceError> {
    let arguments = tracing.data.len() - sampler::inputs(1, 1).len();
    let Some(mut sampler) = Sampler::new(&tracing.data[arguments..]) else {
        unreachable!("the sampler's arguments were declared by the caller");
    };
    let seen_before = sampler.seen;
    sampler.seen = mark_seen(seen_before, written);
    let logits = tracing.decoder.logits(last);
    let Sampled { token, log_prob } = sampler.sample(logits, position);
    let results = vec![
        output("token", token),
        output("position", position),
        output("log_prob", log_prob),
        output("seen", sampler.seen).role(Role::Activation).donate(seen_before),
    ];
    let updated = updated.unwrap_or(KvCache { tensors: Vec::new(), table: None });
    tracing.finish(name, results, &updated)
}

/// Sets the flags of `tokens` `[batch, seq]`; those beyond the vocabulary are padding.
fn mark_seen<'g>(seen: Tensor<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
    let yes = ops::constant(seen.graph(), DType::Bool, 1.0);
    let yes = yes.broadcast_to(&tokens.shape().axes);
    seen.scatter("vocab", tokens, yes, ops::Combine::Replace)
}
