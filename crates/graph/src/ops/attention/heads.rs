//! Attention of whole sequences to themselves, one key/value head of one sequence after the other: a
//! tile of scores is then so small that a chip's fast memory holds it. What a tile computes is that
//! of [`super::portable`] and [`super::gradient`]; here is the way around it.

use super::gradient::{Rows, Share, share_of};
use super::tile::{Cut, LEAST, Scores, Sight, TILES_MAX, cut_of, masked, scores};
use super::{AttentionOperation, Operands};
use crate::emit::EmitOptions;
use crate::graph::Tensor;
use crate::shape::{Axis, Shape};
use crate::sharding::Role;
use crate::{DType, ops};

/// Scores of a tile, at most: 32 MiB in f32, of which a backward pass has two.
const SCORES_MAX: usize = 8 << 20;

/// How batch and heads are cut into what each device holds and what it walks through. Pieces on
/// devices stay axes of the tensors, so that no loop runs along an axis that is split over devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// Pieces, and elements in each.
    batch: (usize, usize),
    kv_heads: (usize, usize),
    /// Tiles, and queries in each.
    seq: (usize, usize),
}

/// The order of axes in the loop.
const ORDER: [Axis; 6] = ["batch", "kv_heads", "group", "seq", "kv_seq", "head_dim"];

impl Heads {
    /// The way through queries of that shape, with so many queries in a tile at most. `None` if they do
    /// not divide the sequence, or the group is split over devices.
    pub fn of(query: &Shape, queries: usize, options: &EmitOptions) -> Option<Heads> {
        let sharding = options.rules.resolve(Role::Activation, query, &options.mesh);
        let pieces = sharding.pieces(&options.mesh);
        let cut = |axis: Axis| {
            let Some(position) = query.position(axis) else { return (1, 1) };
            (pieces[position], query.axes[position].1 / pieces[position])
        };
        let (batch, kv_heads) = (cut("batch"), cut("kv_heads"));
        let (whole, group) = cut("group");
        let length = query.size("seq")?;
        let fitting = SCORES_MAX / (group * length).max(1);
        let tile = queries.min(fitting.next_power_of_two()).min(length).max(1);
        let tile = tile.max(length.div_ceil(TILES_MAX));
        let fits = whole == 1 && length.is_multiple_of(tile);
        fits.then_some(Heads { batch, kv_heads, seq: (length / tile, tile) })
    }

    fn cuts(self, attention: &AttentionOperation) -> Vec<Cut> {
        let (tiles, tile) = self.seq;
        (0..tiles).map(|index| cut_of(attention, index, tile, tiles * tile)).collect()
    }

