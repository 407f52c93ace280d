//! Matrices that are held in panels of 16 rows, as the CPU's native functions read them: in f32 or bf16,
//! or in 8 or 4 bits with a scale and an offset per group of columns.
//!
//! Tensors of a matrix `[rows, inputs]`, the rows of the last panel filled up with zeros:
//!
//! - f32: `values` f32 `[panel, inputs, lane]`, the lane being the row in its panel.
//! - bf16: `values` bf16 `[panel, pair, lane, of_pair]`, two columns side by side.
//! - 8 bits: `values` u8 `[panel, block, quad, lane, of_quad]`, columns 32 block + 4 quad + of_quad.
//! - 4 bits: `values` u8 `[panel, block, octet, lane, of_quad]`, the low halves columns
//!   32 block + 8 octet + of_quad, the high halves the columns 4 behind.
//!
//! The last two go with `scales` and `offsets`, f32 or f16 `[panel, group, lane]`, for groups of 32 or 16
//! columns: a weight is scale · value + offset.

use crate::DType;
use crate::emit::{Call, Emitter, composite_shapes, evaluate_composite};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::ops;
use crate::ops::custom_call::native_call;
use crate::shape::{Axis, Shape};

/// Rows of a panel.
pub const LANES: usize = 16;

/// Columns of a block of quantized values.
pub const BLOCK: usize = 32;

/// A matrix in panels.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'g> {
    pub values: Tensor<'g>,
    /// Scales and offsets of quantized values.
    pub scaling: Option<(Tensor<'g>, Tensor<'g>)>,
    /// How many rows count.
    pub rows: usize,
}

/// How the numbers of a matrix in panels are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PanelType {
    F32,
    Bf16,
    /// 8 bits; columns per scale, and the scales' type.
    Q8 {
        group: usize,
        scales: DType,
    },
    /// 4 bits; likewise.
    Q4 {
        group: usize,
        scales: DType,
    },
}

impl PanelType {
    /// The shape of `values`.
    pub fn values(self, rows: usize, inputs: usize) -> Shape {
        let panel = ("panel", rows.div_ceil(LANES));
        let (lane, of_quad) = (("lane", LANES), ("of_quad", 4));
        match self {
            PanelType::F32 => Shape::new(DType::F32, &[panel, ("inputs", inputs), lane]),
            PanelType::Bf16 => {
                Shape::new(DType::Bf16, &[panel, ("pair", inputs / 2), lane, ("of_pair", 2)])
            }
            PanelType::Q8 { .. } => {
                let block = ("block", inputs / BLOCK);
                Shape::new(DType::U8, &[panel, block, ("quad", BLOCK / 4), lane, of_quad])
            }
            PanelType::Q4 { .. } => {
                let block = ("block", inputs / BLOCK);
                Shape::new(DType::U8, &[panel, block, ("octet", BLOCK / 8), lane, of_quad])
            }
        }
    }

    /// The shape of scales and of offsets.
    pub fn scaling(self, rows: usize, inputs: usize) -> Option<Shape> {
        let (PanelType::Q8 { group, scales } | PanelType::Q4 { group, scales }) = self else {
            return None;
        };
        let axes = [("panel", rows.div_ceil(LANES)), ("group", inputs / group), ("lane", LANES)];
        Some(Shape::new(scales, &axes))
    }

    /// Whether a matrix of so many columns can be held so.
    pub fn suits(self, inputs: usize) -> bool {
        match self {
            PanelType::F32 => true,
            PanelType::Bf16 => inputs.is_multiple_of(2),
            PanelType::Q8 { .. } | PanelType::Q4 { .. } => inputs.is_multiple_of(BLOCK),
        }
    }
}

