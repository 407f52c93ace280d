//! Ordering along an axis: `sort` and `top_k`.

use std::panic::Location;
use std::rc::Rc;

use super::Combine;
use crate::autodiff::zeros_like;
use crate::emit::{Call, Emitter};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{RegionId, Tensor};
use crate::literal::{Literal, for_each_index, offset};
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Operands: the keys, then tensors of the same axes that are moved along.
#[derive(Debug)]
struct Sort {
    axis: Axis,
    descending: bool,
}

#[derive(Debug)]
struct TopK {
    axis: Axis,
    k: usize,
}

impl<'g> Tensor<'g> {
    /// Sorts along `axis`, stably; `others` (same axes) are reordered in the same way. Returns the
    /// sorted tensor, then the others.
    #[track_caller]
    pub fn sort(self, axis: Axis, others: &[Tensor<'g>], descending: bool) -> Vec<Tensor<'g>> {
        let operands: Vec<Tensor<'g>> = [self].into_iter().chain(others.iter().copied()).collect();
        let operation = Rc::new(Sort { axis, descending });
        self.graph().apply_many(operation, &operands, operands.len(), Location::caller())
    }

    /// The `k` greatest elements along `axis`, greatest first, and their places (s32). Of equal
    /// elements the first comes first. The axis keeps its name and comes last.
    #[track_caller]
    pub fn top_k(self, axis: Axis, k: usize) -> (Tensor<'g>, Tensor<'g>) {
        let Some(shape) = self.try_shape() else { return (self, self) };
        let mut order = shape.names();
        order.retain(|name| *name != axis);
        order.push(axis);
        let operand = if shape.has(axis) { self.transpose(&order) } else { self };
        let operation = Rc::new(TopK { axis, k });
        let results = self.graph().apply_many(operation, &[operand], 2, Location::caller());
        match results[..] {
            [values, places] => (values, places),
            _ => (Tensor::poison(self.graph()), Tensor::poison(self.graph())),
        }
    }
}

impl Operation for Sort {
    fn name(&self) -> &'static str {
        "sort"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        if !operands[0].has(self.axis) {
            return Err(ShapeError::new(format!("there is no axis `{}`", self.axis)));
        }
        if let Some(other) = operands.iter().find(|shape| shape.axes != operands[0].axes) {
            return Err(ShapeError::new(format!("{other} is moved along with {}", operands[0])));
        }
        Ok(operands.to_vec())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let mut arguments = Vec::new();
        for operand in &call.operands {
            for _ in 0..2 {
                arguments.push(emitter.temporary(Shape::scalar(operand.shape.dtype)));
            }
        }
        let dtype = call.operands[0].shape.dtype;
        let (direction, kind) = (if self.descending { "GT" } else { "LT" }, comparison(dtype));
        let result = emitter.temporary(Shape::scalar(DType::Bool));
        let region = emitter.block(&arguments, |emitter| {
            let attributes = format!(
                "compare_type = #stablehlo<comparison_type {kind}>, \
                 comparison_direction = #stablehlo<comparison_direction {direction}>"
            );
            let results = std::slice::from_ref(&result);
            emitter.full(call, results, "stablehlo.compare", &arguments[..2], &[], &attributes);
            emitter.terminator("stablehlo.return", results);
        });
        let dimension = call.operands[0].shape.position(self.axis).unwrap_or(0);
        let attributes = format!("dimension = {dimension} : i64, is_stable = true");
        emitter.full(call, &call.results, "stablehlo.sort", &call.operands, &[region], &attributes);
    }

    fn evaluate(&self, _: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = &operands[0].shape;
        let position = shape.position(self.axis).unwrap_or(0);
        let length = shape.axes[position].1;
        let mut results = operands.to_vec();
        let mut outer = shape.sizes();
        outer[position] = 1;
        for_each_index(&outer, |index| {
            let at = |place: usize| {
                let mut index = index.to_vec();
                index[position] = place;
                offset(shape, &index)
            };
            let mut order: Vec<usize> = (0..length).collect();
            order.sort_by(|&a, &b| {
                let (a, b) = (operands[0].values[at(a)], operands[0].values[at(b)]);
                if self.descending { b.total_cmp(&a) } else { a.total_cmp(&b) }
            });
            for (result, operand) in results.iter_mut().zip(operands) {
                for (to, &from) in order.iter().enumerate() {
                    result.values[at(to)] = operand.values[at(from)];
                }
            }
        });
        results
    }

    fn derivative(&self) -> Derivative<'_> {
        // g moved back to where each element came from.
        Derivative::rule(|pullback| {
            let key = pullback.operands[0];
            let shape = key.shape();
            let place = ops::iota(pullback.graph, DType::S32, self.axis, key.size(self.axis));
            let sorted = key.sort(self.axis, &[place.broadcast_to(&shape.axes)], self.descending);
            let Some(&places) = sorted.get(1) else { return Vec::new() };
            // Integers that were moved along have no cotangent.
            let pairs = pullback.cotangents.iter().zip(pullback.operands);
            let back =
                pairs.map(|(g, &operand)| g.map(|g| move_back(g, self.axis, places, operand)));
            back.collect()
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

/// Zeros like `operand`, with `g` where its elements came from along `axis`.
fn move_back<'g>(g: Tensor<'g>, axis: Axis, places: Tensor<'g>, operand: Tensor<'g>) -> Tensor<'g> {
    let (g, places) = (g.rename(axis, "ordered"), places.rename(axis, "ordered"));
    zeros_like(operand).scatter(axis, places, g, Combine::Add)
}

/// The `count` greatest floats along `axis` and their places, each the greatest behind the one before.
/// Zeros of both signs are equal here.
fn by_passes<'g>(x: Tensor<'g>, axis: Axis, count: usize) -> Vec<Tensor<'g>> {
    let graph = x.graph();
    let (order, length) = (x.shape().names(), x.size(axis));
    let mut rows = x.shape().axes;
    rows.retain(|&(name, _)| name != axis);
    let number = |dtype: DType, value: f64| ops::constant(graph, dtype, value);
    let lowest = number(x.dtype(), f64::NEG_INFINITY);
    let (places, last) =
        (ops::iota(graph, DType::S32, axis, length), number(DType::S32, length as f64 - 1.0));
    let start = [number(x.dtype(), f64::INFINITY), number(DType::S32, -1.0)];
    let start = start.map(|one| one.broadcast_to(&rows));
    let (_, found) = graph.scan(axis, count, &start, &[], 2, |_, carry, _| {
        let &[value, place] = carry else { return (Vec::new(), Vec::new()) };
        let behind = x.less(value).or(x.equal(value).and(places.greater(place)));
        let value = behind.select(x, lowest).max(&[axis]);
        let place = behind.and(x.equal(value)).select(places, last).min(&[axis]);
        (vec![value, place], vec![value, place])
    });
    found.into_iter().map(|one| one.transpose(&order)).collect()
}

