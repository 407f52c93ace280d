//! Writing keys and values of new tokens into a cache that is cut into pages.

use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::ops::Combine;
use crate::ops::custom_call::{InPlace, native_call};
use crate::shape::Shape;
use crate::{DType, Graph};

/// What registers itself with the CPU's plugin under this name does the same in place.
const NATIVE: &str = "fungible.write_pages";

/// Operands: keys and values of the tokens, the slots, the pages of keys, those of values.
#[derive(Debug)]
struct WritePages;

/// Pages of keys and pages of values, `[pages, page, kv_heads, head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'g> {
    pub key: Tensor<'g>,
    pub value: Tensor<'g>,
}

impl<'g> Pages<'g> {
    /// Writes `key` and `value`, `[token, kv_heads, head_dim]` each, to `slots`, `[token]` (s32): slot
    /// i is place i % page of page i / page. What has a slot out of range is not written. Numbers are
    /// rounded to the type of the pages.
    #[track_caller]
    pub fn write(self, key: Tensor<'g>, value: Tensor<'g>, slots: Tensor<'g>) -> Pages<'g> {
        let operands = [key, value, slots, self.key, self.value];
        let location = std::panic::Location::caller();
        let graph: &'g Graph = key.graph();
        let results = graph.apply_many(std::rc::Rc::new(WritePages), &operands, 2, location);
        Pages { key: results[0], value: results[1] }
    }
}

fn lower<'g>(x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let &[key, value, slots, key_pages, value_pages] = x else { return Vec::new() };
    let write = |pages: Tensor<'g>, fresh: Tensor<'g>| {
        let sizes = [("pages", pages.size("pages")), ("page", pages.size("page"))];
        let fresh = fresh.convert(pages.dtype());
        let flat = pages.merge(&["pages", "page"], "slot");
        flat.scatter("slot", slots, fresh, Combine::Replace).split("slot", &sizes)
    };
    vec![write(key_pages, key), write(value_pages, value)]
}

impl Operation for WritePages {
    fn name(&self) -> &'static str {
        "write_pages"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let [key, value, slots, key_pages, value_pages] = operands else {
            return Err(ShapeError::new("an operand is missing"));
        };
        let ordered = |what: &str, shape: &Shape, axes: &[&str]| match shape.names() == axes {
            true => Ok(()),
            false => Err(ShapeError::new(format!("{what} {shape} lacks the axes {axes:?}"))),
        };
        for (what, shape) in [("key", key), ("value", value)] {
            ordered(what, shape, &["token", "kv_heads", "head_dim"])?;
        }
        for (what, shape) in [("pages of keys", key_pages), ("pages of values", value_pages)] {
            ordered(what, shape, &["pages", "page", "kv_heads", "head_dim"])?;
        }
        if slots.dtype != DType::S32 {
            return Err(ShapeError::new(format!("the slots are {}, not s32", slots.dtype)));
        }
        composite_shapes(operands, lower)
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let fresh = call.operands[0].shape.dtype;
        if emitter.options().kernels.native && fresh == DType::F32 {
            let in_place = [InPlace { output: 0, operand: 3 }, InPlace { output: 1, operand: 4 }];
            return native_call(emitter, call, NATIVE, "", &in_place);
        }
        emitter.composite(call, "write_pages", "", lower);
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, lower)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("pages are for serving")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let fresh = Shape::new(DType::F32, &[("token", 3), ("kv_heads", 2), ("head_dim", 4)]);
    let pages =
        |dtype| Shape::new(dtype, &[("pages", 4), ("page", 2), ("kv_heads", 2), ("head_dim", 4)]);
    let random = |shape: &Shape| (shape.clone(), Fill::Uniform(-1.0, 1.0));
    let operands = |dtype| {
        let slots = (Shape::new(DType::S32, &[("token", 3)]), Fill::Iota);
        let pages = random(&pages(dtype));
        [random(&fresh), random(&fresh), slots, pages.clone(), pages]
    };
    vec![
        Sample::new("write_pages", &operands(DType::F32), |x| {
            // Slots 1, 4, 7; then one that is out of range.
            let first = Pages { key: x[3], value: x[4] }.write(x[0], x[1], x[2] * 3.0 + 1.0);
            let second = first.write(x[1], x[0], x[2] * 6.0);
            vec![second.key, second.value]
        }),
        Sample::new("write_pages of bf16", &operands(DType::Bf16), |x| {
            let pages = Pages { key: x[3], value: x[4] }.write(x[0], x[1], x[2] * 2.0);
            vec![pages.key, pages.value]
        }),
        Sample::error(
            "write_pages without an axis of tokens",
            &[
                pages(DType::F32),
                fresh.clone(),
                fresh.clone(),
                pages(DType::F32),
                pages(DType::F32),
            ],
            |x| {
                let pages = Pages { key: x[3], value: x[4] }.write(x[0], x[1], x[2]);
                vec![pages.key, pages.value]
            },
            "write_pages: key f32[pages 4, page 2, kv_heads 2, head_dim 4] lacks the axes [\"token\", \"kv_heads\", \"head_dim\"]",
        ),
    ]
}
