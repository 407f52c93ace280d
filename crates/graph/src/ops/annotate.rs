//! Operations that compute nothing but tell the compiler something: the optimization barrier and
//! the sharding constraint.

use std::panic::Location;
use std::rc::Rc;

use crate::DType;
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;
use crate::sharding::Role;

#[derive(Debug)]
struct OptimizationBarrier;

#[derive(Debug)]
struct ShardingConstraint(Role);

impl Graph {
    /// The same tensors, but the compiler moves nothing across: recomputation stays recomputed.
    #[track_caller]
    pub fn optimization_barrier<'g>(&'g self, tensors: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let operation = Rc::new(OptimizationBarrier);
        self.apply_many(operation, tensors, tensors.len(), Location::caller())
    }
}

impl<'g> Tensor<'g> {
    /// Pins the tensor's layout over the mesh to what the sharding rules say for its axes. Without
    /// it the partitioner may decide to keep a whole activation on every chip.
    #[track_caller]
    pub fn constrain(self, role: Role) -> Tensor<'g> {
        self.graph().apply(ShardingConstraint(role), &[self])
    }
}

impl Operation for OptimizationBarrier {
    fn name(&self) -> &'static str {
        "optimization_barrier"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(operands.to_vec())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.optimization_barrier", "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        operands.to_vec()
    }

    fn derivative(&self) -> Derivative<'_> {
        // Each cotangent behind a barrier, all of them behind the same one.
        Derivative::rule(|pullback| {
            let given: Vec<Tensor<'_>> = pullback.cotangents.iter().copied().flatten().collect();
            let mut behind = pullback.graph.optimization_barrier(&given).into_iter();
            pullback.cotangents.iter().map(|g| g.and_then(|_| behind.next())).collect()
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for ShardingConstraint {
    fn name(&self) -> &'static str {
        "sharding_constraint"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![operands[0].clone()])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let options = emitter.options();
        if options.mesh.devices() == 1 {
            return emitter.alias(call);
        }
        let sharding = options.rules.resolve(self.0, &call.results[0].shape, &options.mesh);
        let attributes = format!("sharding = {}", sharding.sdy());
        emitter.statement(call, "sdy.sharding_constraint", &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        operands.to_vec()
    }

    fn derivative(&self) -> Derivative<'_> {
        // g under the same constraint: what is split going forward is split going back.
        let role = self.0;
        Derivative::of_one(move |_, g| g.constrain(role))
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let values = || (Shape::new(DType::F32, &[("batch", 2), ("embed", 4)]), Fill::Iota);
    vec![
        Sample::new("optimization_barrier", &[values(), values()], |x| {
            x[0].graph().optimization_barrier(x)
        }),
        Sample::new("sharding_constraint", &[values()], |x| {
            vec![x[0].constrain(Role::Activation) + 1.0]
        }),
    ]
}