impl<'g> Panels<'g> {
    fn operands(&self, first: Tensor<'g>) -> Vec<Tensor<'g>> {
        let scaling = self.scaling.iter().flat_map(|&(scales, offsets)| [scales, offsets]);
        [first, self.values].into_iter().chain(scaling).collect()
    }

    /// `x` `[token, inputs]` (f32) times the matrix transposed: `[token, rows]`. With native kernels and
    /// quantized values `x` is rounded to 8 bits, group by group.
    #[track_caller]
    pub fn product(self, x: Tensor<'g>) -> Tensor<'g> {
        x.graph().apply(PanelProduct { rows: self.rows }, &self.operands(x))
    }

    /// The rows with the numbers `ids`, `[token]` (s32), as `[token, inputs]` in f32.
    #[track_caller]
    pub fn take(self, ids: Tensor<'g>) -> Tensor<'g> {
        ids.graph().apply(PanelRows, &self.operands(ids))
    }
}

/// Some panels as rows in f32: `[…, panel, lane, inputs]`, whatever axes stand before.
fn widened<'g>(values: Tensor<'g>, scaling: Option<(Tensor<'g>, Tensor<'g>)>) -> Tensor<'g> {
    let shape = values.shape();
    let graph = values.graph();
    let outer: Vec<Axis> = shape.names().into_iter().filter(|name| *name == "token").collect();
    let order = |rest: &[Axis]| {
        let panel = if shape.has("panel") { vec!["panel"] } else { Vec::new() };
        [&outer[..], &panel, &["lane"], rest].concat()
    };
    let codes = if shape.has("inputs") {
        return values.transpose(&order(&["inputs"])).convert(DType::F32);
    } else if shape.has("pair") {
        let rows = values.transpose(&order(&["pair", "of_pair"]));
        return rows.merge(&["pair", "of_pair"], "inputs").convert(DType::F32);
    } else if shape.has("octet") {
        let half = |value: u32| ops::constant(graph, DType::U8, f64::from(value));
        let low = values.and(half(15)).expand("half");
        let high = values.shift_right_logical(half(4)).expand("half");
        let axes = ["block", "octet", "half", "of_quad"];
        low.concatenate(&[high], "half").transpose(&order(&axes)).merge(&axes, "inputs")
    } else {
        let axes = ["block", "quad", "of_quad"];
        values.transpose(&order(&axes)).merge(&axes, "inputs")
    };
    let Some((scales, offsets)) = scaling else { return codes.convert(DType::F32) };
    let groups = scales.size("group");
    let inside = codes.size("inputs") / groups.max(1);
    let codes = codes.convert(DType::F32).split("inputs", &[("group", groups), ("inside", inside)]);
    let weights = codes * scales.convert(DType::F32) + offsets.convert(DType::F32);
    weights.transpose(&order(&["group", "inside"])).merge(&["group", "inside"], "inputs")
}

fn scaling<'g>(operands: &[Tensor<'g>]) -> Option<(Tensor<'g>, Tensor<'g>)> {
    match operands {
        &[scales, offsets] => Some((scales, offsets)),
        _ => None,
    }
}

/// Checks the tensors of a matrix; returns its rows, filled up, and its columns.
fn check(operands: &[Shape]) -> Result<(usize, usize), ShapeError> {
    let (values, rest) = operands.split_first().ok_or_else(|| ShapeError::new("no values"))?;
    let size = |axis| values.size(axis).unwrap_or(0);
    let rows = size("panel") * LANES;
    let inputs = match values.dtype {
        DType::F32 => size("inputs"),
        DType::Bf16 => size("pair") * 2,
        _ => size("block") * BLOCK,
    };
    let scaled = |group: usize| match rest {
        [scales, offsets] if scales == offsets => {
            let quantized = [
                PanelType::Q8 { group, scales: scales.dtype },
                PanelType::Q4 { group, scales: scales.dtype },
            ];
            let known = quantized.into_iter().find(|known| *values == known.values(rows, inputs));
            known.filter(|known| known.scaling(rows, inputs).as_ref() == Some(scales))
        }
        _ => None,
    };
    let plain = [PanelType::F32, PanelType::Bf16];
    let plain = plain.into_iter().find(|known| *values == known.values(rows, inputs));
    match plain.filter(|_| rest.is_empty()).or(scaled(32)).or(scaled(16)) {
        Some(_) => Ok((rows, inputs)),
        None => Err(ShapeError::new(format!("{operands:?} are no matrix in panels"))),
    }
}

/// Operands: the left side, then the matrix.
#[derive(Debug)]
struct PanelProduct {
    rows: usize,
}

impl PanelProduct {
    fn lower<'g>(&self, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let rows = widened(x[1], scaling(&x[2..])).merge(&["panel", "lane"], "rows");
        vec![x[0].dot(rows.slice("rows", 0, self.rows), &["inputs"])]
    }
}

