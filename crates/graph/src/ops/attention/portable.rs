//! Attention in plain operations: exact, O(seq) memory. A sequence that attends to itself goes by
//! tiles of queries with the keys that they see; otherwise keys are taken by blocks with a running
//! softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). Blocks of keys
//! that lie in pages are [`super::pages`].

use super::heads::Heads;
use super::pages::{by_pages, gather_pages, without_strangers};
use super::tile::{LEAST, Scores, Tile, causal_tiles, row_axes};
use super::{AttentionOperation, Operands};
use crate::graph::Tensor;
use crate::kernels::Blocks;
use crate::shape::Axis;
use crate::{DType, ops};

/// What the softmax amounts to before the division. Axes: `batch?, kv_heads, group, seq` (and
/// `head_dim` for the values).
pub(super) struct Running<'g> {
    pub greatest: Tensor<'g>,
    /// The sum of exponentials.
    pub total: Tensor<'g>,
    /// The weighted values.
    pub values: Tensor<'g>,
}

pub(super) fn lower<'g>(
    attention: &AttentionOperation,
    blocks: Blocks,
    heads: Option<Heads>,
    operands: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let Some(&query) = operands.first() else { return Vec::new() };
    let mut results = match heads {
        Some(heads) => heads.lower(attention, operands),
        None => by_rows(attention, blocks, operands),
    };
    if let Some(result) = results.first_mut() {
        *result = result.transpose(&query.shape().names());
    }
    results
}

/// The result as `[batch?, kv_heads, group, seq, head_dim]`, and the log-sum-exp if it is asked for.
fn by_rows<'g>(
    attention: &AttentionOperation,
    blocks: Blocks,
    operands: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let Some(o) = attention.operands(operands) else { return Vec::new() };
    let o = Operands { query: in_rows(o.query), ..o };
    let Running { greatest, total, values } = match o.block_table {
        Some(table) => {
            let pages = (blocks.keys / o.key.size("page").max(1)).max(1);
            match pages >= table.size("blocks") {
                true => {
                    let gather = |pool| gather_pages(pool, table).convert(o.query.dtype());
                    let (key, value) = (gather(o.key), gather(o.value));
                    let place =
                        ops::iota(o.query.graph(), DType::S32, "kv_seq", key.size("kv_seq"));
                    let value = without_strangers(attention, &o, value, place, None);
                    let o = Operands { key, value, ..o };
                    at_once(attention, &o, &Tile::whole(&o))
                }
                false => by_pages(attention, &o, table, pages),
            }
        }
        None => contiguous(attention, &o, blocks),
    };
    // A query that sees no key at all gets zeros.
    let graph = o.query.graph();
    let number = |value| ops::constant(graph, DType::F32, value);
    let some = total.greater(number(0.0));
    let divisor = some.select(total, number(1.0));
    let result = values / divisor;
    let mut results = vec![result.convert(o.query.dtype())];
    if attention.log_sum_exp {
        results.push(some.select(greatest + divisor.log(), number(0.0)));
    }
    results
}

/// A query, or what has its axes, with a row of `head_dim` for each score row.
pub(super) fn in_rows(query: Tensor<'_>) -> Tensor<'_> {
    let mut names: Vec<Axis> = row_axes(&query.shape()).into_iter().map(|(axis, _)| axis).collect();
    names.push("head_dim");
    query.transpose(&names)
}

/// Keys that lie together.
fn contiguous<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    blocks: Blocks,
) -> Running<'g> {
    let tile = Tile::whole(o);
    let keys = o.key.size("kv_seq");
    let count = keys.div_ceil(blocks.keys.max(1));
    match causal_tiles(attention, o, blocks.queries) {
        Some(cuts) => {
            let parts = cuts.into_iter().map(|cut| tile.cut(cut));
            join(parts.map(|tile| at_once(attention, o, &tile)).collect())
        }
        None if count == 1 => at_once(attention, o, &tile),
        None => by_blocks(attention, o, keys.div_ceil(count), count),
    }
}

/// All keys of a tile in one piece.
fn at_once<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    tile: &Tile<'g>,
) -> Running<'g> {
    let scores = tile.scores(attention);
    let greatest = with_sinks(o, scores.scores.max(&["kv_seq"]).maximum(least(o)));
    let weights = (scores.scores - greatest).exponential();
    let total = add_sinks(o, weights.sum(&["kv_seq"]), greatest);
    Running { greatest, total, values: weigh(weights, tile.value) }
}

/// The tiles' queries behind one another.
fn join<'g>(parts: Vec<Running<'g>>) -> Running<'g> {
    let join = |of: fn(&Running<'g>) -> Tensor<'g>| {
        let tensors: Vec<Tensor<'g>> = parts.iter().map(of).collect();
        tensors[0].concatenate(&tensors[1..], "seq")
    };
    Running {
        greatest: join(|part| part.greatest),
        total: join(|part| part.total),
        values: join(|part| part.values),
    }
}

/// A scan over blocks of keys that carries the running softmax.
fn by_blocks<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    block: usize,
    blocks: usize,
) -> Running<'g> {
    let graph = o.query.graph();
    let (walked, keys) = (cut_keys(o, block, blocks), o.key.size("kv_seq"));
    let (last, _) = graph.scan("kv_block", blocks, &begin(o), &walked, 0, |step, carry, slices| {
        let first = step * block as f64;
        let segments = slices.get(2).copied();
        let tile = Tile::of_block(o, (first, keys), slices[0], slices[1], segments);
        (advance(attention, &tile, carry).to_vec(), Vec::new())
    });
    Running { greatest: last[0], total: last[1], values: last[2] }
}

/// What a running softmax begins with: the greatest score, the sum of exponentials, the values.
pub(super) fn begin<'g>(o: &Operands<Tensor<'g>>) -> [Tensor<'g>; 3] {
    let graph = o.query.graph();
    let rows = row_axes(&o.query.shape());
    let fill = |axes: &[(Axis, usize)], value: f64| {
        ops::constant(graph, DType::F32, value).broadcast_to(axes)
    };
    let mut value_axes = rows.clone();
    value_axes.push(("head_dim", o.query.size("head_dim")));
    let start = with_sinks(o, fill(&rows, LEAST));
    [start, add_sinks(o, fill(&rows, 0.0), start), fill(&value_axes, 0.0)]
}

/// The same with one more block of keys.
pub(super) fn advance<'g>(
    attention: &AttentionOperation,
    tile: &Tile<'g>,
    carry: &[Tensor<'g>],
) -> [Tensor<'g>; 3] {
    let scores: Scores<'g> = tile.scores(attention);
    let greatest = carry[0].maximum(scores.scores.max(&["kv_seq"]));
    let weights = (scores.scores - greatest).exponential();
    let earlier = (carry[0] - greatest).exponential();
    let total = carry[1] * earlier + weights.sum(&["kv_seq"]);
    let values = carry[2] * earlier + weigh(weights, tile.value);
    [greatest, total, values]
}

/// Keys, values and the keys' segments with an axis `kv_block` to walk along, the last block padded.
pub(super) fn cut_keys<'g>(
    o: &Operands<Tensor<'g>>,
    block: usize,
    blocks: usize,
) -> Vec<Tensor<'g>> {
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
    walked
}

fn least<'g>(o: &Operands<Tensor<'g>>) -> Tensor<'g> {
    ops::constant(o.query.graph(), DType::F32, LEAST)
}

/// The weighted sum of values, `[batch?, kv_heads, group, seq, head_dim]` in f32.
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
