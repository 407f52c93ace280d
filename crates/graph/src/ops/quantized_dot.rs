//! A product with a matrix that is held as int8 with one scale per row: a quarter of what f32 takes.
//!
//! y = (x · Q) s with x `[…, inputs]`, Q `[outputs, inputs]`, s `[outputs]`. Q is made of weights that
//! are at rest, so nothing flows back to it: dx = (dy s) · Q.
//!
//! [`QuantizedKernel::Rounded`] rounds x as well: with t = max |x| / 127 over the inputs of each row,
//! y = (round(x / t) · Q) t s, summed up in whole numbers (W8A8 with dynamic scales per token, as in
//! SmoothQuant, <https://arxiv.org/abs/2211.10438>, section 3).

use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::kernels::QuantizedKernel;
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// The largest int8 that is used.
const LARGEST: f64 = 127.0;
/// The least scale of a row, so that a row of zeros is divided by something.
const SCALE_MIN: f64 = 1e-30;

/// Operands: the left side, the matrix, the scales of its rows.
#[derive(Debug)]
struct QuantizedDot {
    contract: Vec<Axis>,
}

impl<'g> Tensor<'g> {
    /// The product with `matrix` (s8) over the axes `contract`, times `scales` (f32), which has all
    /// other axes of the matrix. The result has the type of `self`.
    #[track_caller]
    pub fn quantized_dot(
        self,
        matrix: Tensor<'g>,
        scales: Tensor<'g>,
        contract: &[Axis],
    ) -> Tensor<'g> {
        let operation = QuantizedDot { contract: contract.to_vec() };
        self.graph().apply(operation, &[self, matrix, scales])
    }
}

fn lower<'g>(kernel: QuantizedKernel, contract: &[Axis], x: &[Tensor<'g>]) -> Tensor<'g> {
    match kernel {
        QuantizedKernel::Barred => {
            let behind = x[0].graph().optimization_barrier(&x[..2]);
            widened(contract, &[&behind[..], &x[2..]].concat())
        }
        QuantizedKernel::Widened => widened(contract, x),
        QuantizedKernel::Rounded => rounded(contract, x),
    }
}

/// Every int8 is a bf16 exactly, and the scale comes after the sum.
fn widened<'g>(contract: &[Axis], x: &[Tensor<'g>]) -> Tensor<'g> {
    let (left, matrix) = (x[0], x[1]);
    let product = left.dot(matrix.convert(left.dtype()), contract);
    (product.convert(DType::F32) * x[2]).convert(left.dtype())
}

/// Sums of 127 · 127 fit into 32 bits for 133,000 inputs.
fn rounded<'g>(contract: &[Axis], x: &[Tensor<'g>]) -> Tensor<'g> {
    let graph = x[0].graph();
    let left = x[0].convert(DType::F32);
    let scale = left.abs().max(contract) * (1.0 / LARGEST);
    let scale = scale.maximum(ops::constant(graph, DType::F32, SCALE_MIN));
    let whole = (left / scale).round_nearest_even().convert(DType::S8);
    let product = whole.dot_as(x[1], contract, DType::S32).convert(DType::F32);
    (product * scale * x[2]).convert(x[0].dtype())
}

impl Operation for QuantizedDot {
    fn name(&self) -> &'static str {
        "quantized_dot"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (matrix, scales) = (&operands[1], &operands[2]);
        if matrix.dtype != DType::S8 {
            return Err(ShapeError::new(format!("the matrix is {}, not s8", matrix.dtype)));
        }
        let mut rows = Shape { dtype: DType::F32, axes: matrix.axes.clone() };
        rows.axes.retain(|(axis, _)| !self.contract.contains(axis));
        if *scales != rows {
            return Err(ShapeError::new(format!("the scales are {scales}, not {rows}")));
        }
        composite_shapes(operands, |x| vec![widened(&self.contract, x)])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let kernel = emitter.options().kernels.quantized;
        let key = format!("{self:?}{kernel:?}");
        emitter.composite(call, "quantized_dot", &key, |x| vec![lower(kernel, &self.contract, x)]);
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let kernels = evaluator.kernels();
        evaluate_composite(kernels, operands, |x| vec![lower(kernels.quantized, &self.contract, x)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::rule(|pullback| {
            let [left, matrix, scales] = pullback.operands[..] else { return Vec::new() };
            let Some(given) = pullback.cotangent() else { return vec![None; 3] };
            // As on the way forward; and else the compiler would keep what it widened there until here.
            let [matrix, given] = pullback.graph.optimization_barrier(&[matrix, given])[..] else {
                return vec![None; 3];
            };
            let rows = scales.shape().names();
            let wide = given.convert(DType::F32);
            let of_left = pullback.wanted[0].then(|| {
                (wide * scales).convert(left.dtype()).dot(matrix.convert(left.dtype()), &rows)
            });
            // ds = Σ dy (x · Q)
            let of_scales = pullback.wanted[2].then(|| {
                let product = left.dot(matrix.convert(left.dtype()), &self.contract);
                let terms = wide * product.convert(DType::F32);
                let summed: Vec<Axis> =
                    terms.shape().names().into_iter().filter(|axis| !rows.contains(axis)).collect();
                terms.sum(&summed)
            });
            vec![of_left, None, of_scales]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let x = Shape::new(DType::F32, &[("seq", 3), ("embed", 4)]);
    let matrix = Shape::new(DType::S8, &[("heads", 2), ("head_dim", 3), ("embed", 4)]);
    let scales = Shape::new(DType::F32, &[("heads", 2), ("head_dim", 3)]);
    let fills = |dtype: DType| {
        let typed = |shape: &Shape| Shape { dtype, ..shape.clone() };
        [
            (typed(&x), Fill::Uniform(-1.0, 1.0)),
            (matrix.clone(), Fill::Uniform(-127.0, 127.0)),
            (typed(&scales), Fill::Uniform(0.001, 0.01)),
        ]
    };
    vec![
        Sample::new("quantized_dot", &fills(DType::F32), |x| {
            vec![x[0].quantized_dot(x[1], x[2], &["embed"])]
        }),
        Sample::new("quantized_dot of bf16", &fills(DType::Bf16), |x| {
            vec![x[0].quantized_dot(x[1], x[2].convert(DType::F32), &["embed"])]
        }),
        Sample::error(
            "quantized_dot with scales of columns",
            &[x.clone(), matrix.clone(), Shape::new(DType::F32, &[("embed", 4)])],
            |x| vec![x[0].quantized_dot(x[1], x[2], &["embed"])],
            "quantized_dot: the scales are f32[embed 4], not f32[heads 2, head_dim 3]",
        ),
        Sample::error(
            "quantized_dot with a matrix of floats",
            &[x, Shape { dtype: DType::F32, ..matrix.clone() }, scales.clone()],
            |x| vec![x[0].quantized_dot(x[1], x[2], &["embed"])],
            "quantized_dot: the matrix is f32, not s8",
        ),
    ]
}
