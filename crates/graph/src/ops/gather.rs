//! Reading and writing at places given by a tensor of indices: `take` and `scatter`.

use crate::autodiff::zeros_like;
use crate::emit::{Call, Emitter, array, list};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, for_each_index, offset};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Operands: the table, the indices. Axes that both have go together, element by element.
#[derive(Debug)]
struct Gather(Axis);

/// What a scatter does where it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Adds to what is there; equal indices add up.
    Add,
    /// Replaces what is there. Equal indices leave any one of the updates.
    Replace,
}

/// Operands: the target, the indices, the updates.
#[derive(Debug)]
struct Scatter(Axis, Combine);

impl<'g> Tensor<'g> {
    /// Replaces `axis` by the indices' axes: the elements at those places. Axes that table and
    /// indices share are walked together. Indices out of range are moved to the nearest end.
    #[track_caller]
    pub fn take(self, axis: Axis, indices: Tensor<'g>) -> Tensor<'g> {
        self.graph().apply(Gather(axis), &[self, indices])
    }

    /// Writes `updates` at `indices` along `axis`. Updates have the target's axes without `axis`,
    /// and the indices' own axes. Indices out of range write nothing.
    #[track_caller]
    pub fn scatter(
        self,
        axis: Axis,
        indices: Tensor<'g>,
        updates: Tensor<'g>,
        combine: Combine,
    ) -> Tensor<'g> {
        let shapes = (self.try_shape(), indices.try_shape(), updates.try_shape());
        let (Some(target), Some(index), Some(update)) = shapes else {
            return Tensor::poison(self.graph());
        };
        let order = update_axes(axis, &target, &index);
        let complete = order.len() == update.rank() && order.iter().all(|(a, _)| update.has(a));
        let names: Vec<Axis> = order.iter().map(|&(name, _)| name).collect();
        let updates = if complete { updates.transpose(&names) } else { updates };
        self.graph().apply(Scatter(axis, combine), &[self, indices, updates])
    }
}

/// The axes of gathered elements: the indices' axes, then the table's others.
fn update_axes(axis: Axis, table: &Shape, indices: &Shape) -> Vec<(Axis, usize)> {
    let others = table.axes.iter().filter(|(name, _)| *name != axis && !indices.has(name));
    indices.axes.iter().chain(others).copied().collect()
}

fn check(axis: Axis, table: &Shape, indices: &Shape) -> Result<(), ShapeError> {
    if !table.has(axis) {
        return Err(ShapeError::new(format!("there is no axis `{axis}`")));
    }
    if indices.has(axis) {
        return Err(ShapeError::new(format!("the indices have an axis `{axis}` too; rename it")));
    }
    if !indices.dtype.is_integer() {
        return Err(ShapeError::new(format!("indices are {}, not integers", indices.dtype)));
    }
    match super::binary::disagreement(table, indices) {
        Some(message) => Err(ShapeError::new(message)),
        None => Ok(()),
    }
}

/// Positions that `stablehlo.gather` and `scatter` name alike.
struct Numbers {
    /// Positions in the updates of the table's own axes.
    window: Vec<usize>,
    table_batching: Vec<usize>,
    indices_batching: Vec<usize>,
    indexed: usize,
    vector: usize,
}

fn numbers(axis: Axis, table: &Shape, indices: &Shape) -> Numbers {
    let own = table.axes.iter().filter(|(name, _)| *name != axis && !indices.has(name)).count();
    let shared: Vec<Axis> = table.names().into_iter().filter(|name| indices.has(name)).collect();
    Numbers {
        window: (indices.rank()..indices.rank() + own).collect(),
        table_batching: shared.iter().filter_map(|name| table.position(name)).collect(),
        indices_batching: shared.iter().filter_map(|name| indices.position(name)).collect(),
        indexed: table.position(axis).unwrap_or(0),
        vector: indices.rank(),
    }
}

