//! A matrix product in which each row meets the matrix of its group: the product of a mixture of
//! experts, rows sorted by expert.

use crate::autodiff::through;
use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Operands: rows, matrices, group sizes. What it computes is [`lower`]; kernels that skip the
/// other groups' rows come behind the same operation.
#[derive(Debug)]
struct GroupedDot {
    rows: Axis,
    groups: Axis,
    contract: Axis,
}

impl<'g> Tensor<'g> {
    /// `self` is `[rows, contract]`, `matrices` `[groups, contract, out]`, `group_sizes` `[groups]`
    /// (s32): the first `group_sizes[0]` rows are multiplied with matrix 0, the next with matrix 1,
    /// and so on; rows beyond the last group give zeros. The result is `[rows, out]`.
    #[track_caller]
    pub fn grouped_dot(
        self,
        matrices: Tensor<'g>,
        group_sizes: Tensor<'g>,
        rows: Axis,
        groups: Axis,
        contract: Axis,
    ) -> Tensor<'g> {
        let operation = GroupedDot { rows, groups, contract };
        self.graph().apply(operation, &[self, matrices, group_sizes])
    }
}

/// One product per group with the other groups' rows set to zero, added up by a scan.
fn lower<'g>(operation: &GroupedDot, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let GroupedDot { rows, groups, contract } = *operation;
    let (left, matrices, sizes) = (x[0], x[1], x[2]);
    let graph = left.graph();
    let place = ops::iota(graph, DType::S32, rows, left.size(rows));
    let ends = sizes.cumulative_sum(groups);
    let mut shape = left.shape();
    shape.axes.retain(|&(axis, _)| axis != contract);
    let others = matrices.shape().axes.into_iter().filter(|(a, _)| *a != groups && *a != contract);
    shape.axes.extend(others);
    let zeros = ops::constant(graph, shape.dtype, 0.0).broadcast_to(&shape.axes);
    let walked = [matrices, ends - sizes, ends];
    let count = matrices.size(groups);
    let (total, _) = graph.scan(groups, count, &[zeros], &walked, 0, |_, carry, slices| {
        let mine = place.greater_equal(slices[1]).and(place.less(slices[2]));
        let none = ops::constant(graph, left.dtype(), 0.0);
        let product = mine.select(left, none).dot(slices[0], &[contract]);
        (vec![carry[0] + product], Vec::new())
    });
    total
}

impl Operation for GroupedDot {
    fn name(&self) -> &'static str {
        "grouped_dot"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (left, matrices, sizes) = (&operands[0], &operands[1], &operands[2]);
        if left.names() != [self.rows, self.contract] {
            let (rows, contract) = (self.rows, self.contract);
            let message = format!("the rows are {left}, not [{rows}, {contract}]");
            return Err(ShapeError::new(message));
        }
        if left.size(self.contract) != matrices.size(self.contract) || matrices.has(self.rows) {
            let message = format!("{matrices} does not contract `{}` with {left}", self.contract);
            return Err(ShapeError::new(message));
        }
        let groups = matrices.size(self.groups).unwrap_or(0);
        if *sizes != Shape::new(DType::S32, &[(self.groups, groups)]) {
            let message = format!("group sizes are {sizes}, not s32[{} {groups}]", self.groups);
            return Err(ShapeError::new(message));
        }
        let mut axes = vec![left.axes[0]];
        let own = matrices.axes.iter().filter(|(a, _)| *a != self.groups && *a != self.contract);
        axes.extend(own);
        let wanted = vec![Shape { dtype: left.dtype, axes }];
        match composite_shapes(operands, |x| lower(self, x))? == wanted {
            true => Ok(wanted),
            false => Err(ShapeError::new("the operands do not fit together")),
        }
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.composite(call, "grouped_dot", &format!("{self:?}"), |x| lower(self, x));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| lower(self, x))
    }

    fn derivative(&self) -> Derivative<'_> {
        // By way of the simpler operations that it stands for.
        Derivative::rule(|pullback| through(pullback, |x| lower(self, x)))
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let rows = (Shape::new(DType::F32, &[("tokens", 7), ("embed", 4)]), Fill::Uniform(-1.0, 1.0));
    let matrices = (
        Shape::new(DType::F32, &[("experts", 3), ("embed", 4), ("mlp", 5)]),
        Fill::Uniform(-1.0, 1.0),
    );
    let sizes = (Shape::new(DType::S32, &[("experts", 3)]), Fill::Uniform(0.0, 3.0));
    vec![
        Sample::new("grouped_dot", &[rows.clone(), matrices.clone(), sizes], |x| {
            vec![x[0].grouped_dot(x[1], x[2], "tokens", "experts", "embed")]
        }),
        Sample::error(
            "grouped_dot with sizes of another axis",
            &[rows.0, matrices.0, Shape::new(DType::S32, &[("groups", 3)])],
            |x| vec![x[0].grouped_dot(x[1], x[2], "tokens", "experts", "embed")],
            "grouped_dot: group sizes are s32[groups 3], not s32[experts 3]",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernels;

    #[test]
    fn each_row_meets_its_own_matrix() {
        let rows = Literal::new(Shape::new(DType::F32, &[("t", 4), ("i", 1)]), vec![1.0; 4]);
        let shape = Shape::new(DType::F32, &[("e", 3), ("i", 1), ("o", 1)]);
        let matrices = Literal::new(shape, vec![10.0, 20.0, 30.0]);
        let sizes = Literal::new(Shape::new(DType::S32, &[("e", 3)]), vec![1.0, 0.0, 2.0]);
        let result = evaluate_composite(&Kernels::default(), &[rows, matrices, sizes], |x| {
            vec![x[0].grouped_dot(x[1], x[2], "t", "e", "i")]
        });
        assert_eq!(result[0].values, [10.0, 30.0, 30.0, 0.0]);
    }
}
