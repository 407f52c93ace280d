//! Changing the element type: by value (`convert`) or bit by bit (`bitcast_convert`).

use crate::DType;
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::Shape;

#[derive(Debug)]
struct Convert(DType);

/// From f32 to bf16 in two operations.
#[derive(Debug)]
struct Round;

#[derive(Debug)]
struct BitcastConvert(DType);

impl<'g> Tensor<'g> {
    /// The same values in another type; floats turn into integers by dropping the fraction.
    #[track_caller]
    pub fn convert(self, dtype: DType) -> Tensor<'g> {
        match self.try_shape() {
            Some(shape) if shape.dtype != dtype => self.graph().apply(Convert(dtype), &[self]),
            _ => self,
        }
    }

    /// The same for a large tensor that is converted by itself. From f32 to bf16 it rounds first and
    /// converts then, which is the same: two operations are a fusion, and XLA's TPU compiler works
    /// through those twice as fast as through a conversion alone.
    #[track_caller]
    pub fn convert_whole(self, dtype: DType) -> Tensor<'g> {
        match self.try_shape() {
            Some(shape) if (shape.dtype, dtype) == (DType::F32, DType::Bf16) => {
                self.graph().apply(Round, &[self])
            }
            _ => self.convert(dtype),
        }
    }

    /// The same bits read as another type of equal width.
    #[track_caller]
    pub fn bitcast_convert(self, dtype: DType) -> Tensor<'g> {
        self.graph().apply(BitcastConvert(dtype), &[self])
    }
}

impl Operation for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Ok(vec![operands[0].with_dtype(self.0)])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.convert", "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = operands[0].shape.with_dtype(self.0);
        vec![Literal::new(shape, operands[0].values.clone())]
    }

    fn derivative(&self) -> Derivative<'_> {
        // g, converted back.
        match self.0.is_float() {
            true => Derivative::of_one(|pullback, g| g.convert(pullback.operands[0].dtype())),
            false => Derivative::Zero("integers are steps"),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for Round {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        Convert(DType::Bf16).infer(operands)
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let rounded = emitter.temporary(call.operands[0].shape.clone());
        let rounded = std::slice::from_ref(&rounded);
        let name = "stablehlo.reduce_precision";
        let attributes = "exponent_bits = 8 : i32, mantissa_bits = 7 : i32";
        emitter.full(call, rounded, name, &call.operands, &[], attributes);
        emitter.full(call, &call.results, "stablehlo.convert", rounded, &[], "");
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        Convert(DType::Bf16).evaluate(evaluator, operands)
    }

    fn derivative(&self) -> Derivative<'_> {
        // g, converted back.
        Derivative::of_one(|pullback, g| g.convert(pullback.operands[0].dtype()))
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

impl Operation for BitcastConvert {
    fn name(&self) -> &'static str {
        "bitcast_convert"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let from = operands[0].dtype;
        if from.bytes() != self.0.bytes() {
            let message = format!("{from} and {} differ in width", self.0);
            return Err(ShapeError::new(message));
        }
        Ok(vec![operands[0].with_dtype(self.0)])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        emitter.statement(call, "stablehlo.bitcast_convert", "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = operands[0].shape.with_dtype(self.0);
        Literal::from_bytes(shape, &operands[0].to_bytes()).into_iter().collect()
    }

    fn derivative(&self) -> Derivative<'_> {
        match self.0.is_float() {
            true => Derivative::None("bits are not differentiable"),
            false => Derivative::Zero("integers are steps"),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let random = || vec![(Shape::new(DType::F32, &[("a", 7)]), Fill::Uniform(-9.0, 9.0))];
    vec![
        Sample::new("convert", &random(), |x| {
            let types = [DType::Bf16, DType::F16, DType::S32, DType::F64, DType::S8];
            types.iter().map(|&dtype| x[0].convert(dtype)).collect()
        }),
        Sample::new("convert_whole", &random(), |x| {
            vec![x[0].convert_whole(DType::Bf16), x[0].convert_whole(DType::F16)]
        }),
        Sample::new("bitcast_convert", &random(), |x| {
            let bits = x[0].bitcast_convert(DType::U32);
            vec![bits, bits.bitcast_convert(DType::F32)]
        }),
        Sample::error(
            "bitcast to another width",
            &[Shape::new(DType::F32, &[("a", 7)])],
            |x| vec![x[0].bitcast_convert(DType::U8)],
            "bitcast_convert: f32 and u8 differ in width",
        ),
    ]
}
