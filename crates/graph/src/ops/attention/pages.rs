//! Attention over keys in pages, some pages of each sequence at a time: what has been gathered is never
//! more than one block of keys, however long sequences can be, and the loop ends with the last page that
//! any query sees.

use super::portable::{Running, advance, begin};
use super::tile::Tile;
use super::{AttentionOperation, Operands};
use crate::graph::Tensor;
use crate::{DType, ops};

/// `pages` pages of each sequence at a time; `o` has its query in rows and the pools as they are.
pub(super) fn by_pages<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    block_table: Tensor<'g>,
    pages: usize,
) -> Running<'g> {
    let graph = o.query.graph();
    let number = |value: usize| ops::constant(graph, DType::S32, value as f64);
    let all = block_table.size("blocks");
    let block = pages * o.key.size("page");
    let (count, keys) = (all.div_ceil(pages), all * o.key.size("page"));
    // The last block may lack pages: what stands in for them is seen by nobody.
    let table = block_table.pad("blocks", 0, count * pages - all, 0.0);
    let segments = o.segments.map(|(_, of)| of.pad("kv_seq", 0, count * block - keys, 0.0));
    let [greatest, total, values] = begin(o);
    let initial = [number(0), greatest, total, values];
    let end = end_of_sight(attention, o).map_or(number(keys), |end| end.minimum(number(keys)));
    let last = graph.while_loop(
        &initial,
        |state| (state[0] * block as f64).less(end),
        |state| {
            let first = state[0] * block as f64;
            let table = table.dynamic_slice("blocks", state[0] * pages as f64, pages);
            let gather = |pool| gather_pages(pool, table).convert(o.query.dtype());
            let segments = segments.map(|of| of.dynamic_slice("kv_seq", first, block));
            let (key, value) = (gather(o.key), gather(o.value));
            let place = ops::iota(graph, DType::S32, "kv_seq", block) + first;
            let value = without_strangers(attention, o, value, place, Some(keys));
            let tile = Tile::of_block(o, (first, keys), key, value, segments);
            let next = advance(attention, &tile, &state[1..]);
            std::iter::once(state[0] + 1.0).chain(next).collect()
        },
    );
    Running { greatest: last[1], total: last[2], values: last[3] }
}

/// `[pages, page, kv_heads, head_dim]` into `[batch, kv_seq, kv_heads, head_dim]`.
pub(super) fn gather_pages<'g>(pool: Tensor<'g>, block_table: Tensor<'g>) -> Tensor<'g> {
    pool.take("pages", block_table).merge(&["blocks", "page"], "kv_seq")
}

/// Values with zeros where no query of a sequence looks. What stands there may be another sequence's,
/// and a weight of zero does not make nothing of a NaN. `place` has the values' numbers, `[kv_seq]`; from
/// `padding_from` on they are nobody's, if there are such.
pub(super) fn without_strangers<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    value: Tensor<'g>,
    place: Tensor<'g>,
    padding_from: Option<usize>,
) -> Tensor<'g> {
    let graph = value.graph();
    let padding = padding_from.map(|end| ops::constant(graph, DType::S32, end as f64));
    let by_position = o.positions.filter(|_| attention.causal).map(|of| of.max(&["seq"]) + 1.0);
    let ends = [padding, o.lengths, by_position].into_iter().flatten();
    match ends.map(|end| place.less(end)).reduce(Tensor::and) {
        Some(own) => own.select(value, ops::constant(graph, value.dtype(), 0.0)),
        None => value,
    }
}

/// The number behind the last key that any query sees, where it is known; negative if none sees any.
fn end_of_sight<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
) -> Option<Tensor<'g>> {
    let greatest = |of: Tensor<'g>| of.max(&of.shape().names());
    let by_length = o.lengths.map(greatest);
    let by_position = o.positions.filter(|_| attention.causal).map(|of| greatest(of) + 1.0);
    match (by_length, by_position) {
        (Some(length), Some(position)) => Some(length.minimum(position)),
        (one, other) => one.or(other),
    }
}
