//! Reductions over named axes, and what is built from them: mean, softmax, argmax.

use crate::emit::{Call, Emitter, Ssa, array};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, offset};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Product,
    Maximum,
    Minimum,
    And,
    Or,
}

#[derive(Debug)]
struct Reduce {
    kind: Kind,
    axes: Vec<Axis>,
}

impl Kind {
    /// StableHLO's operation for the body, and the value that changes nothing.
    fn rule(self, dtype: DType) -> (&'static str, f64) {
        let (low, high) = match dtype {
            DType::Bool => (0.0, 1.0),
            _ if dtype.is_float() => (f64::NEG_INFINITY, f64::INFINITY),
            _ => bounds(dtype),
        };
        match self {
            Kind::Sum => ("add", 0.0),
            Kind::Product => ("multiply", 1.0),
            Kind::Maximum => ("maximum", low),
            Kind::Minimum => ("minimum", high),
            Kind::And => ("and", 1.0),
            Kind::Or => ("or", 0.0),
        }
    }

    fn combine(self, a: f64, b: f64) -> f64 {
        match self {
            Kind::Sum => a + b,
            Kind::Product => a * b,
            Kind::Maximum => a.max(b),
            Kind::Minimum => a.min(b),
            Kind::And => f64::from(a != 0.0 && b != 0.0),
            Kind::Or => f64::from(a != 0.0 || b != 0.0),
        }
    }
}

/// The least and greatest value of an integer type.
fn bounds(dtype: DType) -> (f64, f64) {
    let bits = dtype.bytes() as i32 * 8;
    match dtype.is_unsigned() {
        true => (0.0, 2f64.powi(bits) - 1.0),
        false => (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0),
    }
}

impl<'g> Tensor<'g> {
    /// The sum over `axes`. Adds up in the tensor's own type: convert to f32 first where it matters.
    #[track_caller]
    pub fn sum(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::Sum, axes)
    }

    #[track_caller]
    pub fn product(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::Product, axes)
    }

    #[track_caller]
    pub fn max(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::Maximum, axes)
    }

    #[track_caller]
    pub fn min(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::Minimum, axes)
    }

    /// Whether all elements hold, of booleans.
    #[track_caller]
    pub fn all(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::And, axes)
    }

    /// Whether any element holds, of booleans.
    #[track_caller]
    pub fn any(self, axes: &[Axis]) -> Tensor<'g> {
        self.reduce(Kind::Or, axes)
    }

    /// The arithmetic mean over `axes`.
    #[track_caller]
    pub fn mean(self, axes: &[Axis]) -> Tensor<'g> {
        let count: usize = axes.iter().map(|&axis| self.size(axis)).product();
        self.sum(axes) * (1.0 / count as f64)
    }

    /// `exp(x - max) / Σ exp(x - max)` along `axis`.
    #[track_caller]
    pub fn softmax(self, axis: Axis) -> Tensor<'g> {
        let exponentials = (self - self.max(&[axis])).exponential();
        exponentials / exponentials.sum(&[axis])
    }

    /// `x - max - log Σ exp(x - max)` along `axis`.
    #[track_caller]
    pub fn log_softmax(self, axis: Axis) -> Tensor<'g> {
        let shifted = self - self.max(&[axis]);
        shifted - shifted.exponential().sum(&[axis]).log()
    }

    /// The place of the greatest element along `axis`, the first of equal ones, as s32.
    #[track_caller]
    pub fn argmax(self, axis: Axis) -> Tensor<'g> {
        let size = self.size(axis);
        let place = ops::iota(self.graph(), DType::S32, axis, size);
        let none = ops::constant(self.graph(), DType::S32, size as f64 - 1.0);
        let greatest = self.equal(self.max(&[axis]));
        greatest.select(place, none).min(&[axis])
    }

    #[track_caller]
    fn reduce(self, kind: Kind, axes: &[Axis]) -> Tensor<'g> {
        if axes.is_empty() {
            return self;
        }
        self.graph().apply(Reduce { kind, axes: axes.to_vec() }, &[self])
    }
}

