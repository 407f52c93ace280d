//! Runs one of two branches.

use std::panic::Location;
use std::rc::Rc;

use super::{join_captures, pick};
use crate::DType;
use crate::autodiff::{backward, forward, zeros_like};
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;

/// Operands: the condition, then the captures of both branches.
#[derive(Debug)]
struct If {
    branches: [RegionId; 2],
    captures: [Vec<usize>; 2],
    shapes: [Vec<Shape>; 2],
}

impl Graph {
    /// The results of `on_true` where the boolean scalar holds, else of `on_false`. Only the chosen
    /// branch runs.
    #[track_caller]
    pub fn conditional<'g>(
        &'g self,
        condition: Tensor<'g>,
        on_true: impl FnOnce() -> Vec<Tensor<'g>>,
        on_false: impl FnOnce() -> Vec<Tensor<'g>>,
    ) -> Vec<Tensor<'g>> {
        let (yes, results) = self.region(&[], |_| on_true());
        let (no, _) = self.region(&[], |_| on_false());
        let (captures, places) = join_captures(self, &[yes, no]);
        let operation = If {
            branches: [yes, no],
            captures: [places[0].clone(), places[1].clone()],
            shapes: [self.region_result_shapes(yes), self.region_result_shapes(no)],
        };
        let operands: Vec<Tensor<'g>> = [condition].into_iter().chain(captures).collect();
        self.apply_many(Rc::new(operation), &operands, results.len(), Location::caller())
    }
}

impl Operation for If {
    fn name(&self) -> &'static str {
        "if"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        if operands[0] != Shape::scalar(DType::Bool) {
            let message = format!("the condition is {}, not a boolean scalar", operands[0]);
            return Err(ShapeError::new(message));
        }
        if self.shapes[0] != self.shapes[1] {
            let list = |shapes: &[Shape]| {
                shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let (yes, no) = (list(&self.shapes[0]), list(&self.shapes[1]));
            return Err(ShapeError::new(format!("one branch returns ({yes}), the other ({no})")));
        }
        Ok(self.shapes[0].clone())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        // StableHLO's branches take no arguments: they name the values around them.
        let captured = &call.operands[1..];
        let region = |emitter: &mut Emitter<'_>, branch: usize| {
            emitter.block(&[], |emitter| {
                let arguments = pick(captured, &self.captures[branch]);
                let results = emitter.inline(self.branches[branch], &arguments);
                emitter.terminator("stablehlo.return", &results);
            })
        };
        let regions = [region(emitter, 0), region(emitter, 1)];
        emitter.full(call, &call.results, "stablehlo.if", &call.operands[..1], &regions, "");
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let branch = usize::from(operands[0].values[0] == 0.0);
        evaluator.region(self.branches[branch], &pick(&operands[1..], &self.captures[branch]))
    }

    fn derivative(&self) -> Derivative<'_> {
        // The branches' derivatives in the branches of another conditional. Each goes forward again:
        // what one branch would keep has no place in the other's results.
        Derivative::rule(|pullback| {
            let graph = pullback.graph;
            let captured = &pullback.operands[1..];
            let branch = |branch: usize| {
                let recorded = graph.recorded(self.branches[branch]);
                let places = &self.captures[branch];
                let wanted = pick(&pullback.wanted[1..], places);
                let own = pick(captured, places);
                let forward = forward(graph, &recorded, &own, &wanted, |_| None);
                let back = backward(graph, &forward, &own, pullback.cotangents);
                let of = |operand: usize| {
                    let place = places.iter().position(|&place| place == operand);
                    let cotangent = place.and_then(|place| back[place]);
                    let whole = captured[operand];
                    cotangent.map_or_else(
                        || zeros_like(whole),
                        |cotangent| cotangent.broadcast_to(&whole.shape().axes),
                    )
                };
                let wanted = (0..captured.len()).filter(|&place| pullback.wanted[place + 1]);
                wanted.map(of).collect::<Vec<_>>()
            };
            let mut results =
                graph.conditional(pullback.operands[0], || branch(0), || branch(1)).into_iter();
            let wanted = pullback.wanted.iter();
            wanted.map(|&wanted| if wanted { results.next() } else { None }).collect()
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        self.branches.to_vec()
    }
}

pub(super) fn samples() -> Vec<Sample> {
    let values = (Shape::new(DType::F32, &[("a", 4)]), Fill::Uniform(-1.0, 1.0));
    let flag = |value: f64| (Shape::scalar(DType::Bool), Fill::Uniform(value, value + 0.1));
    vec![
        Sample::new("conditional", &[flag(1.0), values.clone(), values.clone(), flag(0.0)], |x| {
            let graph = x[0].graph();
            let choose = |flag| graph.conditional(flag, || vec![x[1] + x[2]], || vec![x[2] * 2.0]);
            [choose(x[0]), choose(x[3])].concat()
        }),
        Sample::error(
            "conditional of two shapes",
            &[Shape::scalar(DType::Bool), values.0],
            |x| {
                let graph = x[0].graph();
                graph.conditional(x[0], || vec![x[1]], || vec![x[1].sum(&["a"])])
            },
            "if: one branch returns (f32[a 4]), the other (f32[])",
        ),
    ]
}
