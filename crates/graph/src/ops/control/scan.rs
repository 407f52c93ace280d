//! A loop over an axis: how a stack of equal layers stays one layer of program text.

use std::panic::Location;
use std::rc::Rc;

use super::scan_gradient::ScanGradient;
use crate::emit::{Call, Emitter, Ssa, array};
use crate::error::ShapeError;
use crate::evaluate::Evaluator;
use crate::graph::{Graph, RegionId, Tensor};
use crate::literal::Literal;
use crate::operation::{Derivative, Fill, Operation, Sample};
use crate::shape::{Axis, Shape};
use crate::{DType, ops};

/// Operands: the carried tensors, the tensors walked along the axis, the captures. Results: the
/// carried tensors, then what each step adds, stacked along the axis.
#[derive(Debug)]
pub(super) struct Scan {
    pub axis: Axis,
    pub length: usize,
    /// Whether it walks from the last element to the first.
    pub reverse: bool,
    pub carried: usize,
    pub walked: usize,
    pub stacks: usize,
    pub body: RegionId,
    pub body_shapes: Vec<Shape>,
    /// How to go back, if the last stacks are what that needs.
    pub gradient: Option<ScanGradient>,
}

impl Graph {
    /// Walks along `axis` of the tensors `walked`: `body(step, carry, slices)` gets the step's
    /// number (s32), the carried tensors and this step's slices (without the axis), and returns
    /// the next carry and `stacks` tensors to stack. Returns the last carry and the stacks.
    ///
    /// Carried tensors are updated in place: keep a KV cache there, never in the stacks.
    #[track_caller]
    pub fn scan<'g>(
        &'g self,
        axis: Axis,
        length: usize,
        carry: &[Tensor<'g>],
        walked: &[Tensor<'g>],
        stacks: usize,
        body: impl FnOnce(
            Tensor<'g>,
            &[Tensor<'g>],
            &[Tensor<'g>],
        ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>),
    ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>) {
        self.walk(axis, length, false, carry, walked, stacks, body)
    }

    /// [`Graph::scan`] in the given direction; in reverse, the step's number counts down and stacks
    /// are filled from their end.
    #[track_caller]
    #[allow(clippy::too_many_arguments, reason = "one more than `scan`, which is what users see")]
    pub(super) fn walk<'g>(
        &'g self,
        axis: Axis,
        length: usize,
        reverse: bool,
        carry: &[Tensor<'g>],
        walked: &[Tensor<'g>],
        stacks: usize,
        body: impl FnOnce(
            Tensor<'g>,
            &[Tensor<'g>],
            &[Tensor<'g>],
        ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>),
    ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>) {
        let poison = |count| vec![Tensor::poison(self); count];
        let failed = || (poison(carry.len()), poison(stacks));
        let mut parameters = vec![Shape::scalar(DType::S32)];
        for tensor in carry {
            parameters.extend(tensor.try_shape());
        }
        for tensor in walked {
            let Some(mut shape) = tensor.try_shape() else { continue };
            if shape.size(axis) != Some(length) {
                let message = format!("walks {length} steps along `{axis}` of {shape}");
                let error = ShapeError::new(message);
                self.fail("scan", error, vec![shape], Location::caller());
                return failed();
            }
            shape.axes.retain(|&(name, _)| name != axis);
            parameters.push(shape);
        }
        if parameters.len() != 1 + carry.len() + walked.len() {
            return failed();
        }
        let (body, _) = self.region(&parameters, |inner| {
            let (own, slices) = inner[1..].split_at(carry.len());
            let (mut next, stacked) = body(inner[0], own, slices);
            next.extend(stacked);
            next
        });
        let operation = Scan {
            axis,
            length,
            reverse,
            carried: carry.len(),
            walked: walked.len(),
            stacks,
            body,
            body_shapes: self.region_result_shapes(body),
            gradient: None,
        };
        let operands: Vec<Tensor<'g>> =
            carry.iter().chain(walked).copied().chain(self.captures(body)).collect();
        let count = carry.len() + stacks;
        let mut carry_out =
            self.apply_many(Rc::new(operation), &operands, count, Location::caller());
        let stacked = carry_out.split_off(carry.len());
        (carry_out, stacked)
    }
}

impl Scan {
    /// The shape of a stack of results.
    fn stacked(&self, element: &Shape) -> Shape {
        let mut shape = element.clone();
        shape.axes.insert(0, (self.axis, self.length));
        shape
    }
}

impl Operation for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn infer(&self, operands: &[Shape]) -> Result<Vec<Shape>, ShapeError> {
        let carried = &operands[..self.carried];
        for (before, after) in carried.iter().zip(&self.body_shapes) {
            if before != after {
                let message =
                    format!("the body turns {before} into {after}; it must stay as it is");
                return Err(ShapeError::new(message));
            }
        }
        if self.body_shapes.len() != self.carried + self.stacks {
            return Err(ShapeError::new(format!(
                "the body returns {} tensors; it carries {} and stacks {}",
                self.body_shapes.len(),
                self.carried,
                self.stacks
            )));
        }
        let stacks = self.body_shapes[self.carried..].iter().map(|shape| self.stacked(shape));
        Ok(carried.iter().cloned().chain(stacks).collect())
    }

    fn emit(&self, emitter: &mut Emitter<'_>, call: &Call) {
        let index = Shape::scalar(DType::S32);
        let zero = emitter.scalar(call, &Literal::scalar(DType::S32, 0.0));
        // Loop state: the step, carried, walked, captures, stacks.
        let mut initial = vec![zero];
        initial.extend(call.operands.iter().cloned());
        for stack in &call.results[self.carried..] {
            let zero = match emitter.options().kernels.empty_stacks {
                true => None,
                false => Some(emitter.scalar(call, &Literal::scalar(stack.shape.dtype, 0.0))),
            };
            let result = emitter.temporary(stack.shape.clone());
            let (name, attributes) = match zero {
                Some(_) => ("stablehlo.broadcast_in_dim", "broadcast_dimensions = array<i64>"),
                None => (
                    "stablehlo.custom_call",
                    "call_target_name = \"AllocateBuffer\", api_version = 2 : i32",
                ),
            };
            let operands: Vec<Ssa> = zero.into_iter().collect();
            emitter.full(call, std::slice::from_ref(&result), name, &operands, &[], attributes);
            initial.push(result);
        }
        let fresh = |emitter: &mut Emitter<'_>| -> Vec<Ssa> {
            initial.iter().map(|value| emitter.temporary(value.shape.clone())).collect()
        };
        let state = fresh(emitter);
        let condition = emitter.block(&state, |emitter| {
            let steps = Literal::scalar(DType::S32, self.length as f64);
            let steps = emitter.scalar(call, &steps);
            let result = emitter.temporary(Shape::scalar(DType::Bool));
            let attributes = "compare_type = #stablehlo<comparison_type SIGNED>, \
                              comparison_direction = #stablehlo<comparison_direction LT>";
            let operands = [state[0].clone(), steps];
            let results = std::slice::from_ref(&result);
            emitter.full(call, results, "stablehlo.compare", &operands, &[], attributes);
            emitter.terminator("stablehlo.return", results);
        });
        let state = fresh(emitter);
        let body = emitter.block(&state, |emitter| {
            let count = &state[0];
            let step = &match self.reverse {
                true => self.step_from_end(emitter, call, count),
                false => count.clone(),
            };
            let (carried, rest) = state[1..].split_at(self.carried);
            let (walked, rest) = rest.split_at(self.walked);
            let (captured, stacks) = rest.split_at(rest.len() + self.carried - call.results.len());
            let mut arguments = vec![step.clone()];
            arguments.extend(carried.iter().cloned());
            for tensor in walked {
                arguments.push(self.slice(emitter, call, tensor, step));
            }
            arguments.extend(captured.iter().cloned());
            let results = emitter.inline(self.body, &arguments);
            let (next, added) = results.split_at(self.carried);
            let one = emitter.scalar(call, &Literal::scalar(DType::S32, 1.0));
            let following = emitter.temporary(index);
            let following_slice = std::slice::from_ref(&following);
            emitter.full(call, following_slice, "stablehlo.add", &[count.clone(), one], &[], "");
            let mut last = vec![following];
            last.extend(next.iter().cloned());
            last.extend(walked.iter().chain(captured).cloned());
            for (stack, element) in stacks.iter().zip(added) {
                last.push(self.write(emitter, call, stack, element, step));
            }
            emitter.terminator("stablehlo.return", &last);
        });
        // The while returns its whole state; carried tensors and stacks are the scan's results.
        let mut results = vec![emitter.temporary(Shape::scalar(DType::S32))];
        results.extend(call.results[..self.carried].iter().cloned());
        for passed in &call.operands[self.carried..] {
            results.push(emitter.temporary(passed.shape.clone()));
        }
        results.extend(call.results[self.carried..].iter().cloned());
        emitter.full(call, &results, "stablehlo.while", &initial, &[condition, body], "");
    }

    fn evaluate(&self, evaluator: &Evaluator<'_>, operands: &[Literal]) -> Vec<Literal> {
        let (carried, rest) = operands.split_at(self.carried);
        let (walked, captured) = rest.split_at(self.walked);
        let mut carry = carried.to_vec();
        let mut stacks: Vec<Vec<f64>> = vec![Vec::new(); self.body_shapes.len() - self.carried];
        for count in 0..self.length {
            let step = if self.reverse { self.length - 1 - count } else { count };
            let mut arguments = vec![Literal::scalar(DType::S32, step as f64)];
            arguments.append(&mut carry);
            arguments.extend(walked.iter().map(|tensor| slice_literal(tensor, self.axis, step)));
            arguments.extend(captured.iter().cloned());
            carry = evaluator.region(self.body, &arguments);
            for (stack, element) in stacks.iter_mut().zip(carry.split_off(self.carried)) {
                match self.reverse {
                    true => drop(stack.splice(..0, element.values)),
                    false => stack.extend(element.values),
                }
            }
        }
        let shapes = self.body_shapes[self.carried..].iter().map(|shape| self.stacked(shape));
        let stacks =
            stacks.into_iter().zip(shapes).map(|(values, shape)| Literal { shape, values });
        carry.into_iter().chain(stacks).collect()
    }

    fn derivative(&self) -> Derivative<'_> {
        match &self.gradient {
            Some(gradient) => Derivative::rule(|pullback| gradient.pull(self, pullback)),
            None => Derivative::extended(|graph, operands, active| {
                ScanGradient::extend(self, graph, operands, active)
            }),
        }
    }

    fn regions(&self) -> Vec<RegionId> {
        vec![self.body]
    }
}

impl Scan {
    /// The number of the step when walking from the end.
    fn step_from_end(&self, emitter: &mut Emitter<'_>, call: &Call, count: &Ssa) -> Ssa {
        let last = Literal::scalar(DType::S32, self.length as f64 - 1.0);
        let last = emitter.scalar(call, &last);
        let step = emitter.temporary(Shape::scalar(DType::S32));
        let results = std::slice::from_ref(&step);
        let operands = [last, count.clone()];
        emitter.full(call, results, "stablehlo.subtract", &operands, &[], "");
        step
    }

    /// This step's slice of a walked tensor, without the axis.
    fn slice(&self, emitter: &mut Emitter<'_>, call: &Call, tensor: &Ssa, step: &Ssa) -> Ssa {
        let position = tensor.shape.position(self.axis).unwrap_or(0);
        let mut thin = tensor.shape.clone();
        thin.axes[position].1 = 1;
        let mut flat = thin.clone();
        flat.axes.remove(position);
        let operands = self.at_step(emitter, call, vec![tensor.clone()], &tensor.shape, step);
        let (thin, flat) = (emitter.temporary(thin), emitter.temporary(flat));
        let attributes = format!("slice_sizes = {}", array(&thin.shape.sizes()));
        let name = "stablehlo.dynamic_slice";
        emitter.full(call, std::slice::from_ref(&thin), name, &operands, &[], &attributes);
        emitter.full(call, std::slice::from_ref(&flat), "stablehlo.reshape", &[thin], &[], "");
        flat
    }

    /// The stack with this step's element in its place.
    fn write(
        &self,
        emitter: &mut Emitter<'_>,
        call: &Call,
        stack: &Ssa,
        element: &Ssa,
        step: &Ssa,
    ) -> Ssa {
        let mut thin = element.shape.clone();
        thin.axes.insert(0, (self.axis, 1));
        let thin = emitter.temporary(thin);
        let element = std::slice::from_ref(element);
        emitter.full(call, std::slice::from_ref(&thin), "stablehlo.reshape", element, &[], "");
        let operands = self.at_step(emitter, call, vec![stack.clone(), thin], &stack.shape, step);
        let result = emitter.temporary(stack.shape.clone());
        let name = "stablehlo.dynamic_update_slice";
        emitter.full(call, std::slice::from_ref(&result), name, &operands, &[], "");
        result
    }

    /// The operands followed by one start per axis: the step along the scan's axis, else zero.
    fn at_step(
        &self,
        emitter: &mut Emitter<'_>,
        call: &Call,
        mut operands: Vec<Ssa>,
        shape: &Shape,
        step: &Ssa,
    ) -> Vec<Ssa> {
        let zero = emitter.scalar(call, &Literal::scalar(DType::S32, 0.0));
        let names = shape.names().into_iter();
        operands.extend(names.map(|name| if name == self.axis { step } else { &zero }).cloned());
        operands
    }
}

fn slice_literal(tensor: &Literal, axis: Axis, step: usize) -> Literal {
    let position = tensor.shape.position(axis).unwrap_or(0);
    let mut shape = tensor.shape.clone();
    shape.axes.remove(position);
    Literal::from_fn(shape, |index| {
        let mut index = index.to_vec();
        index.insert(position, step);
        tensor.at(&index)
    })
}

pub(super) fn samples() -> Vec<Sample> {
    let layers = (
        Shape::new(DType::F32, &[("layers", 3), ("embed", 4), ("out", 4)]),
        Fill::Uniform(-0.5, 0.5),
    );
    let values = (Shape::new(DType::F32, &[("batch", 2), ("embed", 4)]), Fill::Uniform(-1.0, 1.0));
    vec![
        Sample::new("scan over layers", &[values.clone(), layers.clone()], |x| {
            let graph = x[0].graph();
            let (carry, stacked) =
                graph.scan("layers", 3, &[x[0]], &[x[1]], 1, |step, carry, weights| {
                    let next = carry[0].dot(weights[0], &["embed"]).rename("out", "embed");
                    let next = next + x[0] * step.convert(DType::F32);
                    (vec![next], vec![next.max(&["embed"])])
                });
            [carry, stacked].concat()
        }),
        Sample::new("scan inside a scan", &[values.clone(), layers.clone()], |x| {
            let graph = x[0].graph();
            let zero = ops::constant(graph, DType::F32, 0.0);
            let (carry, _) = graph.scan("layers", 3, &[zero], &[x[1]], 0, |_, outer, weights| {
                let (inner, _) =
                    graph.scan("batch", 2, &[outer[0]], &[x[0]], 0, |_, carry, row| {
                        let product = row[0].dot(weights[0], &["embed"]).sum(&["out"]);
                        (vec![carry[0] + product], Vec::new())
                    });
                (inner, Vec::new())
            });
            carry
        }),
        Sample::error(
            "scan of another length",
            &[values.0.clone(), layers.0.clone()],
            |x| {
                let body = |_: Tensor<'_>, carry: &[_], _: &[_]| (carry.to_vec(), Vec::new());
                x[0].graph().scan("layers", 4, &[x[0]], &[x[1]], 0, body).0
            },
            "scan: walks 4 steps along `layers` of f32[layers 3, embed 4, out 4]",
        ),
        Sample::error(
            "scan that changes its carry",
            &[values.0, layers.0],
            |x| {
                x[0].graph()
                    .scan("layers", 3, &[x[0]], &[x[1]], 0, |_, carry, weights| {
                        (vec![carry[0].dot(weights[0], &["embed"])], Vec::new())
                    })
                    .0
            },
            "scan: the body turns f32[batch 2, embed 4] into f32[batch 2, out 4]; it must stay",
        ),
    ]
}
