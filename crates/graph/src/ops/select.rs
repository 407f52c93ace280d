//! Choosing element by element: `select` by a condition, `clamp` between bounds.

use super::binary::merged_axes;
use crate::autodiff::zeros_like;
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;
use crate::{DType, ops};

#[derive(Debug)]
struct Select;

impl<'g> Tensor<'g> {
    /// `self` is the condition: elements of `on_true` where it holds, of `on_false` elsewhere. All
    /// three are broadcast by axis name; the result has the axes of `on_true` first.
    #[track_caller]
    pub fn select(self, on_true: Tensor<'g>, on_false: Tensor<'g>) -> Tensor<'g> {
        let shapes = (self.try_shape(), on_true.try_shape(), on_false.try_shape());
        let (Some(condition), Some(yes), Some(no)) = shapes else {
            return Tensor::poison(self.graph());
        };
        let axes = merged_axes(&yes, &no)
            .and_then(|axes| merged_axes(&Shape { dtype: yes.dtype, axes }, &condition));
        let operands = match axes {
            Some(axes) => [self, on_true, on_false].map(|tensor| tensor.broadcast_to(&axes)),
            None => [self, on_true, on_false],
        };
        self.graph().apply(Select, &operands)
    }

    /// The values limited to `low..=high`.
    #[track_caller]
    pub fn clamp(self, low: f64, high: f64) -> Tensor<'g> {
        let (graph, dtype) = (self.graph(), self.dtype());
        self.maximum(ops::constant(graph, dtype, low)).minimum(ops::constant(graph, dtype, high))
    }
}

impl Operation for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [condition, yes, no] = operands else {
            return Err(ShapeError::new("wants three operands"));
        };
        if condition.dtype != DType::Bool {
            let message = format!("the condition is {}, not bool", condition.dtype);
            return Err(ShapeError::new(message));
        }
        if yes.dtype != no.dtype {
            let message = format!("chooses between {} and {}; convert one", yes.dtype, no.dtype);
            return Err(ShapeError::new(message));
        }
        if yes.axes != no.axes || yes.axes != condition.axes {
            return Err(ShapeError::new(format!(
                "sizes disagree: condition {condition}, choices {yes} and {no}"
            )));
        }
        Ok(vec![yes.clone()])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.select", "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let choices = operands[1].values.iter().zip(&operands[2].values);
        let values = operands[0]
            .values
            .iter()
            .zip(choices)
            .map(|(&condition, (&yes, &no))| if condition != 0.0 { yes } else { no })
            .collect();
        vec![Literal { shape: operands[1].shape.clone(), values }]
    }

    fn derivative(&self) -> Derivative<'_> {
        // (none, g where the condition holds, g elsewhere)
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let (condition, zero) = (pullback.operands[0], zeros_like(g));
            let yes = pullback.wanted[1].then(|| condition.select(g, zero));
            let no = pullback.wanted[2].then(|| condition.select(zero, g));
            vec![None, yes, no]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let flags = (Shape::new(DType::Bool, &[("seq", 4)]), Fill::Uniform(0.0, 2.0));
    let values = (Shape::new(DType::F32, &[("batch", 2), ("seq", 4)]), Fill::Uniform(-2.0, 2.0));
    vec![
        Sample::new("select", &[flags.clone(), values.clone()], |x| {
            vec![
                x[0].select(x[1], -x[1]),
                x[0].select(x[1], ops::constant(x[1].graph(), DType::F32, -1e30)),
            ]
        }),
        Sample::new("clamp", std::slice::from_ref(&values), |x| vec![x[0].clamp(-1.0, 0.5)]),
        Sample::error(
            "select by numbers",
            &[values.0.clone(), values.0.clone()],
            |x| vec![x[0].select(x[1], x[1])],
            "select: the condition is f32, not bool",
        ),
    ]
}