impl Operation for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (table, indices) = (&operands[0], &operands[1]);
        check(self.0, table, indices)?;
        Ok(vec![Shape { dtype: table.dtype, axes: update_axes(self.0, table, indices) }])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let table = &call.operands[0].shape;
        let n = numbers(self.0, table, &call.operands[1].shape);
        let sizes: Vec<usize> = table
            .axes
            .iter()
            .enumerate()
            .map(|(position, &(_, size))| {
                if position == n.indexed || n.table_batching.contains(&position) { 1 } else { size }
            })
            .collect();
        let attributes = format!(
            "dimension_numbers = #stablehlo.gather<offset_dims = [{}], collapsed_slice_dims = [{}], \
             operand_batching_dims = [{}], start_indices_batching_dims = [{}], start_index_map = \
             [{}], index_vector_dim = {}>, indices_are_sorted = false, slice_sizes = {}",
            list(&n.window),
            n.indexed,
            list(&n.table_batching),
            list(&n.indices_batching),
            n.indexed,
            n.vector,
            array(&sizes)
        );
        emitter.statement(call, "stablehlo.gather", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shapes = [operands[0].shape.clone(), operands[1].shape.clone()];
        let Ok(result) = self.infer(&shapes) else { return Vec::new() };
        let names = result[0].names();
        let last = (shapes[0].size(self.0).unwrap_or(1) - 1) as f64;
        let literal = Literal::from_fn(result[0].clone(), |index| {
            let mut place: Vec<(Axis, usize)> =
                names.iter().copied().zip(index.iter().copied()).collect();
            let at = operands[1].at_named(&place).clamp(0.0, last) as usize;
            place.push((self.0, at));
            operands[0].at_named(&place)
        });
        vec![literal]
    }

    fn derivative(&self) -> Derivative<'_> {
        // Zeros with g added at the indices.
        Derivative::of_one(|pullback, g| {
            let (table, indices) = (pullback.operands[0], pullback.operands[1]);
            let last = table.size(self.0).saturating_sub(1) as f64;
            zeros_like(table).scatter(self.0, indices.clamp(0.0, last), g, Combine::Add)
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (target, indices, updates) = (&operands[0], &operands[1], &operands[2]);
        check(self.0, target, indices)?;
        let wanted = Shape { dtype: target.dtype, axes: update_axes(self.0, target, indices) };
        if *updates != wanted {
            return Err(ShapeError::new(format!("updates are {updates}, not {wanted}")));
        }
        Ok(vec![target.clone()])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let target = &call.operands[0].shape;
        let n = numbers(self.0, target, &call.operands[1].shape);
        let scalar = Shape::scalar(target.dtype);
        let (old, new) = (emitter.temporary(scalar.clone()), emitter.temporary(scalar.clone()));
        let sum = emitter.temporary(scalar);
        let arguments = [old, new.clone()];
        let region = emitter.block(&arguments, |emitter| match self.1 {
            Combine::Replace => emitter.terminator("stablehlo.return", &[new]),
            Combine::Add => {
                let results = std::slice::from_ref(&sum);
                emitter.full(call, results, "stablehlo.add", &arguments, &[], "");
                emitter.terminator("stablehlo.return", results);
            }
        });
        let attributes = format!(
            "indices_are_sorted = false, scatter_dimension_numbers = #stablehlo.scatter<\
             update_window_dims = [{}], inserted_window_dims = [{}], input_batching_dims = [{}], \
             scatter_indices_batching_dims = [{}], scatter_dims_to_operand_dims = [{}], \
             index_vector_dim = {}>, unique_indices = false",
            list(&n.window),
            n.indexed,
            list(&n.table_batching),
            list(&n.indices_batching),
            n.indexed,
            n.vector
        );
        let name = "stablehlo.scatter";
        emitter.full(call, &call.results, name, &call.operands, &[region], &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let mut result = operands[0].clone();
        let shape = result.shape.clone();
        let updates = &operands[2];
        let names = updates.shape.names();
        let size = shape.size(self.0).unwrap_or(1) as f64;
        for_each_index(&updates.shape.sizes(), |index| {
            let mut place: Vec<(Axis, usize)> =
                names.iter().copied().zip(index.iter().copied()).collect();
            let at = operands[1].at_named(&place);
            if at < 0.0 || at >= size {
                return;
            }
            place.push((self.0, at as usize));
            let find = |axis| place.iter().find(|&&(name, _)| name == axis).map_or(0, |&(_, i)| i);
            let to: Vec<usize> = shape.axes.iter().map(|&(axis, _)| find(axis)).collect();
            let to = offset(&shape, &to);
            let update = updates.at(index);
            result.values[to] = match self.1 {
                Combine::Add => shape.dtype.round(result.values[to] + update),
                Combine::Replace => update,
            };
        });
        vec![result]
    }

    fn derivative(&self) -> Derivative<'_> {
        // (g, none, g taken at the indices); what was replaced gets zeros. Of equal indices that
        // replace, each update counts as the one that stayed.
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let (indices, updates) = (pullback.operands[1], pullback.operands[2]);
            let target = || match self.1 {
                Combine::Add => g,
                Combine::Replace => {
                    g.scatter(self.0, indices, zeros_like(updates), Combine::Replace)
                }
            };
            let update = || {
                let inside = |limit: f64| ops::constant(pullback.graph, indices.dtype(), limit);
                let size = g.size(self.0) as f64;
                let written = indices.greater_equal(inside(0.0)).and(indices.less(inside(size)));
                let zero = ops::constant(pullback.graph, g.dtype(), 0.0);
                written.select(g.take(self.0, indices), zero)
            };
            vec![pullback.wanted[0].then(target), None, pullback.wanted[2].then(update)]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let table = (Shape::new(DType::F32, &[("vocab", 7), ("embed", 3)]), Fill::Uniform(-1.0, 1.0));
    let ids = (Shape::new(DType::S32, &[("batch", 2), ("seq", 4)]), Fill::Uniform(0.0, 7.0));
    let cache = (
        Shape::new(DType::F32, &[("batch", 2), ("seq", 5), ("head_dim", 3)]),
        Fill::Uniform(-1.0, 1.0),
    );
    let places = (Shape::new(DType::S32, &[("batch", 2)]), Fill::Uniform(0.0, 5.0));
    let updates =
        (Shape::new(DType::F32, &[("head_dim", 3), ("batch", 2)]), Fill::Uniform(-1.0, 1.0));
    let grads = (
        Shape::new(DType::F32, &[("batch", 2), ("seq", 4), ("embed", 3)]),
        Fill::Uniform(-1.0, 1.0),
    );
    vec![
        Sample::new("take", &[table.clone(), ids.clone()], |x| vec![x[0].take("vocab", x[1])]),
        Sample::new("take with a shared axis", &[cache.clone(), places.clone()], |x| {
            vec![x[0].take("seq", x[1])]
        }),
        Sample::new("scatter replaces", &[cache.clone(), places, updates], |x| {
            vec![x[0].scatter("seq", x[1], x[2], Combine::Replace)]
        }),
        Sample::new("scatter adds", &[table.clone(), ids, grads], |x| {
            vec![x[0].scatter("vocab", x[1], x[2], Combine::Add)]
        }),
        Sample::error(
            "take by floats",
            &[table.0.clone(), Shape::new(DType::F32, &[("seq", 4)])],
            |x| vec![x[0].take("vocab", x[1])],
            "gather: indices are f32, not integers",
        ),
        Sample::error(
            "scatter of other axes",
            &[
                cache.0,
                Shape::new(DType::S32, &[("batch", 2)]),
                Shape::new(DType::F32, &[("batch", 2)]),
            ],
            |x| vec![x[0].scatter("seq", x[1], x[2], Combine::Add)],
            "scatter: updates are f32[batch 2], not f32[batch 2, head_dim 3]",
        ),
    ]
}