    /// The result `[batch?, kv_heads, group, seq, head_dim]`, and the log-sum-exp if it is asked for.
    pub fn lower<'g>(
        self,
        attention: &AttentionOperation,
        operands: &[Tensor<'g>],
    ) -> Vec<Tensor<'g>> {
        let Some(o) = attention.operands(operands) else { return Vec::new() };
        let mut walked = vec![o.query, o.key, with_ones(o.value)];
        walked.extend(o.sinks.map(|sinks| sinks.convert(DType::F32)));
        let own = walked.len();
        walked.extend(o.segments.into_iter().flat_map(<[Tensor<'g>; 2]>::from));
        let results = self.walk(&walked, 2, |parts| {
            let (parts, sight) = parts.split_at(own);
            let cuts = self.cuts(attention).into_iter();
            let done: Vec<[Tensor<'g>; 2]> = cuts
                .map(|cut| one_tile(attention, parts, seen(attention, sight, &o, cut), cut))
                .collect();
            let join = |result: usize| {
                let each: Vec<Tensor<'g>> = done.iter().map(|results| results[result]).collect();
                each[0].concatenate(&each[1..], "seq")
            };
            vec![join(0), join(1)]
        });
        let count = 1 + usize::from(attention.log_sum_exp);
        results.into_iter().take(count).map(|stack| self.whole(stack, o.query)).collect()
    }

    /// The cotangents of query, key and value, in their types.
    pub fn gradient<'g>(
        self,
        attention: &AttentionOperation,
        o: &Operands<Tensor<'g>>,
        rows: &Rows<'g>,
    ) -> Share<'g> {
        let mut walked = vec![o.query, o.key, o.value];
        walked.extend([rows.result, rows.log_sum_exp, rows.cotangent]);
        let own = walked.len();
        walked.extend(o.segments.into_iter().flat_map(<[Tensor<'g>; 2]>::from));
        let keys = o.key.size("kv_seq");
        let results = self.walk(&walked, 3, |parts| {
            let (parts, sight) = parts.split_at(own);
            let mut of_queries = Vec::new();
            let mut sums: Option<[Tensor<'g>; 2]> = None;
            for cut in self.cuts(attention) {
                let (queries, (first, end)) = cut;
                let row = |part: usize| parts[part].slice("seq", queries.0, queries.1);
                let column = |part: usize| parts[part].slice("kv_seq", first, end);
                let own = [row(0), column(1), column(2)];
                let seen = seen(attention, sight, o, cut);
                let scores = masked(scores(attention, own[0], own[1]), seen);
                let rows = Rows { result: row(3), log_sum_exp: row(4), cotangent: row(5) };
                let share =
                    share_of(attention, own, Scores { scores, seen }, &rows, &["seq"], false);
                of_queries.push(share.query.convert(o.query.dtype()));
                // Group by group, for groups and queries do not lie as one.
                let whole =
                    |share: Tensor<'g>| share.sum(&["group"]).pad("kv_seq", first, keys - end, 0.0);
                let own = [whole(share.key), whole(share.value)];
                sums = Some(match sums {
                    Some([key, value]) => [key + own[0], value + own[1]],
                    None => own,
                });
            }
            let mut results = vec![of_queries[0].concatenate(&of_queries[1..], "seq")];
            let typed = |sum: Tensor<'g>| sum.convert(o.key.dtype());
            results.extend(sums.into_iter().flatten().map(typed));
            results
        });
        let whole = |result: usize| self.whole(results[result], o.query);
        Share { query: whole(0), key: whole(1), value: whole(2) }
    }

    /// Calls `body` for every key/value head of every sequence with the parts of `walked`; its `count`
    /// results are stacked.
    fn walk<'g>(
        self,
        walked: &[Tensor<'g>],
        count: usize,
        body: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> Vec<Tensor<'g>> {
        let Some(first) = walked.first() else { return Vec::new() };
        let length = self.batch.1 * self.kv_heads.1;
        let walked: Vec<Tensor<'g>> = walked.iter().map(|&tensor| self.turns(tensor)).collect();
        let step = |_, _: &[Tensor<'g>], parts: &[Tensor<'g>]| {
            let own: Vec<Tensor<'g>> =
                parts.iter().map(|part| part.constrain(Role::Activation)).collect();
            (Vec::new(), body(&own))
        };
        first.graph().scan("turn", length, &[], &walked, count, step).1
    }

    /// With an axis `turn` in front, repeated where there is no batch or heads.
    fn turns(self, tensor: Tensor<'_>) -> Tensor<'_> {
        let mut tensor = tensor;
        let axes = [("batch", "batch_turn", self.batch), ("kv_heads", "head_turn", self.kv_heads)];
        for (axis, turn, (pieces, size)) in axes {
            tensor = match tensor.shape().has(axis) {
                true => tensor.split(axis, &[(axis, pieces), (turn, size)]),
                false => tensor.broadcast(turn, size),
            };
        }
        let shape = tensor.shape();
        let own = ORDER.into_iter().filter(|axis| shape.has(axis));
        let order: Vec<Axis> = ["batch_turn", "head_turn"].into_iter().chain(own).collect();
        tensor.transpose(&order).merge(&["batch_turn", "head_turn"], "turn")
    }

    /// The inverse: a stack of results with the axes of the whole tensor.
    fn whole<'g>(self, stack: Tensor<'g>, query: Tensor<'g>) -> Tensor<'g> {
        let turns = [("batch_turn", self.batch.1), ("head_turn", self.kv_heads.1)];
        let whole = stack.split("turn", &turns).merge(&["kv_heads", "head_turn"], "kv_heads");
        let whole = match query.shape().has("batch") {
            true => whole.merge(&["batch", "batch_turn"], "batch"),
            false => whole.squeeze("batch_turn"),
        };
        let shape = whole.shape();
        let order: Vec<Axis> = ORDER.into_iter().filter(|axis| shape.has(axis)).collect();
        whole.transpose(&order).constrain(Role::Activation)
    }
}

/// Columns of ones beside the values: as many as keep a register's rows whole.
const ONES: usize = 16;

/// The values with columns of ones: their weighted sum is the sum of the weights, and costs nothing
/// where matrix units are wider than a head.
fn with_ones(value: Tensor<'_>) -> Tensor<'_> {
    let mut axes = value.shape().axes;
    if let Some(last) = axes.iter_mut().find(|(axis, _)| *axis == "head_dim") {
        last.1 = ONES;
    }
    let ones = ops::constant(value.graph(), value.dtype(), 1.0).broadcast_to(&axes);
    value.concatenate(&[ones], "head_dim")
}

/// Whether a tile's queries see its keys; `sight` are the segments of both, if there are any.
fn seen<'g>(
    attention: &AttentionOperation,
    sight: &[Tensor<'g>],
    o: &Operands<Tensor<'g>>,
    cut: Cut,
) -> Tensor<'g> {
    let count = |axis, of: Tensor<'g>| ops::iota(of.graph(), DType::S32, axis, of.size(axis));
    let segments = match sight {
        &[queries, keys] => Some((queries, keys)),
        _ => None,
    };
    Sight::of(count("seq", o.query), count("kv_seq", o.key), segments).cut(cut).seen(attention)
}

/// The result and the log-sum-exp of one tile's queries.
fn one_tile<'g>(
    attention: &AttentionOperation,
    parts: &[Tensor<'g>],
    seen: Tensor<'g>,
    ((from, to), (first, end)): Cut,
) -> [Tensor<'g>; 2] {
    let column = |part: Tensor<'g>| part.slice("kv_seq", first, end);
    let query = parts[0].slice("seq", from, to);
    let [key, value] = [column(parts[1]), column(parts[2])];
    let sinks = parts.get(3).copied();
    let graph = query.graph();
    let number = |value| ops::constant(graph, DType::F32, value);
    let scores = masked(scores(attention, query, key), seen);
    let mut greatest = scores.max(&["kv_seq"]).maximum(number(LEAST));
    greatest = sinks.map_or(greatest, |sinks| greatest.maximum(sinks));
    let weights = (scores - greatest).exponential().convert(value.dtype());
    let products = weights.dot_as(value, &["kv_seq"], DType::F32);
    let columns = products.size("head_dim") - ONES;
    let mut total = products.slice("head_dim", columns, columns + 1).squeeze("head_dim");
    if let Some(sinks) = sinks {
        total = total + (sinks - greatest).exponential();
    }
    // A query that sees no key at all gets zeros.
    let some = total.greater(number(0.0));
    let divisor = some.select(total, number(1.0));
    let result = products.slice("head_dim", 0, columns) / divisor;
    [result.convert(query.dtype()), some.select(greatest + divisor.log(), number(0.0))]
}