impl Operation for PanelProduct {
    fn name(&self) -> &'static str {
        "panel_product"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (rows, inputs) = check(&operands[1..])?;
        let x = &operands[0];
        if x.dtype != DType::F32 || x.names() != ["token", "inputs"] {
            return Err(ShapeError::new(format!("the left side {x} is not f32[token, inputs]")));
        }
        if x.size("inputs") != Some(inputs) || self.rows > rows || self.rows + LANES <= rows {
            let (own, wanted) = (self.rows, x.size("inputs").unwrap_or(0));
            return Err(ShapeError::new(format!(
                "the matrix has {rows} rows of {inputs}, not {own} of {wanted}"
            )));
        }
        composite_shapes(operands, |x| self.lower(x))
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        if emitter.options().kernels.native {
            return native_call(emitter, call, "fungible.panel_product", "", &[]);
        }
        emitter.composite(call, "panel_product", &format!("{self:?}"), |x| self.lower(x));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, |x| self.lower(x))
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("matrices in panels are for serving")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// Operands: the numbers of rows, then the matrix.
#[derive(Debug)]
struct PanelRows;

/// Only the panels that are asked for are widened.
fn lower_rows<'g>(x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let graph = x[0].graph();
    let lanes = ops::constant(graph, DType::S32, LANES as f64);
    let panel = x[0] / lanes;
    let taken = x[1..].iter().map(|tensor| tensor.take("panel", panel)).collect::<Vec<_>>();
    let rows = widened(taken[0], scaling(&taken[1..]));
    vec![rows.take("lane", x[0] - panel * lanes).transpose(&["token", "inputs"])]
}

impl Operation for PanelRows {
    fn name(&self) -> &'static str {
        "panel_rows"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        check(&operands[1..])?;
        let ids = &operands[0];
        match ids.dtype == DType::S32 && ids.names() == ["token"] {
            true => composite_shapes(operands, lower_rows),
            false => Err(ShapeError::new(format!("the rows' numbers {ids} are not s32[token]"))),
        }
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        if emitter.options().kernels.native {
            return native_call(emitter, call, "fungible.panel_rows", "", &[]);
        }
        emitter.composite(call, "panel_rows", "", lower_rows);
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        evaluate_composite(evaluator.kernels(), operands, lower_rows)
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("matrices in panels are for serving")
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let x = |inputs| {
        let shape = Shape::new(DType::F32, &[("token", 3), ("inputs", inputs)]);
        (shape, Fill::Uniform(-1.0, 1.0))
    };
    let ids = (Shape::new(DType::S32, &[("token", 3)]), Fill::Uniform(0.0, 20.0));
    let with = |first: &(Shape, Fill), kind: PanelType, inputs| {
        let values = kind.values(20, inputs);
        let (low, high) = if values.dtype.is_float() { (-1.0, 1.0) } else { (0.0, 255.0) };
        let mut operands = vec![first.clone(), (values, Fill::Uniform(low, high))];
        operands.extend(kind.scaling(20, inputs).map(|s| (s, Fill::Uniform(0.001, 0.01))));
        operands.extend(kind.scaling(20, inputs).map(|s| (s, Fill::Uniform(-0.1, 0.1))));
        operands
    };
    let q8 = PanelType::Q8 { group: 32, scales: DType::F32 };
    let q4 = PanelType::Q4 { group: 16, scales: DType::F16 };
    vec![
        Sample::new("panel_product", &with(&x(6), PanelType::F32, 6), |x| {
            vec![Panels { values: x[1], scaling: None, rows: 20 }.product(x[0])]
        }),
        Sample::new("panel_product of bf16", &with(&x(6), PanelType::Bf16, 6), |x| {
            vec![Panels { values: x[1], scaling: None, rows: 20 }.product(x[0])]
        }),
        Sample::new("panel_product of 8 bits", &with(&x(64), q8, 64), |x| {
            vec![Panels { values: x[1], scaling: Some((x[2], x[3])), rows: 20 }.product(x[0])]
        }),
        Sample::new("panel_product of 4 bits", &with(&x(64), q4, 64), |x| {
            vec![Panels { values: x[1], scaling: Some((x[2], x[3])), rows: 20 }.product(x[0])]
        }),
        Sample::new("panel_rows", &with(&ids, PanelType::F32, 6), |x| {
            vec![Panels { values: x[1], scaling: None, rows: 20 }.take(x[0])]
        }),
        Sample::new("panel_rows of 4 bits", &with(&ids, q4, 64), |x| {
            vec![Panels { values: x[1], scaling: Some((x[2], x[3])), rows: 20 }.take(x[0])]
        }),
        Sample::error(
            "panel_product with too many rows",
            &[x(6).0, PanelType::F32.values(20, 6)],
            |x| vec![Panels { values: x[1], scaling: None, rows: 40 }.product(x[0])],
            "panel_product: the matrix has 32 rows of 6, not 40 of 6",
        ),
    ]
}
