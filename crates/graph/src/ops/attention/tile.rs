//! A part of an attention: some queries, some keys, which of those each query sees, and their scores.

use super::{AttentionOperation, Operands};
use crate::graph::Tensor;
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Stands for minus infinity: a row whose keys are all masked stays finite.
pub(super) const MASKED: f64 = -1e30;

/// The least that scores are shifted by: `exp(MASKED - LEAST)` is zero, even in a row that sees
/// nothing.
pub(super) const LEAST: f64 = -1e29;

/// More tiles than this would be too much program text; a loop over keys takes their place.
pub(super) const TILES_MAX: usize = 32;

#[derive(Clone, Copy)]
pub(super) struct Tile<'g> {
    pub query: Tensor<'g>,
    pub key: Tensor<'g>,
    pub value: Tensor<'g>,
    sight: Sight<'g>,
}

/// What it depends on which keys the queries see.
#[derive(Clone, Copy)]
pub(super) struct Sight<'g> {
    /// Positions of the queries, `[batch?, seq]`, and the keys' numbers, `[kv_seq]`.
    position: Tensor<'g>,
    place: Tensor<'g>,
    segments: Option<(Tensor<'g>, Tensor<'g>)>,
    lengths: Option<Tensor<'g>>,
    /// Keys from this number on are padding; nothing if there is none.
    padding_from: Option<usize>,
}

/// Scores of queries and keys, `[batch?, kv_heads, group, seq, kv_seq]` in f32.
pub(super) struct Scores<'g> {
    /// [`MASKED`] where the query does not see the key.
    pub scores: Tensor<'g>,
    /// Where it does; lacks the axes on which that does not depend.
    pub seen: Tensor<'g>,
}

impl<'g> Tile<'g> {
    /// All queries and all keys.
    pub fn whole(o: &Operands<Tensor<'g>>) -> Tile<'g> {
        let count =
            |axis, of: Tensor<'g>| ops::iota(o.query.graph(), DType::S32, axis, of.size(axis));
        let sight = Sight {
            position: o.positions.unwrap_or_else(|| count("seq", o.query)),
            place: count("kv_seq", o.key),
            segments: o.segments,
            lengths: o.lengths,
            padding_from: None,
        };
        Tile { query: o.query, key: o.key, value: o.value, sight }
    }

    /// Some of the queries and keys, by their places.
    pub fn cut(&self, (queries, keys): Cut) -> Tile<'g> {
        let columns = |tensor: Tensor<'g>| tensor.slice("kv_seq", keys.0, keys.1);
        Tile {
            query: self.query.slice("seq", queries.0, queries.1),
            key: columns(self.key),
            value: columns(self.value),
            sight: self.sight.cut((queries, keys)),
        }
    }

    /// All queries with one block of keys out of a loop. The block's first key has the number `first`, of
    /// so many keys.
    pub fn of_block(
        o: &Operands<Tensor<'g>>,
        (first, keys): (Tensor<'g>, usize),
        key: Tensor<'g>,
        value: Tensor<'g>,
        key_segments: Option<Tensor<'g>>,
    ) -> Tile<'g> {
        let count =
            |axis, of: Tensor<'g>| ops::iota(o.query.graph(), DType::S32, axis, of.size(axis));
        let sight = Sight {
            position: o.positions.unwrap_or_else(|| count("seq", o.query)),
            place: count("kv_seq", key) + first,
            segments: o.segments.map(|(of_rows, _)| of_rows).zip(key_segments),
            lengths: o.lengths,
            padding_from: Some(keys),
        };
        Tile { query: o.query, key, value, sight }
    }

    pub fn scores(&self, attention: &AttentionOperation) -> Scores<'g> {
        let mut axes = row_axes(&self.query.shape());
        axes.push(("kv_seq", self.key.size("kv_seq")));
        let scores = scores(attention, self.query, self.key).broadcast_to(&axes);
        let seen = self.sight.seen(attention);
        Scores { scores: masked(scores, seen), seen }
    }
}

