//! Attention in plain operations: exact, O(seq) memory. Keys are taken by blocks with a running
//! softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).

use super::{AttentionOperation, Operands};
use crate::graph::{Graph, Tensor};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Stands for minus infinity: a row whose keys are all masked stays finite.
const MASKED: f64 = -1e30;

/// What the softmax amounts to before the division: the sum of exponentials and the weighted
/// values. Axes: `batch?, kv_heads, seq, group` (and `head_dim` for the values).
struct Running<'g> {
    total: Tensor<'g>,
    values: Tensor<'g>,
}

pub(super) fn lower<'g>(
    attention: &AttentionOperation,
    block: usize,
    operands: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let Some(o) = attention.operands(operands) else { return Vec::new() };
    let graph = o.query.graph();
    let (key, value) = match o.block_table {
        Some(table) => (gather_pages(o.key, table), gather_pages(o.value, table)),
        None => (o.key, o.value),
    };
    let o = Operands { key, value, ..o };
    let keys = o.key.size("kv_seq");
    let blocks = keys.div_ceil(block.max(1));
    let running = match blocks {
        1 => whole(attention, &o),
        _ => by_blocks(attention, &o, graph, keys.div_ceil(blocks), blocks),
    };
    // A query that sees no key at all gets zeros.
    let one = ops::constant(graph, DType::F32, 1.0);
    let zero = ops::constant(graph, DType::F32, 0.0);
    let result = running.values / running.total.greater(zero).select(running.total, one);
    vec![result.convert(o.query.dtype()).transpose(&o.query.shape().names())]
}

/// `[pages, page, kv_heads, head_dim]` into `[batch, kv_seq, kv_heads, head_dim]`.
fn gather_pages<'g>(pool: Tensor<'g>, block_table: Tensor<'g>) -> Tensor<'g> {
    pool.take("pages", block_table).merge(&["blocks", "page"], "kv_seq")
}

/// All keys in one piece.
fn whole<'g>(attention: &AttentionOperation, o: &Operands<Tensor<'g>>) -> Running<'g> {
    let graph = o.query.graph();
    let place = ops::iota(graph, DType::S32, "kv_seq", o.key.size("kv_seq"));
    let segments = o.segments.map(|(_, keys)| keys);
    let Scores { scores, seen } = scores(attention, o, o.key, place, segments);
    let greatest = with_sinks(o, scores.max(&["kv_seq"]));
    let weights = exponentials(scores, seen, greatest);
    let total = add_sinks(o, weights.sum(&["kv_seq"]), greatest);
    Running { total, values: weigh(weights, o.value) }
}

/// A scan over blocks of keys that carries the running softmax.
fn by_blocks<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    graph: &'g Graph,
    block: usize,
    blocks: usize,
) -> Running<'g> {
    let keys = o.key.size("kv_seq");
    let cut = |tensor: Tensor<'g>| {
        let padded = match block * blocks - keys {
            0 => tensor,
            missing => tensor.pad("kv_seq", 0, missing, 0.0),
        };
        padded.split("kv_seq", &[("kv_block", blocks), ("kv_seq", block)])
    };
    let mut walked = vec![cut(o.key), cut(o.value)];
    walked.extend(o.segments.map(|(_, keys)| cut(keys)));
    let rows = row_axes(&o.query.shape());
    let fill = |axes: &[(Axis, usize)], value: f64| {
        ops::constant(graph, DType::F32, value).broadcast_to(axes)
    };
    let mut value_axes = rows.clone();
    value_axes.push(("head_dim", o.query.size("head_dim")));
    let start = with_sinks(o, fill(&rows, MASKED));
    let initial = [start, add_sinks(o, fill(&rows, 0.0), start), fill(&value_axes, 0.0)];
    let (last, _) = graph.scan("kv_block", blocks, &initial, &walked, 0, |step, carry, slices| {
        let first = step * block as f64;
        let place = ops::iota(graph, DType::S32, "kv_seq", block) + first;
        let segments = slices.get(2).copied();
        let Scores { scores, seen } = scores(attention, o, slices[0], place, segments);
        let greatest = carry[0].maximum(scores.max(&["kv_seq"]));
        let weights = exponentials(scores, seen, greatest);
        let earlier = (carry[0] - greatest).exponential();
        let total = carry[1] * earlier + weights.sum(&["kv_seq"]);
        let values = carry[2] * earlier + weigh(weights, slices[1]);
        (vec![greatest, total, values], Vec::new())
    });
    Running { total: last[1], values: last[2] }
}

