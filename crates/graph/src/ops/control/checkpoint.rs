//! Parts of a program that are done again on the way back instead of being remembered ("Training deep
//! nets with sublinear memory cost", Chen et al., 2016).

use std::panic::Location;
use std::rc::Rc;

use crate::DType;
use crate::autodiff::{backward, forward};
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Cotangents, Derivative, Fill, Operation, Pullback, Sample};
use crate::shape::Shape;

/// What is kept of a part of the program for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remat {
    /// Everything that its derivative needs.
    None,
    /// The results of its products, attention among them; the rest is done again.
    Dots,
    /// What goes in, and the results of attention, which are no larger and the costliest to make;
    /// the rest is done again.
    Full,
}

impl Remat {
    /// The operations whose results are kept.
    fn kept(self) -> &'static [&'static str] {
        match self {
            Remat::None => &[],
            Remat::Dots => &["dot_general", "attention", "grouped_dot", "quantized_dot"],
            Remat::Full => &["attention"],
        }
    }
}

/// Operands: what goes in, then the captures. Results: the body's, then what is kept.
#[derive(Debug)]
struct Checkpoint {
    remat: Remat,
    inputs: usize,
    body: RegionId,
    shapes: Vec<Shape>,
    /// For a body that also returns what is kept: the body as it was, and where in it each of those
    /// comes from (operation, result).
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    body: RegionId,
    places: Vec<(usize, usize)>,
}

impl Graph {
    /// Traces `body` on `inputs`; what differentiation keeps of it is up to `remat`. What the body
    /// captures (weights) is kept in any case.
    #[track_caller]
    pub fn checkpoint<'g>(
        &'g self,
        remat: Remat,
        inputs: &[Tensor<'g>],
        body: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> Vec<Tensor<'g>> {
        if remat == Remat::None {
            return body(inputs);
        }
        let shapes: Vec<Shape> = inputs.iter().filter_map(|tensor| tensor.try_shape()).collect();
        if shapes.len() != inputs.len() {
            return body(inputs);
        }
        let (region, results) = self.region(&shapes, body);
        let shapes = self.region_result_shapes(region);
        let operation =
            Checkpoint { remat, inputs: inputs.len(), body: region, shapes, kept: None };
        let operands: Vec<Tensor<'g>> =
            inputs.iter().copied().chain(self.captures(region)).collect();
        self.apply_many(Rc::new(operation), &operands, results.len(), Location::caller())
    }
}

impl Checkpoint {
    /// The same with what is kept as further results.
    fn keeping<'g>(
        &self,
        graph: &'g Graph,
        operands: &[Tensor<'g>],
        active: &[bool],
    ) -> Option<Rc<dyn Operation>> {
        let body = graph.recorded(self.body);
        let shapes: Vec<Shape> = operands.iter().filter_map(|tensor| tensor.try_shape()).collect();
        if shapes.len() != operands.len() {
            return None;
        }
        let mut places = Vec::new();
        // Forward as it will be differentiated, so that what attention keeps is kept too.
        let (region, _) = graph.region(&shapes, |parameters| {
            let forward = forward(graph, &body, parameters, active, |_| None);
            let mut results = forward.results.clone();
            for (node, kept) in forward.kept(self.remat.kept()) {
                for (place, tensor) in kept.into_iter().enumerate() {
                    places.push((node, place));
                    results.push(tensor);
                }
            }
            results
        });
        let shapes = graph.region_result_shapes(region);
        let kept = Some(Kept { body: self.body, places });
        let (remat, inputs) = (self.remat, self.inputs);
        Some(Rc::new(Checkpoint { remat, inputs, body: region, shapes, kept }))
    }

    fn pull<'g>(&self, kept: &Kept, pullback: &Pullback<'_, 'g>) -> Cotangents<'g> {
        let graph = pullback.graph;
        let Kept { body, places } = kept;
        let own = pullback.results.len() - places.len();
        // Without a barrier the compiler finds that all of this has been computed before and keeps
        // it. One in front of what goes in is enough: everything of weight depends on that.
        let (inputs, captured) = pullback.operands.split_at(self.inputs);
        let behind: Vec<Tensor<'g>> =
            inputs.iter().chain(&pullback.results[own..]).copied().collect();
        let behind = graph.optimization_barrier(&behind);
        let (inputs, kept) = behind.split_at(inputs.len());
        let arguments: Vec<Tensor<'g>> = inputs.iter().chain(captured).copied().collect();
        let recorded = graph.recorded(*body);
        let forward = forward(graph, &recorded, &arguments, pullback.wanted, |node| {
            let of = places.iter().zip(kept).filter(|((from, _), _)| *from == node);
            let results: Vec<Tensor<'g>> = of.map(|(_, &tensor)| tensor).collect();
            (!results.is_empty()).then_some(results)
        });
        backward(graph, &forward, &arguments, &pullback.cotangents[..own])
    }
}

impl Operation for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn infer(&self, _: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(self.shapes.clone())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let results = emitter.inline(self.body, &call.operands);
        emitter.name_results(call, &results);
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluator.region(self.body, operands)
    }

    fn derivative(&self) -> Derivative<'_> {
        match &self.kept {
            None => Derivative::extended(|graph, operands, active| {
                self.keeping(graph, operands, active)
            }),
            Some(kept) => Derivative::rule(|pullback| self.pull(kept, pullback)),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        vec![self.body]
    }
}

pub(super) fn samples() -> Vec<Sample> {
    let x = (Shape::new(DType::F32, &[("seq", 3), ("embed", 4)]), Fill::Uniform(-1.0, 1.0));
    let weight = (Shape::new(DType::F32, &[("out", 4), ("embed", 4)]), Fill::Uniform(-1.0, 1.0));
    fn layer<'g>(remat: Remat, input: Tensor<'g>, weight: Tensor<'g>) -> Tensor<'g> {
        let results = input.graph().checkpoint(remat, &[input], |inputs| {
            let mixed = inputs[0].dot(weight, &["embed"]).rename("out", "embed").tanh();
            vec![inputs[0] + mixed * mixed.dot(weight, &["embed"]).rename("out", "embed")]
        });
        results[0]
    }
    vec![Sample::new("checkpoint", &[x, weight], |x| {
        vec![layer(Remat::Dots, layer(Remat::Full, x[0], x[1]), x[1])]
    })]
}
