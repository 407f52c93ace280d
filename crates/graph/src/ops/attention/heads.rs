//! Attention one key/value head of one sequence at a time: a loop around what [`super::portable`] and
//! [`super::gradient`] do, so small that a chip's fast memory can hold a tile of scores.

use crate::emit::EmitOptions;
use crate::graph::Tensor;
use crate::shape::{Axis, Shape};
use crate::sharding::Role;

/// How batch and heads are cut into what each device holds and what it walks through. Device pieces
/// stay axes of the tensors, so that no loop runs along an axis that is split over devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// Pieces and elements in each.
    batch: (usize, usize),
    kv_heads: (usize, usize),
}

/// The order of axes in the loop.
const ORDER: [Axis; 6] = ["batch", "kv_heads", "group", "seq", "kv_seq", "head_dim"];

impl Heads {
    /// The loop over queries of that shape; none where there is one turn only.
    pub fn of(query: &Shape, options: &EmitOptions) -> Option<Heads> {
        let sharding = options.rules.resolve(Role::Activation, query, &options.mesh);
        let pieces = sharding.pieces(&options.mesh);
        let cut = |axis: Axis| match query.position(axis) {
            Some(position) => (pieces[position], query.axes[position].1 / pieces[position]),
            None => (1, 1),
        };
        let heads = Heads { batch: cut("batch"), kv_heads: cut("kv_heads") };
        (heads.turns() > 1).then_some(heads)
    }

    fn turns(self) -> usize {
        self.batch.1 * self.kv_heads.1
    }

    /// Calls `body` for every turn with the operands' parts, in which `batch` and `kv_heads` are the
    /// devices' pieces, and puts its `count` results together again.
    pub fn walk<'g>(
        self,
        operands: &[Tensor<'g>],
        count: usize,
        body: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> Vec<Tensor<'g>> {
        let Some(first) = operands.first() else { return Vec::new() };
        let batched = first.shape().has("batch");
        let walked: Vec<Tensor<'g>> = operands.iter().map(|&tensor| self.cut(tensor)).collect();
        let length = self.turns();
        let (_, stacks) = first.graph().scan("turn", length, &[], &walked, count, |_, _, parts| {
            let own: Vec<Tensor<'g>> =
                parts.iter().map(|part| part.constrain(Role::Activation)).collect();
            (Vec::new(), body(&own))
        });
        stacks.into_iter().map(|stack| self.join(stack, batched)).collect()
    }

    /// The tensor with an axis `turn` in front, repeated where it lacks batch or heads.
    fn cut(self, tensor: Tensor<'_>) -> Tensor<'_> {
        let mut tensor = tensor;
        for (axis, inner, (pieces, size)) in
            [("batch", "batch_turn", self.batch), ("kv_heads", "head_turn", self.kv_heads)]
        {
            tensor = match tensor.shape().has(axis) {
                true => tensor.split(axis, &[(axis, pieces), (inner, size)]),
                false => tensor.broadcast(inner, size),
            };
        }
        let shape = tensor.shape();
        let own = ORDER.into_iter().filter(|axis| shape.has(axis));
        let order: Vec<Axis> = ["batch_turn", "head_turn"].into_iter().chain(own).collect();
        tensor.transpose(&order).merge(&["batch_turn", "head_turn"], "turn")
    }

    /// The inverse.
    fn join(self, stack: Tensor<'_>, batched: bool) -> Tensor<'_> {
        let turns = [("batch_turn", self.batch.1), ("head_turn", self.kv_heads.1)];
        let split = stack.split("turn", &turns);
        let heads = split.merge(&["kv_heads", "head_turn"], "kv_heads");
        let whole = match batched {
            true => heads.merge(&["batch", "batch_turn"], "batch"),
            false => heads.squeeze("batch_turn"),
        };
        let shape = whole.shape();
        let order: Vec<Axis> = ORDER.into_iter().filter(|axis| shape.has(axis)).collect();
        whole.transpose(&order).constrain(Role::Activation)
    }
}
