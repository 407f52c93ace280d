//! A call of something that StableHLO does not know: a native function registered with the plugin,
//! or a kernel given as text. The caller says what it computes, so that it can be checked.

use std::fmt;
use std::rc::Rc;

use crate::DType;
use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite, list};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Build, Derivative, Fill, Operation, Sample};
use crate::shape::Shape;

/// What is called, and with what.
#[derive(Clone)]
pub struct CustomCall {
    /// The name that the plugin knows.
    pub target: String,
    /// 4 for the typed FFI with a dictionary of attributes, 2 for an opaque string.
    pub api_version: u32,
    /// MLIR text of the attribute `backend_config`, such as `{}` or `"…"`.
    pub backend_config: String,
    /// Further attributes as MLIR text, such as `kernel_name = "k"`.
    pub attributes: Vec<String>,
    pub results: Vec<Shape>,
    /// The same computation in ordinary operations: what the call is tested against.
    pub reference: Build,
}

#[derive(Debug)]
struct CustomCallOperation(CustomCall);

impl fmt::Debug for CustomCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CustomCall({})", self.target)
    }
}

impl Graph {
    /// Calls `call` with row-major operands and results.
    #[track_caller]
    pub fn custom_call<'g>(&'g self, call: CustomCall, operands: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let count = call.results.len();
        let location = std::panic::Location::caller();
        self.apply_many(Rc::new(CustomCallOperation(call)), operands, count, location)
    }
}

/// The attributes that ask for row-major operands and results.
fn row_major(call: &Call) -> [String; 2] {
    let layouts = |values: &[crate::emit::Ssa]| {
        let layout = |value: &crate::emit::Ssa| {
            let order: Vec<usize> = (0..value.shape.rank()).rev().collect();
            match order.is_empty() {
                true => "dense<> : tensor<0xindex>".to_string(),
                false => format!("dense<[{}]> : tensor<{}xindex>", list(&order), order.len()),
            }
        };
        values.iter().map(layout).collect::<Vec<_>>().join(", ")
    };
    [
        format!("operand_layouts = [{}]", layouts(&call.operands)),
        format!("result_layouts = [{}]", layouts(&call.results)),
    ]
}

/// A result that takes over the memory of an operand, whose contents it begins with.
pub(crate) struct InPlace {
    pub output: usize,
    pub operand: usize,
}

/// Lets a native function, registered with the plugin under that name, do what the operation does.
/// `config` are its attributes as MLIR text, such as `scale = 0.5 : f32`.
pub(crate) fn native_call(
    emitter: &mut Emitter<'_>,
    call: &Call,
    target: &str,
    config: &str,
    in_place: &[InPlace],
) {
    let mut attributes = vec![
        "api_version = 4 : i32".to_string(),
        format!("backend_config = {{{config}}}"),
        format!("call_target_name = \"{target}\""),
    ];
    attributes.extend(row_major(call));
    if !in_place.is_empty() {
        let alias = |InPlace { output, operand }: &InPlace| {
            let of_tuple = match call.results.len() {
                1 => String::new(),
                _ => output.to_string(),
            };
            format!(
                "#stablehlo.output_operand_alias<output_tuple_indices = [{of_tuple}], operand_index = {operand}, operand_tuple_indices = []>"
            )
        };
        let aliases: Vec<String> = in_place.iter().map(alias).collect();
        attributes.push(format!("output_operand_aliases = [{}]", aliases.join(", ")));
    }
    emitter.statement(call, "stablehlo.custom_call", &attributes.join(", "));
}

impl Operation for CustomCallOperation {
    fn name(&self) -> &'static str {
        "custom_call"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let shapes = composite_shapes(operands, self.0.reference)?;
        if shapes != self.0.results {
            let names = |shapes: &[Shape]| {
                shapes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let (wanted, got) = (names(&self.0.results), names(&shapes));
            return Err(ShapeError::new(format!(
                "declares ({wanted}), its reference gives ({got})"
            )));
        }
        Ok(shapes)
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let mut attributes = vec![
            format!("api_version = {} : i32", self.0.api_version),
            format!("backend_config = {}", self.0.backend_config),
            format!("call_target_name = \"{}\"", self.0.target),
        ];
        attributes.extend(row_major(call));
        attributes.extend(self.0.attributes.iter().cloned());
        emitter.statement(call, "stablehlo.custom_call", &attributes.join(", "));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, self.0.reference)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("a call to the outside; its caller gives it a derivative")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let values = (Shape::new(DType::F32, &[("rows", 2), ("columns", 3)]), Fill::Iota);
    // `Sharding` is a target that every plugin knows; on one device it is the identity.
    vec![
        Sample::new("custom_call", std::slice::from_ref(&values), |x| {
            let call = CustomCall {
                target: "Sharding".to_string(),
                api_version: 2,
                backend_config: "\"\"".to_string(),
                attributes: vec!["mhlo.sharding = \"{replicated}\"".to_string()],
                results: vec![x[0].shape()],
                reference: |x| vec![x[0]],
            };
            x[0].graph().custom_call(call, &[x[0]])
        }),
        Sample::error(
            "custom_call that declares another shape",
            &[values.0],
            |x| {
                let call = CustomCall {
                    target: "sum".to_string(),
                    api_version: 4,
                    backend_config: "{}".to_string(),
                    attributes: Vec::new(),
                    results: vec![x[0].shape()],
                    reference: |x| vec![x[0].sum(&["rows"])],
                };
                x[0].graph().custom_call(call, &[x[0]])
            },
            "custom_call: declares (f32[rows 2, columns 3]), its reference gives (f32[columns 3])",
        ),
    ]
}
