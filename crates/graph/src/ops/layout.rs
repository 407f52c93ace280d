//! Operations that move or repeat elements without computing: broadcast, transpose, rename, and
//! reshape by named split and merge.

use crate::DType;
use crate::emit::{Call, Emitter, array};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, for_each_index};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};

/// Repeats along new axes. Existing axes keep their order.
#[derive(Debug)]
struct Broadcast(Vec<(Axis, usize)>);

/// Reorders axes.
#[derive(Debug)]
struct Transpose(Vec<Axis>);

/// Same elements in the same order under other axes: what `split`, `merge` and `rename` record.
#[derive(Debug)]
struct Reshape {
    name: &'static str,
    axes: Vec<(Axis, usize)>,
}

impl<'g> Tensor<'g> {
    /// Repeats the tensor so that it has exactly `axes`, in that order.
    ///
    /// Errors: an own axis is missing from `axes` or has another size there.
    #[track_caller]
    pub fn broadcast_to(self, axes: &[(Axis, usize)]) -> Tensor<'g> {
        let Some(shape) = self.try_shape() else { return self };
        if shape.axes == axes {
            return self;
        }
        let own: Vec<Axis> =
            axes.iter().map(|&(axis, _)| axis).filter(|axis| shape.has(axis)).collect();
        let ordered = if own.len() == shape.rank() { self.transpose(&own) } else { self };
        if axes.len() == own.len() && own.len() == shape.rank() && ordered.shape().axes == axes {
            return ordered;
        }
        self.graph().apply(Broadcast(axes.to_vec()), &[ordered])
    }

    /// Adds an axis in front along which the tensor is repeated.
    #[track_caller]
    pub fn broadcast(self, axis: Axis, size: usize) -> Tensor<'g> {
        let Some(shape) = self.try_shape() else { return self };
        let mut axes = vec![(axis, size)];
        axes.extend(shape.axes);
        self.graph().apply(Broadcast(axes), &[self])
    }

    /// The same tensor with its axes in the given order.
    #[track_caller]
    pub fn transpose(self, order: &[Axis]) -> Tensor<'g> {
        match self.try_shape() {
            Some(shape) if shape.names() != order => {
                self.graph().apply(Transpose(order.to_vec()), &[self])
            }
            _ => self,
        }
    }

    /// Calls an axis by another name.
    #[track_caller]
    pub fn rename(self, from: Axis, to: Axis) -> Tensor<'g> {
        let Some(mut shape) = self.try_shape() else { return self };
        match shape.position(from) {
            Some(position) => shape.axes[position].0 = to,
            None => return self.layout_error("rename", format!("there is no axis `{from}`")),
        }
        self.graph().apply(Reshape { name: "rename", axes: shape.axes }, &[self])
    }

    /// Splits one axis into several, outermost first; their sizes multiply to its size.
    #[track_caller]
    pub fn split(self, axis: Axis, into: &[(Axis, usize)]) -> Tensor<'g> {
        let Some(mut shape) = self.try_shape() else { return self };
        let Some(position) = shape.position(axis) else {
            return self.layout_error("split", format!("there is no axis `{axis}`"));
        };
        let size = shape.axes[position].1;
        let product: usize = into.iter().map(|&(_, size)| size).product();
        if product != size {
            let message = format!("axis `{axis}` has {size} elements, its parts have {product}");
            return self.layout_error("split", message);
        }
        shape.axes.splice(position..=position, into.iter().copied());
        self.graph().apply(Reshape { name: "split", axes: shape.axes }, &[self])
    }

    /// Joins several axes into one, the first named outermost. It takes the place of the first.
    #[track_caller]
    pub fn merge(self, axes: &[Axis], into: Axis) -> Tensor<'g> {
        let Some(shape) = self.try_shape() else { return self };
        if let Some(missing) = axes.iter().find(|axis| !shape.has(axis)) {
            return self.layout_error("merge", format!("there is no axis `{missing}`"));
        }
        let Some(first) = axes.first() else {
            return self.layout_error("merge", "no axes were named".to_string());
        };
        let mut order: Vec<Axis> = Vec::with_capacity(shape.rank());
        for name in shape.names() {
            match name {
                name if name == *first => order.extend(axes),
                name if axes.contains(&name) => {}
                name => order.push(name),
            }
        }
        let ordered = self.transpose(&order);
        let size = axes.iter().filter_map(|axis| shape.size(axis)).product();
        let mut merged = Vec::with_capacity(shape.rank());
        for name in order {
            match name {
                name if name == *first => merged.push((into, size)),
                name if axes.contains(&name) => {}
                name => merged.push((name, shape.size(name).unwrap_or(1))),
            }
        }
        self.graph().apply(Reshape { name: "merge", axes: merged }, &[ordered])
    }

    /// Adds an axis of size 1 in front.
    #[track_caller]
    pub fn expand(self, axis: Axis) -> Tensor<'g> {
        let Some(mut shape) = self.try_shape() else { return self };
        shape.axes.insert(0, (axis, 1));
        self.graph().apply(Reshape { name: "expand", axes: shape.axes }, &[self])
    }

    /// Drops an axis of size 1.
    #[track_caller]
    pub fn squeeze(self, axis: Axis) -> Tensor<'g> {
        let Some(mut shape) = self.try_shape() else { return self };
        if shape.size(axis) != Some(1) {
            return self.layout_error("squeeze", format!("axis `{axis}` is not of size 1"));
        }
        shape.axes.retain(|&(name, _)| name != axis);
        self.graph().apply(Reshape { name: "squeeze", axes: shape.axes }, &[self])
    }

    #[track_caller]
    fn layout_error(self, operation: &str, message: String) -> Tensor<'g> {
        let location = std::panic::Location::caller();
        self.graph().fail(operation, ShapeError::new(message), vec![self.shape()], location)
    }
}

