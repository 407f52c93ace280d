//! Operations that make tensors from nothing: constants and counters.

use crate::DType;
use crate::emit::{Call, Emitter, dense};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Operation, Sample};
use crate::shape::{Axis, Shape};

#[derive(Debug)]
struct Constant(Literal);

/// 0, 1, 2, … along one axis.
#[derive(Debug)]
struct Iota(DType, Axis, usize);

/// A scalar of the given type; it broadcasts in arithmetic.
#[track_caller]
pub fn constant(graph: &Graph, dtype: DType, value: f64) -> Tensor<'_> {
    if !dtype.is_float() && value.fract() != 0.0 {
        let message = format!("{value} is no {dtype}; convert the tensor to a float first");
        return graph.reject("constant", message);
    }
    literal(graph, Literal::scalar(dtype, value))
}

/// A constant tensor. Meant for small tables: the values become program text.
#[track_caller]
pub fn literal(graph: &Graph, literal: Literal) -> Tensor<'_> {
    graph.apply(Constant(literal), &[])
}

/// 0, 1, 2, … along `axis`.
#[track_caller]
pub fn iota(graph: &Graph, dtype: DType, axis: Axis, size: usize) -> Tensor<'_> {
    graph.apply(Iota(dtype, axis, size), &[])
}

impl Operation for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn infer(&self, _: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![self.0.shape.clone()])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.constant", &format!("value = {}", dense(&self.0)));
    }

    fn evaluate(&self, _: &Evaluator<'_>, _: &[Literal]) -> Vec<Literal> {
        vec![self.0.clone()]
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Zero("no operand")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Iota {
    fn name(&self) -> &'static str {
        "iota"
    }

    fn infer(&self, _: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![Shape::new(self.0, &[(self.1, self.2)])])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.iota", "iota_dimension = 0 : i64");
    }

    fn evaluate(&self, _: &Evaluator<'_>, _: &[Literal]) -> Vec<Literal> {
        let shape = Shape::new(self.0, &[(self.1, self.2)]);
        vec![Literal::from_fn(shape, |index| index[0] as f64)]
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Zero("no operand")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    use crate::operation::Fill;
    let one = || vec![(Shape::new(DType::F32, &[("a", 3)]), Fill::Iota)];
    vec![
        Sample::new("constants of several types", &one(), |x| {
            let graph = x[0].graph();
            let table = Literal::new(
                Shape::new(DType::F32, &[("a", 3)]),
                vec![1.0, -0.1, f64::NEG_INFINITY],
            );
            let flags = Literal::new(Shape::new(DType::Bool, &[("a", 3)]), vec![1.0, 0.0, 1.0]);
            vec![
                literal(graph, table).maximum(x[0]),
                literal(graph, flags),
                constant(graph, DType::Bf16, 1e-5),
                constant(graph, DType::U32, 4_294_967_295.0),
            ]
        }),
        Sample::error(
            "mean of integers",
            &[Shape::new(DType::S32, &[("a", 4)])],
            |x| vec![x[0].mean(&["a"])],
            "constant: 0.25 is no s32; convert the tensor to a float first",
        ),
        Sample::new("iota", &one(), |x| {
            let graph = x[0].graph();
            vec![iota(graph, DType::S32, "b", 4), x[0] + iota(graph, DType::F32, "b", 2)]
        }),
    ]
}