fn comparison(dtype: DType) -> &'static str {
    match dtype {
        _ if dtype.is_float() => "FLOAT",
        _ if dtype.is_unsigned() || dtype == DType::Bool => "UNSIGNED",
        _ => "SIGNED",
    }
}

impl Operation for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let mut shape = operands[0].clone();
        let Some(position) = shape.position(self.axis) else {
            return Err(ShapeError::new(format!("there is no axis `{}`", self.axis)));
        };
        let size = shape.axes[position].1;
        if self.k > size {
            let message =
                format!("the {} greatest of axis `{}`, which has {size}", self.k, self.axis);
            return Err(ShapeError::new(message));
        }
        shape.axes[position].1 = self.k;
        Ok(vec![shape.clone(), shape.with_dtype(DType::S32)])
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let dtype = call.operands[0].shape.dtype;
        if emitter.options().kernels.top_k_by_passes && dtype.is_float() {
            let key = format!("{self:?}");
            return emitter.composite(call, "top_k", &key, |x| by_passes(x[0], self.axis, self.k));
        }
        emitter.statement(call, "chlo.top_k", &format!("k = {} : i64", self.k));
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let shape = &operands[0].shape;
        let places = shape.with_dtype(DType::S32);
        let places = Literal::from_fn(places, |index| index[index.len() - 1] as f64);
        let sort = Sort { axis: self.axis, descending: true };
        let sorted = sort.evaluate(evaluator, &[operands[0].clone(), places]);
        let Ok(shapes) = self.infer(std::slice::from_ref(shape)) else { return Vec::new() };
        let cut = |(literal, shape): (&Literal, &Shape)| {
            Literal::from_fn(shape.clone(), |index| literal.at(index))
        };
        sorted.iter().zip(&shapes).map(cut).collect()
    }

    fn derivative(&self) -> Derivative<'_> {
        // g, written to the places.
        Derivative::of_one(|pullback, g| {
            move_back(g, self.axis, pullback.results[1], pullback.operands[0])
        })
    }

    fn regions(&self) -> Vec<RegionId> {
        Vec::new()
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let shape = || Shape::new(DType::F32, &[("batch", 2), ("vocab", 9), ("seq", 2)]);
    let values = || (shape(), Fill::Uniform(-2.0, 2.0));
    vec![
        Sample::new("sort", &[values()], |x| {
            let places = ops::iota(x[0].graph(), DType::S32, "vocab", 9);
            let places = places.broadcast_to(&x[0].shape().axes);
            let descending = x[0].sort("vocab", &[places], true);
            [x[0].sort("batch", &[], false), descending].concat()
        }),
        Sample::new("top_k", &[values()], |x| {
            let (greatest, places) = x[0].top_k("vocab", 3);
            vec![greatest, places]
        }),
        Sample::new("top_k of equal elements", &[values()], |x| {
            let (greatest, places) = x[0].abs().round_nearest_even().top_k("vocab", 7);
            vec![greatest, places]
        }),
        Sample::error(
            "top_k of too many",
            &[shape()],
            |x| vec![x[0].top_k("vocab", 10).0],
            "top_k: the 10 greatest of axis `vocab`, which has 9",
        ),
        Sample::error(
            "sort along a missing axis",
            &[shape()],
            |x| x[0].sort("embed", &[], false),
            "sort: there is no axis `embed`",
        ),
    ]
}
