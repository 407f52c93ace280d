//! Elementwise operations of one operand. Each row of the table is one operation: name, domain,
//! definition, derivative, sample range.

use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;
use crate::{Axis, DType};

/// The element types that an elementwise operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Float,
    Number,
    /// Integers and booleans, bit by bit.
    Bits,
    Boolean,
    Any,
}

impl Domain {
    pub(crate) fn check(self, dtype: DType) -> Result<(), ShapeError> {
        let (ok, wanted) = match self {
            Domain::Float => (dtype.is_float(), "a floating-point type"),
            Domain::Number => (dtype != DType::Bool, "a number type"),
            Domain::Bits => (!dtype.is_float(), "an integer or boolean type"),
            Domain::Boolean => (dtype == DType::Bool, "booleans"),
            Domain::Any => (true, "any type"),
        };
        match ok {
            true => Ok(()),
            false => Err(ShapeError::new(format!("wants {wanted}, not {dtype}; convert first"))),
        }
    }
}

pub(crate) const SAMPLE_AXES: &[(Axis, usize)] = &[("rows", 3), ("columns", 5)];

/// One elementwise operation.
#[derive(Debug)]
pub(crate) struct Rule {
    name: &'static str,
    domain: Domain,
    value: fn(f64) -> f64,
    slope: Slope,
    sample: Fill,
    build: crate::operation::Build,
}

/// The operand's cotangent from the result's (`g`), the operand (`x`) and the result (`y`).
#[derive(Clone, Copy, Debug)]
enum Slope {
    Of(for<'g> fn(Tensor<'g>, Tensor<'g>, Tensor<'g>) -> Tensor<'g>),
    Zero(&'static str),
}

#[derive(Debug)]
struct Unary(&'static Rule);

macro_rules! unary {
    ($($(#[$doc:meta])* $method:ident $rule:ident: $name:literal, $domain:ident,
       $low:literal..$high:literal, $value:expr, $slope:expr;)*) => {
        $(static $rule: Rule = Rule {
            name: $name,
            domain: Domain::$domain,
            value: $value,
            slope: $slope,
            sample: Fill::Uniform($low, $high),
            build: |x| vec![x[0].$method()],
        };)*

        impl<'g> Tensor<'g> {
            $($(#[$doc])*
            #[track_caller]
            pub fn $method(self) -> Tensor<'g> {
                self.graph().apply(Unary(&$rule), &[self])
            })*
        }

        static RULES: &[&Rule] = &[$(&$rule),*];
    };
}

use Slope::{Of, Zero};

unary! {
    abs ABS: "abs", Number, -3.0..3.0, f64::abs, Of(|g, x, _| g * x.sign());
    negate NEGATE: "negate", Number, -3.0..3.0, |x| -x, Of(|g, _, _| -g);
    sign SIGN: "sign", Number, -3.0..3.0, |x| if x == 0.0 { 0.0 } else { x.signum() },
        Zero("piecewise constant");
    exponential EXPONENTIAL: "exponential", Float, -2.0..2.0, f64::exp, Of(|g, _, y| g * y);
    /// `exp(x) - 1`, exact near zero.
    exponential_minus_one EXPM1: "exponential_minus_one", Float, -1.0..1.0, f64::exp_m1,
        Of(|g, _, y| g * (y + 1.0));
    log LOG: "log", Float, 0.1..4.0, f64::ln, Of(|g, x, _| g / x);
    /// `log(1 + x)`, exact near zero.
    log_plus_one LOG1P: "log_plus_one", Float, -0.5..2.0, f64::ln_1p, Of(|g, x, _| g / (1.0 + x));
    /// `1 / (1 + exp(-x))`.
    logistic LOGISTIC: "logistic", Float, -4.0..4.0, |x| 1.0 / (1.0 + (-x).exp()), Of(|g, _, y| g * y * (1.0 - y));
    tanh TANH: "tanh", Float, -2.0..2.0, f64::tanh, Of(|g, _, y| g * (1.0 - y * y));
    sine SINE: "sine", Float, -3.0..3.0, f64::sin, Of(|g, x, _| g * x.cosine());
    cosine COSINE: "cosine", Float, -3.0..3.0, f64::cos, Of(|g, x, _| -g * x.sine());
    sqrt SQRT: "sqrt", Float, 0.1..4.0, f64::sqrt, Of(|g, _, y| g / (2.0 * y));
    /// `1 / sqrt(x)`.
    rsqrt RSQRT: "rsqrt", Float, 0.1..4.0, |x| 1.0 / x.sqrt(), Of(|g, _, y| g * y * y * y * -0.5);
    floor FLOOR: "floor", Float, -3.0..3.0, f64::floor, Zero("piecewise constant");
    ceil CEIL: "ceil", Float, -3.0..3.0, f64::ceil, Zero("piecewise constant");
    round_nearest_even ROUND: "round_nearest_even", Float, -3.0..3.0, f64::round_ties_even,
        Zero("piecewise constant");
    /// Whether the value is neither infinite nor NaN; the result is `bool`.
    is_finite IS_FINITE: "is_finite", Float, -3.0..3.0, |x| f64::from(x.is_finite()),
        Zero("boolean result");
    /// Logical not of a boolean tensor.
    logical_not NOT: "not", Boolean, 0.0..2.0, |x| 1.0 - x, Zero("boolean operand");
}

impl<'g> Tensor<'g> {
    /// `x · sigmoid(x)` (Swish, <https://arxiv.org/abs/1702.03118>).
    #[track_caller]
    pub fn silu(self) -> Tensor<'g> {
        self * self.logistic()
    }
}

impl Unary {
    fn result_type(&self, operand: DType) -> DType {
        match self.0.name {
            "is_finite" => DType::Bool,
            _ => operand,
        }
    }
}

impl Operation for Unary {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        self.0.domain.check(operands[0].dtype)?;
        Ok(vec![operands[0].with_dtype(self.result_type(operands[0].dtype))])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, &format!("stablehlo.{}", self.0.name), "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = &operands[0].shape;
        let values = operands[0].values.iter().map(|&value| (self.0.value)(value)).collect();
        vec![Literal::new(shape.with_dtype(self.result_type(shape.dtype)), values)]
    }

    fn derivative(&self) -> Derivative<'_> {
        match self.0.slope {
            Slope::Of(slope) => Derivative::of_one(move |pullback, g| {
                slope(g, pullback.operands[0], pullback.results[0])
            }),
            Slope::Zero(reason) => Derivative::Zero(reason),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let sample = |rule: &&'static Rule| {
        let dtype = if rule.domain == Domain::Boolean { DType::Bool } else { DType::F32 };
        Sample::new(rule.name, &[(Shape::new(dtype, SAMPLE_AXES), rule.sample)], rule.build)
    };
    let mut samples: Vec<Sample> = RULES.iter().map(sample).collect();
    samples.push(Sample::error(
        "exponential of integers",
        &[Shape::new(DType::S32, SAMPLE_AXES)],
        |x| vec![x[0].exponential()],
        "exponential: wants a floating-point type, not s32; convert first",
    ));
    samples
}
