//! Elementwise operations of two operands, aligned and broadcast by axis name: an axis that one
//! operand lacks is repeated. The result has the left operand's axes, then the right's others.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::unary::{Domain, SAMPLE_AXES};
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Build, Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

#[derive(Debug)]
struct Rule {
    name: &'static str,
    /// The comparison direction, for `compare`.
    direction: &'static str,
    domain: Domain,
    value: fn(f64, f64) -> f64,
    slopes: Slopes,
    sample: (DType, Fill),
    build: Build,
}

/// The operands' cotangents from the result's (`g`), the operands (`a`, `b`) and the result (`y`).
#[derive(Clone, Copy, Debug)]
enum Slopes {
    Of(Slope, Slope),
    Zero(&'static str),
}

type Slope = for<'g> fn(Tensor<'g>, Tensor<'g>, Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

#[derive(Debug)]
struct Binary(&'static Rule);

macro_rules! binary {
    ($($(#[$doc:meta])* $method:ident $rule:ident: $name:literal $direction:literal, $domain:ident,
       $dtype:ident $low:literal..$high:literal, $value:expr, $slopes:expr;)*) => {
        $(static $rule: Rule = Rule {
            name: $name,
            direction: $direction,
            domain: Domain::$domain,
            value: $value,
            slopes: $slopes,
            sample: (DType::$dtype, Fill::Uniform($low, $high)),
            build: |x| vec![x[0].$method(x[1])],
        };)*

        impl<'g> Tensor<'g> {
            $($(#[$doc])*
            #[track_caller]
            pub fn $method(self, rhs: Tensor<'g>) -> Tensor<'g> {
                self.binary(&$rule, rhs)
            })*
        }

        static RULES: &[&Rule] = &[$(&$rule),*];
    };
}

use Slopes::{Of, Zero};

binary! {
    plus ADD: "add" "", Number, F32 -2.0..2.0, |a, b| a + b, Of(|g, _, _, _| g, |g, _, _, _| g);
    minus SUBTRACT: "subtract" "", Number, F32 -2.0..2.0, |a, b| a - b, Of(|g, _, _, _| g, |g, _, _, _| -g);
    times MULTIPLY: "multiply" "", Number, F32 -2.0..2.0, |a, b| a * b,
        Of(|g, _, b, _| g * b, |g, a, _, _| g * a);
    divide DIVIDE: "divide" "", Number, F32 0.5..2.0, |a, b| a / b,
        Of(|g, _, b, _| g / b, |g, _, b, y| -g * y / b);
    maximum MAXIMUM: "maximum" "", Any, F32 -2.0..2.0, f64::max,
        Of(|g, a, b, _| larger(g, a, b), |g, a, b, _| larger(g, b, a));
    minimum MINIMUM: "minimum" "", Any, F32 -2.0..2.0, f64::min,
        Of(|g, a, b, _| larger(g, b, a), |g, a, b, _| larger(g, a, b));
    power POWER: "power" "", Float, F32 0.5..2.0, f64::powf,
        Of(|g, a, b, _| g * b * a.power(b - 1.0), |g, a, _, y| g * y * a.log());
    /// The remainder with the dividend's sign.
    remainder REMAINDER: "remainder" "", Number, F32 0.5..7.0, |a, b| a % b,
        Of(|g, _, _, _| g, |g, a, b, _| -g * truncated(a / b));
    and AND: "and" "", Bits, U32 0.0..255.0, |a, b| (a as i64 & b as i64) as f64, Zero("discrete operands");
    or OR: "or" "", Bits, U32 0.0..255.0, |a, b| (a as i64 | b as i64) as f64, Zero("discrete operands");
    xor XOR: "xor" "", Bits, U32 0.0..255.0, |a, b| (a as i64 ^ b as i64) as f64, Zero("discrete operands");
    shift_left SHIFT_LEFT: "shift_left" "", Bits, U32 0.0..31.0,
        |a, b| ((a as u64) << (b as u32)) as f64, Zero("discrete operands");
    shift_right_logical SHIFT_RIGHT: "shift_right_logical" "", Bits, U32 0.0..31.0,
        |a, b| ((a as u64) >> (b as u32)) as f64, Zero("discrete operands");
    equal EQUAL: "compare" "EQ", Any, S32 0.0..3.0, |a, b| f64::from(a == b), Zero("boolean result");
    not_equal NOT_EQUAL: "compare" "NE", Any, S32 0.0..3.0, |a, b| f64::from(a != b), Zero("boolean result");
    less LESS: "compare" "LT", Any, F32 -2.0..2.0, |a, b| f64::from(a < b), Zero("boolean result");
    less_equal LESS_EQUAL: "compare" "LE", Any, S32 0.0..3.0, |a, b| f64::from(a <= b), Zero("boolean result");
    greater GREATER: "compare" "GT", Any, U32 0.0..9.0, |a, b| f64::from(a > b), Zero("boolean result");
    greater_equal GREATER_EQUAL: "compare" "GE", Any, S32 0.0..3.0, |a, b| f64::from(a >= b), Zero("boolean result");
}

/// `g` where `a` is the greater one, half of it where they are equal.
fn larger<'g>(g: Tensor<'g>, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
    let zero = ops::constant(g.graph(), g.dtype(), 0.0);
    a.equal(b).select(g * 0.5, a.greater(b).select(g, zero))
}

fn truncated(x: Tensor<'_>) -> Tensor<'_> {
    x.sign() * x.abs().floor()
}

impl<'g> Tensor<'g> {
    #[track_caller]
    fn binary(self, rule: &'static Rule, rhs: Tensor<'g>) -> Tensor<'g> {
        let (Some(left), Some(right)) = (self.try_shape(), rhs.try_shape()) else {
            return Tensor::poison(self.graph());
        };
        // Operands that do not fit go to the shape rule as they are, for its message.
        let Some(axes) = merged_axes(&left, &right) else {
            return self.graph().apply(Binary(rule), &[self, rhs]);
        };
        let (lhs, rhs) = (self.broadcast_to(&axes), rhs.broadcast_to(&axes));
        self.graph().apply(Binary(rule), &[lhs, rhs])
    }
}

/// The union of the axes in order; `None` where one axis has two sizes.
pub(crate) fn merged_axes(left: &Shape, right: &Shape) -> Option<Vec<(Axis, usize)>> {
    let mut axes = left.axes.clone();
    for &(axis, size) in &right.axes {
        match left.size(axis) {
            None => axes.push((axis, size)),
            Some(other) if other == size => {}
            Some(_) => return None,
        }
    }
    Some(axes)
}

/// The first axis on which two shapes disagree, as a sentence.
pub(crate) fn disagreement(left: &Shape, right: &Shape) -> Option<String> {
    left.axes.iter().find_map(|&(axis, size)| {
        let other = right.size(axis)?;
        (other != size)
            .then(|| format!("axis `{axis}` is {size} on the left, {other} on the right"))
    })
}

impl Operation for Binary {
    fn name(&self) -> &'static str {
        self.0.name
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (left, right) = (&operands[0], &operands[1]);
        if let Some(message) = disagreement(left, right) {
            return Err(ShapeError::new(message));
        }
        if left.dtype != right.dtype {
            let message =
                format!("{} on the left, {} on the right; convert one", left.dtype, right.dtype);
            return Err(ShapeError::new(message));
        }
        self.0.domain.check(left.dtype)?;
        let dtype = if self.0.name == "compare" { DType::Bool } else { left.dtype };
        Ok(vec![left.with_dtype(dtype)])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let attributes = match self.0.direction {
            "" => String::new(),
            direction => {
                let dtype = call.operands[0].shape.dtype;
                let kind = match dtype {
                    _ if dtype.is_float() => "FLOAT",
                    _ if dtype.is_unsigned() || dtype == DType::Bool => "UNSIGNED",
                    _ => "SIGNED",
                };
                format!(
                    "compare_type = #stablehlo<comparison_type {kind}>, \
                     comparison_direction = #stablehlo<comparison_direction {direction}>"
                )
            }
        };
        emitter.statement(call, &format!("stablehlo.{}", self.0.name), &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = &operands[0].shape;
        let pairs = operands[0].values.iter().zip(&operands[1].values);
        let value = |a: f64, b: f64| match shape.dtype {
            // Integer division drops the remainder; products and shifts wrap around before they
            // could lose low bits in an f64.
            dtype if dtype.is_integer() => match self.0.name {
                "divide" => (a / b).trunc(),
                "multiply" => wrap(dtype, a as i128 * b as i128),
                "shift_left" => wrap(dtype, (a as i128) << (b as u32)),
                _ => (self.0.value)(a, b),
            },
            _ => (self.0.value)(a, b),
        };
        let dtype = if self.0.name == "compare" { DType::Bool } else { shape.dtype };
        let values = pairs.map(|(&a, &b)| value(a, b)).collect();
        vec![Literal::new(shape.with_dtype(dtype), values)]
    }

    fn derivative(&self) -> Derivative<'_> {
        match self.0.slopes {
            Slopes::Of(left, right) => Derivative::rule(move |pullback| {
                let Some(g) = pullback.cotangent() else { return Vec::new() };
                let (a, b) = (pullback.operands[0], pullback.operands[1]);
                let y = pullback.results[0];
                let of = |slope: Slope, wanted: bool| wanted.then(|| slope(g, a, b, y));
                vec![of(left, pullback.wanted[0]), of(right, pullback.wanted[1])]
            }),
            Slopes::Zero(reason) => Derivative::Zero(reason),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// The value modulo the type's width, as the low 32 bits (wider types stay as they are).
fn wrap(dtype: DType, value: i128) -> f64 {
    match dtype.bytes() {
        8 => value as f64,
        _ => f64::from(value as u32),
    }
}

macro_rules! operator {
    ($trait:ident $function:ident $method:ident) => {
        impl<'g> $trait for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $function(self, rhs: Tensor<'g>) -> Tensor<'g> {
                self.$method(rhs)
            }
        }

        /// The number takes the tensor's element type.
        impl<'g> $trait<f64> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $function(self, rhs: f64) -> Tensor<'g> {
                self.$method(ops::constant(self.graph(), self.dtype(), rhs))
            }
        }

        impl<'g> $trait<Tensor<'g>> for f64 {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $function(self, rhs: Tensor<'g>) -> Tensor<'g> {
                let lhs = ops::constant(rhs.graph(), rhs.dtype(), self);
                lhs.$method(rhs)
            }
        }
    };
}
operator!(Add add plus);
operator!(Sub sub minus);
operator!(Mul mul times);
operator!(Div div divide);

impl<'g> Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Tensor<'g> {
        self.negate()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let sample = |rule: &&'static Rule| {
        let (dtype, fill) = rule.sample;
        let shape = Shape::new(dtype, SAMPLE_AXES);
        let name = if rule.direction.is_empty() { rule.name } else { rule.direction };
        Sample::new(name, &[(shape.clone(), fill), (shape, fill)], rule.build)
    };
    let mut samples: Vec<Sample> = RULES.iter().map(sample).collect();
    let random = Fill::Uniform(-2.0, 2.0);
    samples.push(Sample::new(
        "add broadcast by name",
        &[
            (Shape::new(DType::F32, &[("a", 2), ("b", 3)]), random),
            (Shape::new(DType::F32, &[("c", 4), ("b", 3)]), random),
        ],
        |x| vec![x[0] + x[1]],
    ));
    samples.push(Sample::new(
        "integer division and a number on each side",
        &[(Shape::new(DType::S32, &[("a", 6)]), Fill::Uniform(-20.0, 20.0))],
        |x| vec![x[0] / 3.0, 2.0 * x[0] - 1.0, -x[0]],
    ));
    samples.push(Sample::error(
        "add of two sizes",
        &[Shape::new(DType::F32, &[("a", 2)]), Shape::new(DType::F32, &[("a", 3)])],
        |x| vec![x[0] + x[1]],
        "add: axis `a` is 2 on the left, 3 on the right\n  left f32 [a 2]  right f32 [a 3]",
    ));
    samples.push(Sample::error(
        "add of two types",
        &[Shape::new(DType::F32, &[("a", 2)]), Shape::new(DType::Bf16, &[("a", 2)])],
        |x| vec![x[0] + x[1]],
        "add: f32 on the left, bf16 on the right; convert one",
    ));
    samples
}
