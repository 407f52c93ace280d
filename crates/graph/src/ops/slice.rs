//! Cutting out and putting together along named axes: slice, dynamic slice, dynamic update slice,
//! concatenate, pad.

use crate::autodiff::zeros_like;
use crate::emit::{Call, Emitter, Ssa, array};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, for_each_index, offset};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

#[derive(Debug)]
struct Slice {
    axis: Axis,
    start: usize,
    stop: usize,
}

/// Operands: the tensor, then one start per named axis.
#[derive(Debug)]
struct DynamicSlice(Vec<(Axis, usize)>);

/// Operands: the tensor, the update, then one start per named axis.
#[derive(Debug)]
struct DynamicUpdateSlice(Vec<Axis>);

#[derive(Debug)]
struct Concatenate(Axis);

/// Operands: the tensor, the padding value.
#[derive(Debug)]
struct Pad {
    axis: Axis,
    low: usize,
    high: usize,
}

impl<'g> Tensor<'g> {
    /// Elements `start..stop` of an axis.
    #[track_caller]
    pub fn slice(self, axis: Axis, start: usize, stop: usize) -> Tensor<'g> {
        if let Some(shape) = self.try_shape()
            && start == 0
            && shape.size(axis) == Some(stop)
        {
            return self;
        }
        self.graph().apply(Slice { axis, start, stop }, &[self])
    }

    /// `size` elements of an axis from `start`, an integer scalar of the device. A start too near
    /// the end is moved back so that the slice fits, as StableHLO defines.
    #[track_caller]
    pub fn dynamic_slice(self, axis: Axis, start: Tensor<'g>, size: usize) -> Tensor<'g> {
        self.graph().apply(DynamicSlice(vec![(axis, size)]), &[self, start])
    }

    /// Element `place` of an axis, which is dropped.
    #[track_caller]
    pub fn index(self, axis: Axis, place: Tensor<'g>) -> Tensor<'g> {
        self.dynamic_slice(axis, place, 1).squeeze(axis)
    }

    /// The tensor with `update` written at the given starts; other axes of the update are whole.
    /// Starts are moved back so that the update fits. In a donated or loop-carried tensor it
    /// happens in place.
    #[track_caller]
    pub fn dynamic_update_slice(
        self,
        update: Tensor<'g>,
        starts: &[(Axis, Tensor<'g>)],
    ) -> Tensor<'g> {
        let Some(shape) = self.try_shape() else { return self };
        let ordered = match update.try_shape() {
            Some(own) if own.rank() == shape.rank() && shape.names().iter().all(|a| own.has(a)) => {
                update.transpose(&shape.names())
            }
            _ => update,
        };
        let axes = starts.iter().map(|&(axis, _)| axis).collect();
        let mut operands = vec![self, ordered];
        operands.extend(starts.iter().map(|&(_, start)| start));
        self.graph().apply(DynamicUpdateSlice(axes), &operands)
    }

    /// Joins this tensor and `others` along an axis, in order; all other axes agree.
    #[track_caller]
    pub fn concatenate(self, others: &[Tensor<'g>], axis: Axis) -> Tensor<'g> {
        let names = self.shape().names();
        let ordered = |tensor: &Tensor<'g>| match tensor.try_shape() {
            Some(shape) if shape.rank() == names.len() => tensor.transpose(&names),
            _ => *tensor,
        };
        let operands: Vec<Tensor<'g>> =
            [self].into_iter().chain(others.iter().map(ordered)).collect();
        self.graph().apply(Concatenate(axis), &operands)
    }

    /// `low` copies of `value` before and `high` after the elements of an axis.
    #[track_caller]
    pub fn pad(self, axis: Axis, low: usize, high: usize, value: f64) -> Tensor<'g> {
        let value = ops::constant(self.graph(), self.dtype(), value);
        self.graph().apply(Pad { axis, low, high }, &[self, value])
    }
}

fn missing(axis: Axis) -> ShapeError {
    ShapeError::new(format!("there is no axis `{axis}`"))
}

fn check_start(start: &Shape) -> Result<(), ShapeError> {
    match start.rank() == 0 && start.dtype.is_integer() {
        true => Ok(()),
        false => Err(ShapeError::new(format!("a start is {start}, not an integer scalar"))),
    }
}

/// One start per axis of the operand: the given one, or a zero.
fn start_operands(
    emitter: &mut Emitter<'_>,
    call: &Call,
    axes: &[Axis],
    starts: &[Ssa],
) -> Vec<Ssa> {
    let dtype = starts.first().map_or(DType::S32, |start| start.shape.dtype);
    let zero = emitter.scalar(call, &Literal::scalar(dtype, 0.0));
    let names = call.operands[0].shape.names();
    let find = |name| axes.iter().position(|axis| *axis == name);
    names
        .into_iter()
        .map(|name| find(name).map_or_else(|| zero.clone(), |at| starts[at].clone()))
        .collect()
}

/// Where a clamped slice begins on each axis of `shape`.
fn start_index(shape: &Shape, sizes: &Shape, axes: &[Axis], starts: &[Literal]) -> Vec<usize> {
    let start = |&(axis, size): &(Axis, usize)| {
        let wanted = axes.iter().position(|a| *a == axis).map_or(0.0, |at| starts[at].values[0]);
        wanted.clamp(0.0, (size - sizes.size(axis).unwrap_or(size)) as f64) as usize
    };
    shape.axes.iter().map(start).collect()
}

fn shifted(index: &[usize], start: &[usize]) -> Vec<usize> {
    index.iter().zip(start).map(|(i, s)| i + s).collect()
}

impl Operation for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        let position = shape.position(self.axis).ok_or_else(|| missing(self.axis))?;
        let size = shape.axes[position].1;
        if self.start >= self.stop || self.stop > size {
            return Err(ShapeError::new(format!(
                "{}..{} is not within axis `{}` of {size}",
                self.start, self.stop, self.axis
            )));
        }
        shape.axes[position].1 = self.stop - self.start;
        Ok(vec![shape])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let shape = &call.operands[0].shape;
        let own = |axis: Axis| axis == self.axis;
        let starts: Vec<usize> =
            shape.axes.iter().map(|&(axis, _)| if own(axis) { self.start } else { 0 }).collect();
        let limits: Vec<usize> = shape
            .axes
            .iter()
            .map(|&(axis, size)| if own(axis) { self.stop } else { size })
            .collect();
        let attributes = format!(
            "limit_indices = {}, start_indices = {}, strides = {}",
            array(&limits),
            array(&starts),
            array(&vec![1; shape.rank()])
        );
        emitter.statement(call, "stablehlo.slice", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let Ok(shapes) = self.infer(std::slice::from_ref(&operands[0].shape)) else {
            return Vec::new();
        };
        let start = start_index_of(&shapes[0], self.axis, self.start);
        vec![Literal::from_fn(shapes[0].clone(), |index| operands[0].at(&shifted(index, &start)))]
    }

    fn derivative(&self) -> Derivative<'_> {
        // g with zeros around it, in the operand's size.
        Derivative::of_one(|pullback, g| {
            let size = pullback.operands[0].size(self.axis);
            g.pad(self.axis, self.start, size.saturating_sub(self.stop), 0.0)
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// `start` on one axis, zero on the others.
fn start_index_of(shape: &Shape, axis: Axis, start: usize) -> Vec<usize> {
    shape.axes.iter().map(|&(name, _)| if name == axis { start } else { 0 }).collect()
}

impl Operation for DynamicSlice {
    fn name(&self) -> &'static str {
        "dynamic_slice"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        for &(axis, size) in &self.0 {
            let position = shape.position(axis).ok_or_else(|| missing(axis))?;
            if size > shape.axes[position].1 {
                let message = format!(
                    "{size} elements of axis `{axis}`, which has {}",
                    shape.axes[position].1
                );
                return Err(ShapeError::new(message));
            }
            shape.axes[position].1 = size;
        }
        operands[1..].iter().try_for_each(check_start)?;
        Ok(vec![shape])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let axes: Vec<Axis> = self.0.iter().map(|&(axis, _)| axis).collect();
        let mut operands = vec![call.operands[0].clone()];
        operands.extend(start_operands(emitter, call, &axes, &call.operands[1..]));
        let attributes = format!("slice_sizes = {}", array(&call.results[0].shape.sizes()));
        emitter.full(call, &call.results, "stablehlo.dynamic_slice", &operands, &[], &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shapes: Vec<Shape> = operands.iter().map(|literal| literal.shape.clone()).collect();
        let Ok(result) = self.infer(&shapes) else { return Vec::new() };
        let axes: Vec<Axis> = self.0.iter().map(|&(axis, _)| axis).collect();
        let start = start_index(&shapes[0], &result[0], &axes, &operands[1..]);
        vec![Literal::from_fn(result[0].clone(), |index| operands[0].at(&shifted(index, &start)))]
    }

    fn derivative(&self) -> Derivative<'_> {
        // Zeros with g written at the starts.
        Derivative::of_one(|pullback, g| {
            let axes = self.0.iter().map(|&(axis, _)| axis);
            let starts: Vec<_> = axes.zip(pullback.operands[1..].iter().copied()).collect();
            zeros_like(pullback.operands[0]).dynamic_update_slice(g, &starts)
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for DynamicUpdateSlice {
    fn name(&self) -> &'static str {
        "dynamic_update_slice"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (shape, update) = (&operands[0], &operands[1]);
        if update.dtype != shape.dtype {
            let message = format!("writes {} into {}", update.dtype, shape.dtype);
            return Err(ShapeError::new(message));
        }
        if update.names() != shape.names() {
            let message = format!("the update {update} has other axes than {shape}");
            return Err(ShapeError::new(message));
        }
        for (&(axis, size), &(_, part)) in shape.axes.iter().zip(&update.axes) {
            let free = self.0.contains(&axis);
            if part > size || (!free && part != size) {
                let message = format!("axis `{axis}` is {size}, the update's {part}");
                return Err(ShapeError::new(message));
            }
        }
        if let Some(axis) = self.0.iter().find(|axis| !shape.has(axis)) {
            return Err(missing(axis));
        }
        operands[2..].iter().try_for_each(check_start)?;
        Ok(vec![shape.clone()])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let mut operands = call.operands[..2].to_vec();
        operands.extend(start_operands(emitter, call, &self.0, &call.operands[2..]));
        let name = "stablehlo.dynamic_update_slice";
        emitter.full(call, &call.results, name, &operands, &[], "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let mut result = operands[0].clone();
        let update = &operands[1];
        let start = start_index(&result.shape, &update.shape, &self.0, &operands[2..]);
        for_each_index(&update.shape.sizes(), |index| {
            let to = offset(&result.shape, &shifted(index, &start));
            result.values[to] = update.at(index);
        });
        vec![result]
    }

    fn derivative(&self) -> Derivative<'_> {
        // (g with zeros written at the starts, g's slice there, none)
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let (update, starts) = (pullback.operands[1], &pullback.operands[2..]);
            let kept = || {
                let starts: Vec<_> = self.0.iter().copied().zip(starts.iter().copied()).collect();
                g.dynamic_update_slice(zeros_like(update), &starts)
            };
            let written = || {
                let axes = self.0.iter().map(|&axis| (axis, update.size(axis))).collect();
                let operands: Vec<_> = [g].into_iter().chain(starts.iter().copied()).collect();
                pullback.graph.apply(DynamicSlice(axes), &operands)
            };
            vec![pullback.wanted[0].then(kept), pullback.wanted[1].then(written)]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Concatenate {
    fn name(&self) -> &'static str {
        "concatenate"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        let position = shape.position(self.0).ok_or_else(|| missing(self.0))?;
        for other in &operands[1..] {
            let size = other.size(self.0).ok_or_else(|| missing(self.0))?;
            let mut same = other.clone();
            if same.names() == shape.names() {
                same.axes[position].1 = shape.axes[position].1;
            }
            if same != shape {
                let message = format!("{other} does not join {} along `{}`", operands[0], self.0);
                return Err(ShapeError::new(message));
            }
            shape.axes[position].1 += size;
        }
        Ok(vec![shape])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let dimension = call.operands[0].shape.position(self.0).unwrap_or(0);
        emitter.statement(call, "stablehlo.concatenate", &format!("dimension = {dimension} : i64"));
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shapes: Vec<Shape> = operands.iter().map(|literal| literal.shape.clone()).collect();
        let Ok(result) = self.infer(&shapes) else { return Vec::new() };
        let position = result[0].position(self.0).unwrap_or(0);
        let literal = Literal::from_fn(result[0].clone(), |index| {
            let mut index = index.to_vec();
            for operand in operands {
                let size = operand.shape.axes[position].1;
                if index[position] < size {
                    return operand.at(&index);
                }
                index[position] -= size;
            }
            f64::NAN
        });
        vec![literal]
    }

    fn derivative(&self) -> Derivative<'_> {
        // g's slice for each operand.
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let mut start = 0;
            let slice = |operand: &Tensor<'_>| {
                let stop = start + operand.size(self.0);
                let own = g.slice(self.0, start, stop);
                start = stop;
                Some(own)
            };
            pullback.operands.iter().map(slice).collect()
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        let position = shape.position(self.axis).ok_or_else(|| missing(self.axis))?;
        shape.axes[position].1 += self.low + self.high;
        Ok(vec![shape])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let shape = &call.operands[0].shape;
        let low = start_index_of(shape, self.axis, self.low);
        let high = start_index_of(shape, self.axis, self.high);
        let attributes = format!(
            "edge_padding_high = {}, edge_padding_low = {}, interior_padding = {}",
            array(&high),
            array(&low),
            array(&vec![0; shape.rank()])
        );
        emitter.statement(call, "stablehlo.pad", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shapes: Vec<Shape> = operands.iter().map(|literal| literal.shape.clone()).collect();
        let Ok(result) = self.infer(&shapes) else { return Vec::new() };
        let position = result[0].position(self.axis).unwrap_or(0);
        let size = shapes[0].axes[position].1;
        let literal = Literal::from_fn(result[0].clone(), |index| {
            let mut index = index.to_vec();
            if index[position] < self.low || index[position] >= self.low + size {
                return operands[1].values[0];
            }
            index[position] -= self.low;
            operands[0].at(&index)
        });
        vec![literal]
    }

    fn derivative(&self) -> Derivative<'_> {
        // (g's slice, the sum of g over the padding)
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let size = pullback.operands[0].size(self.axis);
            let own = g.slice(self.axis, self.low, self.low + size);
            let all = |tensor: Tensor<'_>| tensor.shape().names();
            let padding = || g.sum(&all(g)) - own.sum(&all(own));
            vec![pullback.wanted[0].then_some(own), pullback.wanted[1].then(padding)]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let shape = || Shape::new(DType::F32, &[("layers", 3), ("seq", 6)]);
    let matrix = || (shape(), Fill::Iota);
    let start = |low: f64| (Shape::scalar(DType::S32), Fill::Uniform(low, low + 0.5));
    let small = (Shape::new(DType::F32, &[("seq", 2), ("layers", 1)]), Fill::Uniform(-1.0, 0.0));
    vec![
        Sample::new("slice", &[matrix()], |x| {
            vec![x[0].slice("seq", 1, 4), x[0].slice("seq", 0, 6)]
        }),
        Sample::new("dynamic_slice", &[matrix(), start(2.0), start(9.0)], |x| {
            let clamped = x[0].dynamic_slice("seq", x[2], 4);
            vec![x[0].dynamic_slice("seq", x[1], 2), clamped, x[0].index("layers", x[1])]
        }),
        Sample::new("dynamic_update_slice", &[matrix(), small, start(1.0), start(3.0)], |x| {
            vec![x[0].dynamic_update_slice(x[1], &[("seq", x[3]), ("layers", x[2])])]
        }),
        Sample::new("concatenate", &[matrix(), matrix()], |x| {
            vec![x[0].concatenate(&[x[1].slice("seq", 2, 3), x[0]], "seq")]
        }),
        Sample::new("pad", &[matrix()], |x| vec![x[0].pad("seq", 1, 2, -1.0)]),
        Sample::error(
            "slice beyond the end",
            &[shape()],
            |x| vec![x[0].slice("seq", 4, 9)],
            "slice: 4..9 is not within axis `seq` of 6",
        ),
        Sample::error(
            "dynamic_slice at a float",
            &[shape(), Shape::scalar(DType::F32)],
            |x| vec![x[0].dynamic_slice("seq", x[1], 2)],
            "dynamic_slice: a start is f32[], not an integer scalar",
        ),
        Sample::error(
            "update of another size",
            &[
                shape(),
                Shape::new(DType::F32, &[("layers", 1), ("seq", 5)]),
                Shape::scalar(DType::S32),
            ],
            |x| vec![x[0].dynamic_update_slice(x[1], &[("layers", x[2])])],
            "dynamic_update_slice: axis `seq` is 6, the update's 5",
        ),
        Sample::error(
            "concatenate of other axes",
            &[shape(), Shape::new(DType::F32, &[("layers", 2), ("seq", 6)])],
            |x| vec![x[0].concatenate(&x[1..], "seq")],
            "concatenate: f32[layers 2, seq 6] does not join f32[layers 3, seq 6] along `seq`",
        ),
        Sample::error(
            "pad of a missing axis",
            &[shape()],
            |x| vec![x[0].pad("batch", 1, 0, 0.0)],
            "pad: there is no axis `batch`",
        ),
    ]
}