/// What queries and keys have to do with each other, whether they see each other or not, in f32.
pub(super) fn scores<'g>(
    attention: &AttentionOperation,
    query: Tensor<'g>,
    key: Tensor<'g>,
) -> Tensor<'g> {
    let scores = query.dot_as(key, &["head_dim"], DType::F32) * attention.scale;
    match attention.soft_cap {
        Some(cap) => (scores * (1.0 / cap)).tanh() * cap,
        None => scores,
    }
}

/// The scores with [`MASKED`] where the query does not see the key.
pub(super) fn masked<'g>(scores: Tensor<'g>, seen: Tensor<'g>) -> Tensor<'g> {
    seen.select(scores, ops::constant(scores.graph(), DType::F32, MASKED))
}

impl<'g> Sight<'g> {
    /// Queries at these positions, keys with these numbers.
    pub fn of(
        position: Tensor<'g>,
        place: Tensor<'g>,
        segments: Option<(Tensor<'g>, Tensor<'g>)>,
    ) -> Sight<'g> {
        Sight { position, place, segments, lengths: None, padding_from: None }
    }

    pub fn cut(&self, (queries, keys): Cut) -> Sight<'g> {
        let rows = |tensor: Tensor<'g>| tensor.slice("seq", queries.0, queries.1);
        let columns = |tensor: Tensor<'g>| tensor.slice("kv_seq", keys.0, keys.1);
        Sight {
            position: rows(self.position),
            place: columns(self.place),
            segments: self.segments.map(|(of_rows, of_keys)| (rows(of_rows), columns(of_keys))),
            ..*self
        }
    }

    /// Whether the queries see the keys; lacks the axes on which that does not depend.
    pub fn seen(&self, attention: &AttentionOperation) -> Tensor<'g> {
        let (place, position) = (self.place, self.position);
        let number = |value: usize| ops::constant(place.graph(), DType::S32, value as f64);
        let mut seen: Option<Tensor<'g>> = None;
        let mut only = |condition: Tensor<'g>| {
            seen = Some(seen.map_or(condition, |seen| seen.and(condition)));
        };
        if let Some(keys) = self.padding_from {
            only(place.less(number(keys)));
        }
        if attention.causal {
            only(place.less_equal(position));
        }
        if let Some(window) = attention.window {
            only(position.minus(place).less(number(window)));
        }
        if let Some(lengths) = self.lengths {
            only(place.less(lengths));
        }
        if let Some((queries, keys)) = self.segments {
            only(queries.equal(keys));
        }
        seen.unwrap_or_else(|| place.equal(place))
    }
}

/// The axes of one score row per query: those of a dot of query and key without `kv_seq`.
pub(super) fn row_axes(query: &Shape) -> Vec<(Axis, usize)> {
    let order = ["batch", "kv_heads", "group", "seq"];
    order.iter().filter_map(|&axis| Some((axis, query.size(axis)?))).collect()
}

/// Places of queries and keys, `(first, end)` each.
pub(super) type Cut = ((usize, usize), (usize, usize));

/// Whether a whole sequence attends to itself causally.
pub(super) fn is_plain(attention: &AttentionOperation, query: &Shape, key: &Shape) -> bool {
    attention.causal
        && !attention.paged
        && !attention.positions
        && !attention.lengths
        && query.size("seq") == key.size("kv_seq")
}

/// For such a sequence: tiles of `tile` queries with the keys that they may see, so that no time is
/// spent above the diagonal. `None` where that does not apply.
pub(super) fn causal_tiles(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'_>>,
    tile: usize,
) -> Option<Vec<Cut>> {
    let queries = o.query.size("seq");
    let count = queries.div_ceil(tile.max(1));
    // Pages have been gathered by now, but into more keys than there are queries.
    let plain = is_plain(attention, &o.query.shape(), &o.key.shape());
    if !plain || !(2..=TILES_MAX).contains(&count) {
        return None;
    }
    Some((0..count).map(|index| cut_of(attention, index, tile, queries)).collect())
}

/// The queries of a tile, of so many in all, and the keys that they may see.
pub(super) fn cut_of(
    attention: &AttentionOperation,
    index: usize,
    tile: usize,
    queries: usize,
) -> Cut {
    let (first, end) = (index * tile, ((index + 1) * tile).min(queries));
    let back = attention.window.map_or(0, |window| (first + 1).saturating_sub(window));
    ((first, end), (back, end))
}