impl Operation for Broadcast {
    fn name(&self) -> &'static str {
        "broadcast_in_dim"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let target = Shape::new(operands[0].dtype, &self.0);
        for &(axis, size) in &operands[0].axes {
            match target.size(axis) {
                Some(wanted) if wanted == size => {}
                Some(wanted) => {
                    let message = format!("axis `{axis}` is {size}, not {wanted}");
                    return Err(ShapeError::new(message));
                }
                None => {
                    let message = format!("the result has no axis `{axis}`; reduce it first");
                    return Err(ShapeError::new(message));
                }
            }
        }
        Ok(vec![target])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let result = &call.results[0].shape;
        let names = call.operands[0].shape.names();
        let dimensions: Vec<usize> =
            names.iter().filter_map(|axis| result.position(axis)).collect();
        let attributes = format!("broadcast_dimensions = {}", array(&dimensions));
        emitter.statement(call, "stablehlo.broadcast_in_dim", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        vec![by_name(Shape::new(operands[0].shape.dtype, &self.0), &operands[0])]
    }

    fn derivative(&self) -> Derivative<'_> {
        // The sum of g over the new axes.
        Derivative::of_one(|pullback, g| {
            let own = pullback.operands[0].shape();
            let mut new = g.shape().names();
            new.retain(|axis| !own.has(axis));
            g.sum(&new)
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let shape = &operands[0];
        let mut axes = Vec::with_capacity(shape.rank());
        for &axis in &self.0 {
            match shape.size(axis) {
                Some(size) => axes.push((axis, size)),
                None => return Err(ShapeError::new(format!("there is no axis `{axis}`"))),
            }
        }
        if axes.len() != shape.rank() {
            return Err(ShapeError::new(format!("the order names {} axes", axes.len())));
        }
        Ok(vec![Shape { dtype: shape.dtype, axes }])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let operand = &call.operands[0].shape;
        let permutation: Vec<usize> =
            self.0.iter().filter_map(|axis| operand.position(axis)).collect();
        let attributes = format!("permutation = {}", array(&permutation));
        emitter.statement(call, "stablehlo.transpose", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = &operands[0].shape;
        let axes = self.0.iter().filter_map(|&axis| Some((axis, shape.size(axis)?))).collect();
        vec![by_name(Shape { dtype: shape.dtype, axes }, &operands[0])]
    }

    fn derivative(&self) -> Derivative<'_> {
        // g transposed back.
        Derivative::of_one(|pullback, g| g.transpose(&pullback.operands[0].shape().names()))
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Reshape {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let result = Shape::new(operands[0].dtype, &self.axes);
        if result.elements() != operands[0].elements() {
            return Err(ShapeError::new(format!("{result} has another number of elements")));
        }
        Ok(vec![result])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        // A rename is ours alone: StableHLO's axes have no names.
        if call.operands[0].shape.sizes() == call.results[0].shape.sizes() {
            emitter.alias(call);
        } else {
            emitter.statement(call, "stablehlo.reshape", "");
        }
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = Shape::new(operands[0].shape.dtype, &self.axes);
        vec![Literal { shape, values: operands[0].values.clone() }]
    }

    fn derivative(&self) -> Derivative<'_> {
        // g reshaped back.
        Derivative::of_one(|pullback, g| {
            let axes = pullback.operands[0].shape().axes;
            pullback.graph.apply(Reshape { name: "reshape", axes }, &[g])
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// Each element of the result is the operand's at the same named place.
fn by_name(shape: Shape, operand: &Literal) -> Literal {
    let strides = operand.shape.strides();
    let steps: Vec<usize> =
        shape.names().iter().map(|a| operand.shape.position(a).map_or(0, |p| strides[p])).collect();
    let mut values = Vec::with_capacity(shape.elements());
    for_each_index(&shape.sizes(), |index| {
        let offset: usize = index.iter().zip(&steps).map(|(i, step)| i * step).sum();
        values.push(operand.values[offset]);
    });
    Literal { shape, values }
}

pub(crate) fn samples() -> Vec<Sample> {
    let matrix = || (Shape::new(DType::F32, &[("rows", 4), ("columns", 6)]), Fill::Iota);
    let of = |name, build| Sample::new(name, &[matrix()], build);
    let error = |name, build, message| Sample::error(name, &[matrix().0], build, message);
    vec![
        of("broadcast", |x| vec![x[0].broadcast("batch", 2)]),
        of("broadcast_to", |x| {
            vec![x[0].broadcast_to(&[("columns", 6), ("batch", 2), ("rows", 4)])]
        }),
        of("transpose", |x| vec![x[0].transpose(&["columns", "rows"])]),
        of("split", |x| vec![x[0].split("columns", &[("heads", 2), ("head_dim", 3)])]),
        of("merge", |x| vec![x[0].merge(&["columns", "rows"], "all")]),
        of("expand and squeeze", |x| vec![x[0].expand("one"), x[0].expand("one").squeeze("one")]),
        of("rename", |x| vec![x[0].rename("rows", "seq") + x[0].rename("rows", "seq")]),
        error(
            "split into too many",
            |x| vec![x[0].split("columns", &[("heads", 2), ("head_dim", 4)])],
            "split: axis `columns` has 6 elements, its parts have 8",
        ),
        error(
            "transpose without an axis",
            |x| vec![x[0].transpose(&["rows"])],
            "transpose: the order names 1 axes",
        ),
        error(
            "rename into a name that is taken",
            |x| vec![x[0].rename("rows", "columns")],
            "rename: two axes would be called `columns`; rename one of them first",
        ),
        error(
            "broadcast_to without an axis",
            |x| vec![x[0].broadcast_to(&[("rows", 4)])],
            "broadcast_in_dim: the result has no axis `columns`; reduce it first",
        ),
    ]
}
