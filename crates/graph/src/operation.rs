//! What an operation is: its shape rule, its StableHLO text, its reference result, its derivative
//! and its samples, all in one block of one file under `ops/`. The trait has no default methods, so
//! that a forgotten rule is a compile error.

use std::fmt::Debug;
use std::rc::Rc;

use crate::emit::{Call, Emitter};
use crate::error::{ShapeError, TraceError};
use crate::evaluate::Evaluator;
use crate::graph::{Function, Graph, NamedResult, RegionId, Tensor, output};
use crate::literal::Literal;
use crate::shape::Shape;
use crate::sharding::Role;
use crate::{DType, ops};

pub trait Operation: Debug {
    /// StableHLO's name without the dialect where it has one (`dot_general`), else ours.
    fn name(&self) -> &'static str;

    /// The shape rule: shapes of the results, or why the operands do not fit.
    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError>;

    /// Writes the operation's StableHLO in generic form.
    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call);

    /// The result by definition, element by element in f64 and rounded to the element type at the
    /// end: slow, and the reference for every plugin.
    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal>;

    /// How cotangents pass back through it ([`crate::autodiff`]).
    fn derivative(&self) -> Derivative<'_>;

    /// The nested regions (loop bodies, branches), in order.
    fn regions(&self) -> Vec<RegionId>;
}

/// The cotangents of an operation's operands; `None` where nothing flows back.
pub type Cotangents<'g> = Vec<Option<Tensor<'g>>>;

type Rule<'a> = dyn for<'g> Fn(&Pullback<'_, 'g>) -> Cotangents<'g> + 'a;
type Extend<'a> =
    dyn for<'g> Fn(&'g Graph, &[Tensor<'g>], &[bool]) -> Option<Rc<dyn Operation>> + 'a;

/// How a cotangent passes back through an operation.
pub enum Derivative<'a> {
    /// The cotangents of the operands.
    Rule(Box<Rule<'a>>),
    /// Where it will be differentiated, another operation takes its place: one with the same results
    /// first, followed by what its own rule then needs. It is told the operands and which of them
    /// have cotangents.
    Extended(Box<Extend<'a>>),
    /// Zero wherever it is defined: the results are steps, or discrete. Says why.
    Zero(&'static str),
    /// Asking for it is an error. Says why.
    None(&'static str),
}

impl<'a> Derivative<'a> {
    pub fn rule(rule: impl for<'g> Fn(&Pullback<'_, 'g>) -> Cotangents<'g> + 'a) -> Derivative<'a> {
        Derivative::Rule(Box::new(rule))
    }

    /// The rule of an operation with one operand and one result.
    pub fn of_one(
        rule: impl for<'g> Fn(&Pullback<'_, 'g>, Tensor<'g>) -> Tensor<'g> + 'a,
    ) -> Derivative<'a> {
        Derivative::rule(move |pullback| vec![pullback.cotangent().map(|g| rule(pullback, g))])
    }

    pub fn extended(
        extend: impl for<'g> Fn(&'g Graph, &[Tensor<'g>], &[bool]) -> Option<Rc<dyn Operation>> + 'a,
    ) -> Derivative<'a> {
        Derivative::Extended(Box::new(extend))
    }
}

/// What a rule may use: one application of the operation and the cotangents of its results.
///
/// A rule may return cotangents with their axes in another order, or without axes along which they
/// are all equal.
pub struct Pullback<'a, 'g> {
    pub graph: &'g Graph,
    pub operands: &'a [Tensor<'g>],
    pub results: &'a [Tensor<'g>],
    /// One per result; at least one is there.
    pub cotangents: &'a [Option<Tensor<'g>>],
    /// Which operands' cotangents are of use; others may be left out.
    pub wanted: &'a [bool],
}

impl<'g> Pullback<'_, 'g> {
    /// The cotangent of the first result.
    pub fn cotangent(&self) -> Option<Tensor<'g>> {
        self.cotangents.first().copied().flatten()
    }
}

/// Builds the results of a sample from its operands.
pub type Build = for<'g> fn(&[Tensor<'g>]) -> Vec<Tensor<'g>>;

/// How the operands of a sample are filled.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Pseudo-random values in `low..high`, truncated for integer types.
    Uniform(f64, f64),
    /// 0, 1, 2, … in memory order.
    Iota,
}

