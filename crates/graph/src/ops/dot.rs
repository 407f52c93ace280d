//! The contraction of two tensors by axis name. Axes that both have and that are not contracted
//! are batch axes; the result has the batch axes, then the left's own, then the right's own.

use super::binary::disagreement;
use crate::DType;
use crate::emit::{Call, Emitter, Ssa, list};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, for_each_index};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};

#[derive(Debug)]
struct DotGeneral {
    contract: Vec<Axis>,
    result: Option<DType>,
}

impl<'g> Tensor<'g> {
    /// Multiplies and sums over `contract`. Products of f32 are f32 on every chip (a TPU's default
    /// would be bf16); products of bf16 accumulate in f32 inside the chip and come back as bf16.
    #[track_caller]
    pub fn dot(self, rhs: Tensor<'g>, contract: &[Axis]) -> Tensor<'g> {
        let contract = contract.to_vec();
        self.graph().apply(DotGeneral { contract, result: None }, &[self, rhs])
    }

    /// The same with the result in `dtype`, such as f32 logits from bf16 operands.
    #[track_caller]
    pub fn dot_as(self, rhs: Tensor<'g>, contract: &[Axis], dtype: DType) -> Tensor<'g> {
        let contract = contract.to_vec();
        self.graph().apply(DotGeneral { contract, result: Some(dtype) }, &[self, rhs])
    }
}

/// Positions of the batch and contracted axes on both sides.
struct Dimensions {
    batch: Vec<(usize, usize)>,
    contract: Vec<(usize, usize)>,
}

impl DotGeneral {
    fn dimensions(&self, left: &Shape, right: &Shape) -> Dimensions {
        let pairs = |contracted: bool| {
            let axes = left.axes.iter().enumerate();
            axes.filter(|(_, (axis, _))| self.contract.contains(axis) == contracted)
                .filter_map(|(position, (axis, _))| Some((position, right.position(axis)?)))
                .collect()
        };
        Dimensions { batch: pairs(false), contract: pairs(true) }
    }
}

impl DotGeneral {
    /// Runs of axes that can be treated as one: neighbours, in the same order, of the same kind
    /// (batch, contracted, own) wherever they occur. A compiler that only multiplies matrices
    /// would otherwise copy the operand into shape: XLA's CPU compiler copies whole weights.
    fn flattened(&self, left: &Shape, right: &Shape) -> Vec<Vec<Axis>> {
        let kind = |axis: Axis| (left.has(axis), right.has(axis), self.contract.contains(&axis));
        let follows = |shape: &Shape, first: Axis, second: Axis| {
            shape.position(first).is_none_or(|place| shape.position(second) == Some(place + 1))
        };
        let mut runs: Vec<Vec<Axis>> = Vec::new();
        for axis in left.names().into_iter().chain(right.names()) {
            if runs.iter().flatten().any(|known| *known == axis) {
                continue;
            }
            let joins = |run: &Vec<Axis>| {
                let last = run[run.len() - 1];
                kind(last) == kind(axis) && follows(left, last, axis) && follows(right, last, axis)
            };
            match runs.last_mut() {
                Some(run) if joins(run) => run.push(axis),
                _ => runs.push(vec![axis]),
            }
        }
        runs
    }
}

/// The operand with each run of axes as one axis, called by the run's first name.
fn flatten(emitter: &mut Emitter<'_>, call: &Call, operand: &Ssa, runs: &[Vec<Axis>]) -> Ssa {
    let mut shape = operand.shape.clone();
    for run in runs.iter().filter(|run| run.len() > 1) {
        let size = run.iter().filter_map(|axis| shape.size(axis)).product();
        if let Some(place) = shape.position(run[0]) {
            shape.axes.splice(place..place + run.len(), [(run[0], size)]);
        }
    }
    if shape.rank() == operand.shape.rank() {
        return operand.clone();
    }
    let result = emitter.temporary(shape);
    let operands = std::slice::from_ref(operand);
    emitter.full(call, std::slice::from_ref(&result), "stablehlo.reshape", operands, &[], "");
    result
}

impl Operation for DotGeneral {
    fn name(&self) -> &'static str {
        "dot_general"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let (left, right) = (&operands[0], &operands[1]);
        for axis in &self.contract {
            let side = match (left.has(axis), right.has(axis)) {
                (true, true) => continue,
                (false, _) => "left",
                (true, false) => "right",
            };
            return Err(ShapeError::new(format!("there is no axis `{axis}` on the {side}")));
        }
        if let Some(message) = disagreement(left, right) {
            return Err(ShapeError::new(message));
        }
        if left.dtype != right.dtype {
            let message =
                format!("{} on the left, {} on the right; convert one", left.dtype, right.dtype);
            return Err(ShapeError::new(message));
        }
        let batch = left.axes.iter().filter(|(a, _)| right.has(a) && !self.contract.contains(a));
        let left_own = left.axes.iter().filter(|(a, _)| !right.has(a));
        let right_own = right.axes.iter().filter(|(a, _)| !left.has(a));
        let axes = batch.chain(left_own).chain(right_own).copied().collect();
        Ok(vec![Shape { dtype: self.result.unwrap_or(left.dtype), axes }])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let (left, right) = (&call.operands[0].shape, &call.operands[1].shape);
        // Over several devices axes stay apart: two of them may be split differently.
        let axes = match emitter.options().mesh.devices() {
            1 => self.flattened(left, right),
            _ => Vec::new(),
        };
        let lhs = flatten(emitter, call, &call.operands[0], &axes);
        let rhs = flatten(emitter, call, &call.operands[1], &axes);
        let remaining = self.contract.iter().copied().filter(|axis| lhs.shape.has(axis));
        let flat = DotGeneral { contract: remaining.collect(), result: self.result };
        let Dimensions { batch, contract } = flat.dimensions(&lhs.shape, &rhs.shape);
        let (left_batch, right_batch): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let (left_contract, right_contract): (Vec<_>, Vec<_>) = contract.into_iter().unzip();
        let precision = match left.dtype {
            DType::F32 | DType::F64 => "HIGHEST",
            _ => "DEFAULT",
        };
        let attributes = format!(
            "dot_dimension_numbers = #stablehlo.dot<lhs_batching_dimensions = [{}], \
             rhs_batching_dimensions = [{}], lhs_contracting_dimensions = [{}], \
             rhs_contracting_dimensions = [{}]>, precision_config = \
             [#stablehlo<precision {precision}>, #stablehlo<precision {precision}>]",
            list(&left_batch),
            list(&right_batch),
            list(&left_contract),
            list(&right_contract)
        );
        let wanted = &call.results[0];
        let flat = flat.infer(&[lhs.shape.clone(), rhs.shape.clone()]).unwrap_or_default();
        let flat = flat.into_iter().next().unwrap_or_else(|| wanted.shape.clone());
        let operands = [lhs, rhs];
        if flat.rank() == wanted.shape.rank() {
            let name = "stablehlo.dot_general";
            return emitter.full(call, &call.results, name, &operands, &[], &attributes);
        }
        let product = emitter.temporary(flat);
        let results = std::slice::from_ref(&product);
        emitter.full(call, results, "stablehlo.dot_general", &operands, &[], &attributes);
        emitter.full(call, &call.results, "stablehlo.reshape", results, &[], "");
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shapes = [operands[0].shape.clone(), operands[1].shape.clone()];
        let Ok(result) = self.infer(&shapes) else { return Vec::new() };
        let names = result[0].names();
        let sums: Vec<usize> =
            self.contract.iter().filter_map(|axis| shapes[0].size(axis)).collect();
        let literal = Literal::from_fn(result[0].clone(), |index| {
            let mut total = 0.0;
            for_each_index(&sums, |inner| {
                let outer = names.iter().copied().zip(index.iter().copied());
                let inner = self.contract.iter().copied().zip(inner.iter().copied());
                let place: Vec<(Axis, usize)> = outer.chain(inner).collect();
                total += operands[0].at_named(&place) * operands[1].at_named(&place);
            });
            total
        });
        vec![literal]
    }

    fn derivative(&self) -> Derivative<'_> {
        // (g · rhs over the right's own axes, g · lhs over the left's own axes)
        Derivative::rule(|pullback| {
            let Some(g) = pullback.cotangent() else { return Vec::new() };
            let [lhs, rhs] = [pullback.operands[0], pullback.operands[1]];
            let own = |of: Tensor<'_>, other: Tensor<'_>| {
                let other = other.shape();
                of.shape().names().into_iter().filter(|axis| !other.has(axis)).collect::<Vec<_>>()
            };
            let g = g.convert(lhs.dtype());
            let left = || g.dot(rhs, &own(rhs, lhs));
            let right = || g.dot(lhs, &own(lhs, rhs));
            vec![pullback.wanted[0].then(left), pullback.wanted[1].then(right)]
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let of = |dtype, axes: &[(Axis, usize)]| (Shape::new(dtype, axes), Fill::Uniform(-1.0, 1.0));
    let x = of(DType::F32, &[("batch", 2), ("seq", 3), ("embed", 4)]);
    vec![
        Sample::new("dot", &[x.clone(), of(DType::F32, &[("mlp", 5), ("embed", 4)])], |x| {
            vec![x[0].dot(x[1], &["embed"])]
        }),
        Sample::new(
            "dot with batch axes",
            &[x.clone(), of(DType::F32, &[("embed", 4), ("heads", 2), ("batch", 2)])],
            |x| vec![x[0].dot(x[1], &["embed"]), x[0].dot(x[1], &[])],
        ),
        Sample::new(
            "dot over two axes",
            &[x.clone(), of(DType::F32, &[("embed", 4), ("seq", 3), ("vocab", 7)])],
            |x| vec![x[0].dot(x[1], &["embed", "seq"])],
        ),
        Sample::new(
            "dot of bf16 into f32",
            &[
                of(DType::Bf16, &[("seq", 3), ("embed", 4)]),
                of(DType::Bf16, &[("vocab", 6), ("embed", 4)]),
            ],
            |x| vec![x[0].dot_as(x[1], &["embed"], DType::F32), x[0].dot(x[1], &["embed"])],
        ),
        Sample::error(
            "dot of two sizes",
            &[
                Shape::new(DType::F32, &[("batch", 8), ("seq", 128), ("embed", 4096)]),
                Shape::new(DType::F32, &[("embed", 2048), ("mlp", 11008)]),
            ],
            |x| vec![x[0].dot(x[1], &["embed"])],
            "dot_general: axis `embed` is 4096 on the left, 2048 on the right\n  \
             left f32 [batch 8, seq 128, embed 4096]  right f32 [embed 2048, mlp 11008]",
        ),
        Sample::error(
            "dot over a missing axis",
            &[Shape::new(DType::F32, &[("a", 8)]), Shape::new(DType::F32, &[("b", 8)])],
            |x| vec![x[0].dot(x[1], &["a"])],
            "dot_general: there is no axis `a` on the right",
        ),
    ]
}
