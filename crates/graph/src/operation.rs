//! What an operation is: its shape rule, its StableHLO text, its reference result, its derivative
//! and its samples, all in one block of one file under `ops/`. The trait has no default methods, so
//! that a forgotten rule is a compile error.

use std::fmt::Debug;

use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::shape::Shape;

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

    /// The reverse-mode rule, or an explicit reason why there is none.
    fn derivative(&self) -> Derivative;

    /// The nested regions (loop bodies, branches), in order.
    fn regions(&self) -> Vec<RegionId>;
}

/// How a cotangent passes back through an operation.
///
/// Reverse mode itself comes with training; until then the rule is its formula, so that each
/// operation already answers the question, and turning `Formula` into a function is local to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// The cotangents of the operands, given the cotangent `g` of the result.
    Formula(&'static str),
    /// The result does not depend differentiably on the operands.
    None(&'static str),
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
