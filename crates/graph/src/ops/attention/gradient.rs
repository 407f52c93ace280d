//! The derivative of attention, as an operation of its own: probabilities are computed again from the
//! log-sum-exp of each row, tile by tile, so that no score outlives its tile (Dao et al.,
//! "FlashAttention", 2022, appendix B).
//!
//! With P the softmax, Y the result, G its cotangent and D = Σ G·Y over `head_dim`:
//! dV = Pᵀ·G, dS = P ∘ (G·Vᵀ - D), dQ = scale · dS·K, dK = scale · dSᵀ·Q, and for a sink, which has
//! a probability and no value, -Σ P·D. A soft cap multiplies dS with 1 - (S / cap)².

use super::heads::Heads;
use super::portable::{cut_keys, in_rows};
use super::tile::{Scores, Tile, causal_tiles, row_axes};
use super::{AttentionOperation, Operands};
use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::kernels::{AttentionKernel, Blocks};
use crate::literal::Literal;
use crate::operation::{Cotangents, Derivative, Operation, Pullback};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Operands: those of the attention, its result, its log-sum-exp, the result's cotangent. Results:
/// the cotangents of query, key, value, and of the sinks if there are any.
#[derive(Debug)]
pub(super) struct AttentionGradient(AttentionOperation);

/// The rule of an attention that also returned its log-sum-exp.
pub(super) fn pull<'g>(
    attention: &AttentionOperation,
    pullback: &Pullback<'_, 'g>,
) -> Cotangents<'g> {
    let Some(cotangent) = pullback.cotangent() else { return Vec::new() };
    let mut operands = pullback.operands.to_vec();
    operands.extend(pullback.results);
    operands.push(cotangent);
    let count = 3 + usize::from(attention.sinks);
    let operation = std::rc::Rc::new(AttentionGradient(attention.clone()));
    let location = std::panic::Location::caller();
    let results = pullback.graph.apply_many(operation, &operands, count, location);
    let mut cotangents: Cotangents<'g> = vec![None; pullback.operands.len()];
    for (place, result) in results.iter().take(3).enumerate() {
        cotangents[place] = Some(*result);
    }
    if attention.sinks {
        let last = cotangents.len() - 1;
        cotangents[last] = results.get(3).copied();
    }
    cotangents
}

impl Operation for AttentionGradient {
    fn name(&self) -> &'static str {
        "attention_gradient"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        composite_shapes(operands, |x| lower(&self.0, Blocks::WHOLE, None, x))
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        if emitter.options().kernels.attention == AttentionKernel::LeftOut {
            let cotangent = call.operands.len() - 1;
            return super::left_out(emitter, call, "attention_gradient", cotangent);
        }
        let (blocks, heads) = super::ways(emitter, &self.0, call);
        let key = format!("{:?} {blocks:?} {heads:?}", self.0);
        let name = "attention_gradient";
        emitter.composite(call, name, &key, |x| lower(&self.0, blocks, heads, x));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| {
            lower(&self.0, Blocks::WHOLE, None, x)
        })
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a derivative itself, and second ones are not supported here")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// What all tiles share, by rows: result and cotangent as the query, `[batch?, kv_heads, group, seq]`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'g> {
    pub result: Tensor<'g>,
    pub log_sum_exp: Tensor<'g>,
    pub cotangent: Tensor<'g>,
}

impl<'g> Rows<'g> {
    /// Σ G·Y over `head_dim`.
    fn product(&self) -> Tensor<'g> {
        let wide = |tensor: Tensor<'g>| tensor.convert(DType::F32);
        (wide(self.result) * wide(self.cotangent)).sum(&["head_dim"])
    }
}

/// One tile's share of the cotangents, in f32: query `[…rows, head_dim]`, the others
/// `[batch?, kv_heads, kv_seq, head_dim]`.
pub(super) struct Share<'g> {
    pub query: Tensor<'g>,
    pub key: Tensor<'g>,
    pub value: Tensor<'g>,
}

fn lower<'g>(
    attention: &AttentionOperation,
    blocks: Blocks,
    heads: Option<Heads>,
    operands: &[Tensor<'g>],
) -> Vec<Tensor<'g>> {
    let Some((&[result, log_sum_exp, cotangent], own)) =
        operands.split_last_chunk::<3>().map(|(own, last)| (last, own))
    else {
        return Vec::new();
    };
    let Some(o) = attention.operands(own) else { return Vec::new() };
    let rows = Rows { result, log_sum_exp, cotangent };
    let Share { query, key, value } = match heads {
        Some(heads) => heads.gradient(attention, &o, &rows),
        None => by_rows(attention, blocks, &o, &rows),
    };
    let mut results = vec![like(query, o.query), like(key, o.key), like(value, o.value)];
    if let Some(sinks) = o.sinks {
        let weight = (sinks.convert(DType::F32) - log_sum_exp).exponential();
        results.push(like(-(weight * rows.product()), sinks));
    }
    results
}

fn by_rows<'g>(
    attention: &AttentionOperation,
    blocks: Blocks,
    o: &Operands<Tensor<'g>>,
    rows: &Rows<'g>,
) -> Share<'g> {
    let o = Operands { query: in_rows(o.query), ..*o };
    let (result, cotangent) = (in_rows(rows.result), in_rows(rows.cotangent));
    let rows = Rows { result, cotangent, ..*rows };
    let tile = Tile::whole(&o);
    let keys = o.key.size("kv_seq");
    let count = keys.div_ceil(blocks.keys.max(1));
    match causal_tiles(attention, &o, blocks.queries) {
        Some(cuts) => by_tiles(attention, &tile, &rows, &cuts, keys),
        None if count == 1 => share(attention, &tile, &rows),
        None => by_blocks(attention, &o, &rows, keys.div_ceil(count), count),
    }
}

