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
    let result = running.values / running.total;
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
    let scores = scores(attention, o, o.key, place, segments);
    let greatest = with_sinks(o, scores.max(&["kv_seq"]));
    let weights = (scores - greatest).exponential();
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
    let (last, _) = graph.scan("kv_block", blocks, &initial, &walked, |step, carry, slices| {
        let first = step * block as f64;
        let place = ops::iota(graph, DType::S32, "kv_seq", block) + first;
        let scores = scores(attention, o, slices[0], place, slices.get(2).copied());
        let greatest = carry[0].maximum(scores.max(&["kv_seq"]));
        let weights = (scores - greatest).exponential();
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

/// Masked f32 scores `[batch?, kv_heads, seq, group, kv_seq]`; `place` numbers the keys.
fn scores<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    key: Tensor<'g>,
    place: Tensor<'g>,
    key_segments: Option<Tensor<'g>>,
) -> Tensor<'g> {
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
    seen.select(scores, ops::constant(graph, DType::F32, MASKED))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::evaluate_composite;
    use crate::kernels::{AttentionKernel, Kernels};
    use crate::literal::Literal;
    use crate::operation::Fill;

    /// Attention by its definition, in plain loops: one query head at a time.
    fn by_definition(query: &Literal, key: &Literal, value: &Literal, window: usize) -> Literal {
        let at = |t: &Literal, s: (Axis, usize), h: usize, g: usize, d: usize| {
            t.at_named(&[s, ("kv_heads", h), ("group", g), ("head_dim", d)])
        };
        Literal::from_fn(query.shape.clone(), |index| {
            let &[seq, head, group, dim] = index else { panic!("query axes") };
            let first = (seq + 1).saturating_sub(window);
            let score = |k: usize| -> f64 {
                let product = |d| {
                    at(query, ("seq", seq), head, group, d) * at(key, ("kv_seq", k), head, 0, d)
                };
                (0..4).map(product).sum::<f64>() * 0.5
            };
            let weights: Vec<f64> = (first..=seq).map(|k| score(k).exp()).collect();
            let total: f64 = weights.iter().sum();
            let values = (first..=seq).zip(&weights);
            values.map(|(k, w)| w / total * at(value, ("kv_seq", k), head, 0, dim)).sum()
        })
    }

    #[test]
    fn equals_the_definition_in_one_piece_and_by_blocks() {
        let axes = [("seq", 11), ("kv_heads", 2), ("group", 3), ("head_dim", 4)];
        let query = Shape::new(DType::F32, &axes);
        let key = Shape::new(DType::F32, &[("kv_seq", 11), ("kv_heads", 2), ("head_dim", 4)]);
        let fill =
            |shape: &Shape, seed| Literal::filled(shape.clone(), Fill::Uniform(-2.0, 2.0), seed);
        let operands = [fill(&query, 1), fill(&key, 2), fill(&key, 3)];
        let expected = by_definition(&operands[0], &operands[1], &operands[2], 6);
        for block in [4, 5, 11, 64] {
            let kernels = Kernels { attention: AttentionKernel::Portable { block } };
            let result = evaluate_composite(&kernels, &operands, |x| {
                let attention = super::super::Attention::causal(x[0], x[1], x[2]);
                vec![super::super::Attention { window: Some(6), ..attention }.apply()]
            });
            for (got, wanted) in result[0].values.iter().zip(&expected.values) {
                assert!((got - wanted).abs() < 1e-6, "block {block}: {got} is not {wanted}");
            }
        }
    }
}