/// A use of an operation that tests are derived from: golden text, the result on every plugin
/// against [`Operation::evaluate`], and (for a misuse) the error message.
pub struct Sample {
    pub name: &'static str,
    pub operands: Vec<(Shape, Fill)>,
    pub build: Build,
    /// The message that the trace must end with; `None` for a correct use.
    pub error: Option<&'static str>,
}

impl Sample {
    pub fn new(name: &'static str, operands: &[(Shape, Fill)], build: Build) -> Sample {
        Sample { name, operands: operands.to_vec(), build, error: None }
    }

    /// The sample as a function of its operands.
    ///
    /// # Errors
    /// What is wrong with it, if it is a misuse.
    pub fn trace(&self) -> Result<Function, TraceError> {
        let graph = Graph::new();
        let results = (self.build)(&self.inputs(&graph));
        graph.finish(named(&results))
    }

    /// A function of the same operands: a weighted sum of the sample's floating-point results.
    ///
    /// # Errors
    /// As [`Sample::trace`].
    pub fn trace_value(&self) -> Result<Function, TraceError> {
        let graph = Graph::new();
        let value = self.value(&graph, &self.inputs(&graph));
        graph.finish(named(&[value]))
    }

    /// The value of [`Sample::trace_value`], and its gradients with respect to the operands in f32, for
    /// which it also says their places.
    ///
    /// # Errors
    /// An operation that has no derivative.
    pub fn trace_gradients(&self) -> Result<(Function, Vec<usize>), TraceError> {
        let graph = Graph::new();
        let inputs = self.inputs(&graph);
        let is_variable = |place: &usize| inputs[*place].dtype() == DType::F32;
        let places: Vec<usize> = (0..inputs.len()).filter(is_variable).collect();
        let (value, gradients) = graph.value_and_gradients(
            || vec![self.value(&graph, &inputs)],
            || places.iter().map(|&place| inputs[place]).collect(),
        );
        let results: Vec<Tensor<'_>> = value.into_iter().chain(gradients).collect();
        Ok((graph.finish(named(&results))?, places))
    }

    fn value<'g>(&self, graph: &'g Graph, inputs: &[Tensor<'g>]) -> Tensor<'g> {
        let results = (self.build)(inputs).into_iter();
        let floats = results.filter(|result| result.dtype().is_float());
        let zero = ops::constant(graph, DType::F32, 0.0);
        (1..).zip(floats).fold(zero, weighted_sum)
    }

    fn inputs<'g>(&self, graph: &'g Graph) -> Vec<Tensor<'g>> {
        let operands = self.operands.iter().enumerate();
        operands
            .map(|(place, (shape, _))| {
                graph.input(&format!("x{place}"), Role::Activation, shape.clone())
            })
            .collect()
    }

    /// Values for the operands.
    pub fn arguments(&self) -> Vec<Literal> {
        let filled = |(seed, (shape, fill)): (u64, &(Shape, Fill))| {
            Literal::filled(shape.clone(), *fill, seed)
        };
        (1..).zip(&self.operands).map(filled).collect()
    }

    /// A misuse, with the beginning of its error message.
    pub fn error(
        name: &'static str,
        operands: &[Shape],
        build: Build,
        message: &'static str,
    ) -> Sample {
        let operands = operands.iter().map(|s| (s.clone(), Fill::Iota)).collect();
        Sample { name, operands, build, error: Some(message) }
    }
}

/// `sum` and the result's elements, each with a weight of its own.
fn weighted_sum<'g>(sum: Tensor<'g>, (seed, result): (u64, Tensor<'g>)) -> Tensor<'g> {
    let shape = result.shape().with_dtype(DType::F32);
    let weights = Literal::filled(shape.clone(), Fill::Uniform(0.5, 1.5), 100 + seed);
    let product = result.convert(DType::F32) * ops::literal(result.graph(), weights);
    sum + product.sum(&shape.names())
}

fn named<'g>(results: &[Tensor<'g>]) -> Vec<NamedResult<'g>> {
    let results = results.iter().enumerate();
    results.map(|(place, &tensor)| output(&format!("y{place}"), tensor)).collect()
}
