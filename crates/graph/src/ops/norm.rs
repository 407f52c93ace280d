//! Root mean square normalization as one operation, for targets that have a function for it. Where
//! there is a way back, models write it out.

use crate::DType;
use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::ops::custom_call::native_call;
use crate::shape::{Axis, Shape};

/// Operands: the tensor, the weights of its last axis.
#[derive(Clone, Copy, Debug)]
struct RmsNorm {
    epsilon: f64,
}

impl<'g> Tensor<'g> {
    /// `self / sqrt(mean(self²) + epsilon) · weight` along the last axis (Zhang and Sennrich, "Root mean
    /// square layer normalization", 2019); both f32.
    #[track_caller]
    pub fn rms_norm(self, weight: Tensor<'g>, epsilon: f64) -> Tensor<'g> {
        self.graph().apply(RmsNorm { epsilon }, &[self, weight])
    }
}

impl RmsNorm {
    fn lower<'g>(self, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let names: Vec<Axis> = x[1].shape().names();
        let scale = ((x[0] * x[0]).mean(&names) + self.epsilon).rsqrt();
        vec![(x[0] * scale * x[1]).transpose(&x[0].shape().names())]
    }
}

impl Operation for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (x, weight) = (&operands[0], &operands[1]);
        if x.axes.last() != weight.axes.last() || weight.rank() != 1 {
            return Err(ShapeError::new(format!("{weight} are not weights of {x}'s last axis")));
        }
        if x.dtype != DType::F32 || weight.dtype != DType::F32 {
            return Err(ShapeError::new(format!("{x} and {weight} are not both f32")));
        }
        composite_shapes(operands, |x| self.lower(x))
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        if emitter.options().kernels.native {
            let config = format!("epsilon = {:.9e} : f32", self.epsilon as f32);
            return native_call(emitter, call, "fungible.rms_norm", &config, &[]);
        }
        emitter.composite(call, "rms_norm", &format!("{self:?}"), |x| self.lower(x));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| self.lower(x))
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("models write it out where there is a way back")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let x = Shape::new(DType::F32, &[("batch", 2), ("seq", 3), ("embed", 5)]);
    let weight = Shape::new(DType::F32, &[("embed", 5)]);
    let operands =
        [(x.clone(), Fill::Uniform(-2.0, 2.0)), (weight.clone(), Fill::Uniform(0.5, 1.5))];
    vec![
        Sample::new("rms_norm", &operands, |x| vec![x[0].rms_norm(x[1], 1e-5)]),
        Sample::error(
            "rms_norm along another axis",
            &[x, Shape::new(DType::F32, &[("seq", 3)])],
            |x| vec![x[0].rms_norm(x[1], 1e-5)],
            "rms_norm: f32[seq 3] are not weights of f32[batch 2, seq 3, embed 5]'s last axis",
        ),
    ]
}