impl Operation for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        let logical = matches!(self.kind, Kind::And | Kind::Or);
        if logical != (shape.dtype == DType::Bool) {
            let message = format!("{:?} does not apply to {}", self.kind, shape.dtype);
            return Err(ShapeError::new(message));
        }
        for axis in &self.axes {
            let Some(position) = shape.position(axis) else {
                return Err(ShapeError::new(format!("there is no axis `{axis}` to reduce")));
            };
            shape.axes.remove(position);
        }
        Ok(vec![shape])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let operand = &call.operands[0];
        let dtype = operand.shape.dtype;
        let (body, neutral) = self.kind.rule(dtype);
        let initial = emitter.scalar(call, &Literal::scalar(dtype, neutral));
        let scalar = Shape::scalar(dtype);
        let (a, b) = (emitter.temporary(scalar.clone()), emitter.temporary(scalar.clone()));
        let result = emitter.temporary(scalar);
        let arguments = [a, b];
        let region = emitter.block(&arguments, |emitter| {
            let results = std::slice::from_ref(&result);
            emitter.full(call, results, &format!("stablehlo.{body}"), &arguments, &[], "");
            emitter.terminator("stablehlo.return", results);
        });
        let mut dimensions: Vec<usize> =
            self.axes.iter().filter_map(|axis| operand.shape.position(axis)).collect();
        dimensions.sort_unstable();
        let operands: [Ssa; 2] = [operand.clone(), initial];
        let attributes = format!("dimensions = {}", array(&dimensions));
        emitter.full(call, &call.results, "stablehlo.reduce", &operands, &[region], &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let operand = &operands[0];
        let Ok(shapes) = self.infer(std::slice::from_ref(&operand.shape)) else {
            return Vec::new();
        };
        let shape = shapes[0].clone();
        let (_, neutral) = self.kind.rule(shape.dtype);
        let mut values = vec![neutral; shape.elements()];
        let kept: Vec<usize> =
            shape.names().iter().filter_map(|axis| operand.shape.position(axis)).collect();
        crate::literal::for_each_index(&operand.shape.sizes(), |index| {
            let to: Vec<usize> = kept.iter().map(|&position| index[position]).collect();
            let to = offset(&shape, &to);
            values[to] = self.kind.combine(values[to], operand.at(index));
        });
        vec![Literal::new(shape, values)]
    }

    fn derivative(&self) -> Derivative<'_> {
        let axes = &self.axes;
        match self.kind {
            // g, the same along the axes.
            Kind::Sum => Derivative::of_one(|_, g| g),
            // g · y / x
            Kind::Product => Derivative::of_one(|pullback, g| {
                let x = pullback.operands[0];
                (g * pullback.results[0]).broadcast_to(&x.shape().axes) / x
            }),
            // g where x = y, divided by how many there are
            Kind::Maximum | Kind::Minimum => Derivative::of_one(|pullback, g| {
                let (x, y) = (pullback.operands[0], pullback.results[0]);
                let chosen = x.equal(y).convert(g.dtype());
                chosen * (g / chosen.sum(axes))
            }),
            Kind::And | Kind::Or => Derivative::Zero("boolean operands"),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let shape = |dtype| Shape::new(dtype, &[("batch", 2), ("seq", 3), ("embed", 4)]);
    let random = |dtype| vec![(shape(dtype), Fill::Uniform(-2.0, 2.0))];
    let flags = || vec![(shape(DType::Bool), Fill::Uniform(0.0, 1.3))];
    vec![
        Sample::new("sum", &random(DType::F32), |x| {
            vec![x[0].sum(&["seq"]), x[0].sum(&["embed", "batch"])]
        }),
        Sample::new("max and min", &random(DType::F32), |x| {
            vec![x[0].max(&["embed"]), x[0].min(&["batch"])]
        }),
        Sample::new("max of integers", &random(DType::S32), |x| vec![x[0].max(&["seq"])]),
        Sample::new("product and mean", &random(DType::F32), |x| {
            vec![x[0].product(&["seq"]), x[0].mean(&["seq", "embed"])]
        }),
        Sample::new("all and any", &flags(), |x| vec![x[0].all(&["embed"]), x[0].any(&["embed"])]),
        Sample::new("softmax", &random(DType::F32), |x| {
            vec![x[0].softmax("embed"), x[0].log_softmax("seq")]
        }),
        Sample::new("argmax", &random(DType::F32), |x| vec![x[0].argmax("embed")]),
        Sample::error(
            "sum over a missing axis",
            &[shape(DType::F32)],
            |x| vec![x[0].sum(&["mlp"])],
            "reduce: there is no axis `mlp` to reduce",
        ),
    ]
}
