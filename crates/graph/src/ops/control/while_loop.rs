//! A loop that runs while a condition on its state holds.

use std::panic::Location;
use std::rc::Rc;

use super::{join_captures, pick};
use crate::emit::{Call, Emitter, Ssa};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;
use crate::{DType, ops};

/// Operands: the initial state, then the captures of both regions.
#[derive(Debug)]
struct While {
    condition: RegionId,
    body: RegionId,
    state: usize,
    /// Where each region's captures stand among the captured operands.
    condition_captures: Vec<usize>,
    body_captures: Vec<usize>,
    condition_shapes: Vec<Shape>,
    body_shapes: Vec<Shape>,
}

impl Graph {
    /// Repeats `body` on the state while `condition` (a boolean scalar) holds; returns the last
    /// state. Both may use tensors from outside.
    #[track_caller]
    pub fn while_loop<'g>(
        &'g self,
        initial: &[Tensor<'g>],
        condition: impl FnOnce(&[Tensor<'g>]) -> Tensor<'g>,
        body: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> Vec<Tensor<'g>> {
        let shapes: Vec<Shape> = initial.iter().filter_map(|tensor| tensor.try_shape()).collect();
        if shapes.len() != initial.len() {
            return vec![Tensor::poison(self); initial.len()];
        }
        let (condition, _) = self.region(&shapes, |state| vec![condition(state)]);
        let (body, _) = self.region(&shapes, body);
        let (captures, places) = join_captures(self, &[condition, body]);
        let operation = While {
            condition,
            body,
            state: shapes.len(),
            condition_captures: places[0].clone(),
            body_captures: places[1].clone(),
            condition_shapes: self.region_result_shapes(condition),
            body_shapes: self.region_result_shapes(body),
        };
        let operands: Vec<Tensor<'g>> = initial.iter().copied().chain(captures).collect();
        self.apply_many(Rc::new(operation), &operands, shapes.len(), Location::caller())
    }
}

impl Operation for While {
    fn name(&self) -> &'static str {
        "while"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let state = &operands[..self.state];
        if self.condition_shapes != [Shape::scalar(DType::Bool)] {
            return Err(ShapeError::new("the condition is not a boolean scalar"));
        }
        if self.body_shapes != state {
            let list = |shapes: &[Shape]| {
                shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            return Err(ShapeError::new(format!(
                "the body turns ({}) into ({}); the state must keep its shapes",
                list(state),
                list(&self.body_shapes)
            )));
        }
        Ok(state.to_vec())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        // Captures travel as loop state that never changes; the compiler hoists them again.
        let arguments = |emitter: &mut Emitter<'_>| -> Vec<Ssa> {
            call.operands.iter().map(|operand| emitter.temporary(operand.shape.clone())).collect()
        };
        let inside = |arguments: &[Ssa], captures: &[usize]| -> Vec<Ssa> {
            let (state, captured) = arguments.split_at(self.state);
            state.iter().cloned().chain(pick(captured, captures)).collect()
        };
        let outer = arguments(emitter);
        let condition = emitter.block(&outer, |emitter| {
            let results = emitter.inline(self.condition, &inside(&outer, &self.condition_captures));
            emitter.terminator("stablehlo.return", &results);
        });
        let outer = arguments(emitter);
        let body = emitter.block(&outer, |emitter| {
            let mut results = emitter.inline(self.body, &inside(&outer, &self.body_captures));
            results.extend(outer[self.state..].iter().cloned());
            emitter.terminator("stablehlo.return", &results);
        });
        let mut results = call.results.clone();
        for captured in &call.operands[self.state..] {
            results.push(emitter.temporary(captured.shape.clone()));
        }
        emitter.full(call, &results, "stablehlo.while", &call.operands, &[condition, body], "");
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let (initial, captured) = operands.split_at(self.state);
        let mut state = initial.to_vec();
        let with = |state: &[Literal], captures: &[usize]| -> Vec<Literal> {
            state.iter().cloned().chain(pick(captured, captures)).collect()
        };
        while evaluator.region(self.condition, &with(&state, &self.condition_captures))[0].values[0]
            != 0.0
        {
            state = evaluator.region(self.body, &with(&state, &self.body_captures));
        }
        state
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("the number of steps is not known beforehand; use scan")
    }

    fn regions(&self) -> Vec<RegionId> {
        vec![self.condition, self.body]
    }
}

pub(super) fn samples() -> Vec<Sample> {
    let values = (Shape::new(DType::F32, &[("a", 4)]), Fill::Uniform(0.5, 1.0));
    vec![
        Sample::new("while doubles until a sum is reached", std::slice::from_ref(&values), |x| {
            let graph = x[0].graph();
            let count = ops::constant(graph, DType::S32, 0.0);
            graph.while_loop(
                &[count, x[0]],
                |state| state[1].sum(&["a"]).less(ops::constant(graph, DType::F32, 40.0)),
                |state| vec![state[0] + 1.0, state[1] + x[0]],
            )
        }),
        Sample::error(
            "while that changes a shape",
            &[values.0],
            |x| {
                let graph = x[0].graph();
                let always = |_: &[_]| ops::constant(graph, DType::Bool, 1.0);
                graph.while_loop(&[x[0]], always, |state| vec![state[0].sum(&["a"])])
            },
            "while: the body turns (f32[a 4]) into (f32[]); the state must keep its shapes",
        ),
    ]
}