/// The axes of one score row per query: those of a dot of query and key without `kv_seq`.
fn row_axes(query: &Shape) -> Vec<(Axis, usize)> {
    let order = ["batch", "kv_heads", "seq", "group"];
    order.iter().filter_map(|&axis| Some((axis, query.size(axis)?))).collect()
}

/// Scores of queries and keys, `[batch?, kv_heads, seq, group, kv_seq]` in f32.
struct Scores<'g> {
    /// [`MASKED`] where the query does not see the key.
    scores: Tensor<'g>,
    /// Where it does; lacks the axes on which that does not depend.
    seen: Tensor<'g>,
}

/// `exp(score - greatest)`, and zero for a key that is not seen, even where none is.
fn exponentials<'g>(scores: Tensor<'g>, seen: Tensor<'g>, greatest: Tensor<'g>) -> Tensor<'g> {
    let zero = ops::constant(scores.graph(), DType::F32, 0.0);
    seen.select((scores - greatest).exponential(), zero)
}

/// `place` numbers the keys.
fn scores<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    key: Tensor<'g>,
    place: Tensor<'g>,
    key_segments: Option<Tensor<'g>>,
) -> Scores<'g> {
    let graph = o.query.graph();
    let mut axes = row_axes(&o.query.shape());
    axes.push(("kv_seq", key.size("kv_seq")));
    let mut scores = o.query.dot_as(key, &["head_dim"], DType::F32) * attention.scale;
    if let Some(cap) = attention.soft_cap {
        scores = (scores * (1.0 / cap)).tanh() * cap;
    }
    let scores = scores.broadcast_to(&axes);
    let position =
        o.positions.unwrap_or_else(|| ops::iota(graph, DType::S32, "seq", o.query.size("seq")));
    let keys = ops::constant(graph, DType::S32, o.key.size("kv_seq") as f64);
    let mut seen = place.less(keys);
    if attention.causal {
        seen = seen.and(place.less_equal(position));
    }
    if let Some(window) = attention.window {
        let back = ops::constant(graph, DType::S32, window as f64);
        seen = seen.and(position.minus(place).less(back));
    }
    if let Some(lengths) = o.lengths {
        seen = seen.and(place.less(lengths));
    }
    if let (Some((queries, _)), Some(keys)) = (o.segments, key_segments) {
        seen = seen.and(queries.equal(keys));
    }
    let scores = seen.select(scores, ops::constant(graph, DType::F32, MASKED));
    Scores { scores, seen }
}

/// The weighted sum of values, `[batch?, kv_heads, seq, group, head_dim]` in f32.
fn weigh<'g>(weights: Tensor<'g>, value: Tensor<'g>) -> Tensor<'g> {
    weights.convert(value.dtype()).dot_as(value, &["kv_seq"], DType::F32)
}

/// The greatest score with the sinks taken into account.
fn with_sinks<'g>(o: &Operands<Tensor<'g>>, greatest: Tensor<'g>) -> Tensor<'g> {
    match o.sinks {
        Some(sinks) => greatest.maximum(sinks.convert(DType::F32)),
        None => greatest,
    }
}

/// The sum of exponentials with the sinks' share.
fn add_sinks<'g>(o: &Operands<Tensor<'g>>, total: Tensor<'g>, greatest: Tensor<'g>) -> Tensor<'g> {
    match o.sinks {
        Some(sinks) => total + (sinks.convert(DType::F32) - greatest).exponential(),
        None => total,
    }
}