/// Summed over the axes that `model` lacks, in its order and type.
fn like<'g>(tensor: Tensor<'g>, model: Tensor<'g>) -> Tensor<'g> {
    let shape = model.shape();
    let mut extra = tensor.shape().names();
    extra.retain(|axis| !shape.has(axis));
    tensor.sum(&extra).broadcast_to(&shape.axes).convert(shape.dtype)
}

fn share<'g>(attention: &AttentionOperation, tile: &Tile<'g>, rows: &Rows<'g>) -> Share<'g> {
    let own = [tile.query, tile.key, tile.value];
    share_of(attention, own, tile.scores(attention), rows, &ROWS, true)
}

/// The axes of queries in [`share`].
const ROWS: [Axis; 2] = ["group", "seq"];

/// The share of queries, keys and values, given their scores and the axes that number the queries.
/// What several products need is kept together if that is asked for: some compilers would make it
/// again for each, which is worse the larger a tile is and better where fast memory holds all of it.
pub(super) fn share_of<'g>(
    attention: &AttentionOperation,
    [query, key, value]: [Tensor<'g>; 3],
    Scores { scores, seen }: Scores<'g>,
    rows: &Rows<'g>,
    queries: &[Axis],
    together: bool,
) -> Share<'g> {
    // A row that sees nothing has a log-sum-exp of zero, which makes its weights zeros too.
    let weights = (scores - rows.log_sum_exp).exponential();
    let cotangent = rows.cotangent;
    let of_weights = cotangent.dot_as(value, &["head_dim"], DType::F32);
    let mut of_scores = weights * (of_weights - rows.product());
    if let Some(cap) = attention.soft_cap {
        let zero = ops::constant(query.graph(), DType::F32, 0.0);
        let share = seen.select(scores, zero) * (1.0 / cap);
        of_scores = of_scores * (1.0 - share * share);
    }
    let typed = [weights.convert(value.dtype()), of_scores.convert(query.dtype())];
    let [weights, of_scores] = match together {
        true => query.graph().optimization_barrier(&typed).try_into().unwrap_or(typed),
        false => typed,
    };
    Share {
        query: of_scores.dot_as(key, &["kv_seq"], DType::F32) * attention.scale,
        key: of_scores.dot_as(query, queries, DType::F32) * attention.scale,
        value: weights.dot_as(cotangent, queries, DType::F32),
    }
}

/// Tiles of queries one after the other; their shares of keys and values add up.
fn by_tiles<'g>(
    attention: &AttentionOperation,
    tile: &Tile<'g>,
    rows: &Rows<'g>,
    cuts: &[super::tile::Cut],
    keys: usize,
) -> Share<'g> {
    let shares: Vec<Share<'g>> = cuts
        .iter()
        .map(|&cut| {
            let (queries, seen) = cut;
            let part = |tensor: Tensor<'g>| tensor.slice("seq", queries.0, queries.1);
            let rows = Rows {
                log_sum_exp: part(rows.log_sum_exp),
                result: part(rows.result),
                cotangent: part(rows.cotangent),
            };
            let own = share(attention, &tile.cut(cut), &rows);
            let whole = |tensor: Tensor<'g>| tensor.pad("kv_seq", seen.0, keys - seen.1, 0.0);
            Share { query: own.query, key: whole(own.key), value: whole(own.value) }
        })
        .collect();
    let queries: Vec<Tensor<'g>> = shares.iter().map(|share| share.query).collect();
    let sum = |of: fn(&Share<'g>) -> Tensor<'g>| {
        shares[1..].iter().fold(of(&shares[0]), |sum, share| sum + of(share))
    };
    Share {
        query: queries[0].concatenate(&queries[1..], "seq"),
        key: sum(|share| share.key),
        value: sum(|share| share.value),
    }
}

/// A scan over blocks of keys: the query's cotangent is carried, the others are stacked.
fn by_blocks<'g>(
    attention: &AttentionOperation,
    o: &Operands<Tensor<'g>>,
    rows: &Rows<'g>,
    block: usize,
    blocks: usize,
) -> Share<'g> {
    let graph = o.query.graph();
    let mut axes = row_axes(&o.query.shape());
    axes.push(("head_dim", o.query.size("head_dim")));
    let zeros = ops::constant(graph, DType::F32, 0.0).broadcast_to(&axes);
    let (walked, keys) = (cut_keys(o, block, blocks), o.key.size("kv_seq"));
    let (carry, stacks) =
        graph.scan("kv_block", blocks, &[zeros], &walked, 2, |step, carry, slices| {
            let first = step * block as f64;
            let segments = slices.get(2).copied();
            let tile = Tile::of_block(o, (first, keys), slices[0], slices[1], segments);
            let own = share(attention, &tile, rows);
            (vec![carry[0] + own.query.broadcast_to(&axes)], vec![own.key, own.value])
        });
    let join =
        |stack: Tensor<'g>| stack.merge(&["kv_block", "kv_seq"], "kv_seq").slice("kv_seq", 0, keys);
    match stacks[..] {
        [key, value] => Share { query: carry[0], key: join(key), value: join(value) },
        _ => Share { query: carry[0], key: carry[0], value: carry[0] },
    }
}
