//! Reverse-mode differentiation. What is to be differentiated is traced aside, as a region that is
//! never printed; then it is traced again in place, with operations replaced by ones that keep what
//! their derivative needs, and their rules are applied in reverse (Griewank and Walther, "Evaluating
//! derivatives", 2008, chapter 3).

use std::collections::HashMap;
use std::panic::Location;
use std::rc::Rc;

use crate::error::ShapeError;
use crate::graph::{Graph, Node, Region, RegionId, Tensor, ValueId};
use crate::operation::{Cotangents, Derivative, Pullback};
use crate::{DType, ops};

impl Graph {
    /// Traces `body`, whose first result is a floating-point scalar, and returns its results and the
    /// gradients of the first one with respect to the tensors that `of` names. `of` is asked after
    /// `body` has run, since that may be what declares them; each must come from outside `body`. A
    /// tensor on which the scalar does not depend has a gradient of zeros.
    ///
    /// A gradient has the shape of its tensor. An operation without a derivative on the way is an
    /// error of the trace.
    #[track_caller]
    pub fn value_and_gradients<'g>(
        &'g self,
        body: impl FnOnce() -> Vec<Tensor<'g>>,
        of: impl FnOnce() -> Vec<Tensor<'g>>,
    ) -> (Vec<Tensor<'g>>, Vec<Tensor<'g>>) {
        let location = Location::caller();
        let (region, results) = self.region(&[], |_| body());
        let of = of();
        let failed =
            || (vec![Tensor::poison(self); results.len()], vec![Tensor::poison(self); of.len()]);
        if self.has_failed() {
            return failed();
        }
        let shape = results.first().map(|result| result.shape());
        if !shape.as_ref().is_some_and(|shape| shape.rank() == 0 && shape.dtype.is_float()) {
            let message = "the first result is not a floating-point scalar";
            self.fail("gradient", ShapeError::new(message), shape.into_iter().collect(), location);
            return failed();
        }
        let arguments = self.captures(region);
        let variables: Vec<Tensor<'g>> = of.iter().map(|&tensor| self.local(tensor)).collect();
        let active: Vec<bool> = arguments
            .iter()
            .map(|argument| variables.iter().any(|variable| variable.same_as(*argument)))
            .collect();
        let recorded = self.recorded(region);
        let forward = forward(self, &recorded, &arguments, &active, |_| None);
        let mut seeds: Cotangents<'g> = vec![None; forward.results.len()];
        if let (Some(seed), Some(result)) = (seeds.first_mut(), forward.results.first()) {
            *seed = Some(ops::constant(self, result.dtype(), 1.0));
        }
        let cotangents = backward(self, &forward, &arguments, &seeds);
        let gradient = |variable: &Tensor<'g>| {
            let place = arguments.iter().position(|argument| argument.same_as(*variable));
            let cotangent = place.and_then(|place| cotangents[place]);
            cotangent.unwrap_or_else(|| zeros_like(*variable))
        };
        let gradients = variables.iter().map(gradient).collect();
        (forward.results, gradients)
    }
}

/// Zeros of the tensor's shape.
pub(crate) fn zeros_like<'g>(tensor: Tensor<'g>) -> Tensor<'g> {
    let shape = tensor.shape();
    ops::constant(tensor.graph(), shape.dtype, 0.0).broadcast_to(&shape.axes)
}

/// A region traced again, and what is needed to go back through it.
pub(crate) struct Forward<'g> {
    pub results: Vec<Tensor<'g>>,
    /// Which results depend differentiably on active arguments.
    pub active: Vec<bool>,
    tape: Vec<Entry<'g>>,
}

impl<'g> Forward<'g> {
    /// The results of the operations of these names that cotangents may have to pass, with the
    /// operations' places in the region.
    pub(crate) fn kept(&self, names: &[&str]) -> Vec<(usize, Vec<Tensor<'g>>)> {
        let named = self.tape.iter().filter(|entry| names.contains(&entry.node.operation.name()));
        named.map(|entry| (entry.index, entry.results.clone())).collect()
    }
}

/// One operation that cotangents may have to pass.
struct Entry<'g> {
    /// Its place in the region.
    index: usize,
    node: Node,
    operands: Vec<Tensor<'g>>,
    results: Vec<Tensor<'g>>,
    wanted: Vec<bool>,
}

/// Traces a region again on `arguments` (its parameters, then its captures), of which the `active`
/// ones are differentiated by. `saved` may supply the results of the region's n-th operation instead.
pub(crate) fn forward<'g>(
    graph: &'g Graph,
    region: &Region,
    arguments: &[Tensor<'g>],
    active: &[bool],
    saved: impl Fn(usize) -> Option<Vec<Tensor<'g>>>,
) -> Forward<'g> {
    let mut values: HashMap<ValueId, (Tensor<'g>, bool)> = HashMap::new();
    for (parameter, (&argument, &active)) in inputs(region).zip(arguments.iter().zip(active)) {
        values.insert(parameter, (argument, active));
    }
    let missing = (Tensor::poison(graph), false);
    let find = |values: &HashMap<ValueId, (Tensor<'g>, bool)>, value: &ValueId| {
        values.get(value).copied().unwrap_or(missing)
    };
    let mut tape = Vec::new();
    for (index, recorded) in region.nodes.iter().enumerate() {
        let (operands, wanted): (Vec<_>, Vec<_>) =
            recorded.operands.iter().map(|value| find(&values, value)).unzip();
        let mut node = recorded.clone();
        let mut count = recorded.results.len();
        let mut passes = wanted.contains(&true);
        if passes {
            match recorded.operation.derivative() {
                Derivative::Zero(_) => passes = false,
                Derivative::Extended(extend) => {
                    if let Some(extended) = extend(graph, &operands, &wanted) {
                        count = graph.result_count(&*extended, &operands).unwrap_or(count);
                        node.operation = extended;
                    }
                }
                Derivative::Rule(_) | Derivative::None(_) => {}
            }
        }
        let results = match saved(index) {
            Some(results) => results,
            None => graph.again(&node, node.operation.clone(), &operands, count),
        };
        for (&value, &result) in recorded.results.iter().zip(&results) {
            values.insert(value, (result, passes && result.dtype().is_float()));
        }
        if passes {
            tape.push(Entry { index, node, operands, results, wanted });
        }
    }
    let (results, active) = region.results.iter().map(|value| find(&values, value)).unzip();
    Forward { results, active, tape }
}

/// The cotangents of the arguments, given those of the results.
pub(crate) fn backward<'g>(
    graph: &'g Graph,
    forward: &Forward<'g>,
    arguments: &[Tensor<'g>],
    seeds: &[Option<Tensor<'g>>],
) -> Cotangents<'g> {
    let mut sums: HashMap<ValueId, Tensor<'g>> = HashMap::new();
    for ((result, seed), active) in forward.results.iter().zip(seeds).zip(&forward.active) {
        if let (Some(seed), true) = (seed, active) {
            add(&mut sums, *result, *seed);
        }
    }
    for entry in forward.tape.iter().rev() {
        let cotangents: Cotangents<'g> =
            entry.results.iter().map(|result| sums.get(&result.value()).copied()).collect();
        if cotangents.iter().all(Option::is_none) {
            continue;
        }
        let path: Rc<str> = Rc::from(format!("gradient of {}", entry.node.scope));
        graph.at_path(&path, || {
            let (operands, results) = (&entry.operands[..], &entry.results[..]);
            let wanted = &entry.wanted[..];
            let pullback = Pullback { graph, operands, results, cotangents: &cotangents, wanted };
            for ((operand, wanted), cotangent) in
                operands.iter().zip(wanted).zip(pull(&entry.node, &pullback))
            {
                if let (Some(cotangent), true) = (cotangent, *wanted) {
                    add(&mut sums, *operand, cotangent);
                }
            }
        });
    }
    arguments.iter().map(|argument| sums.get(&argument.value()).copied()).collect()
}

fn pull<'g>(node: &Node, pullback: &Pullback<'_, 'g>) -> Cotangents<'g> {
    match node.operation.derivative() {
        Derivative::Rule(rule) => rule(pullback),
        Derivative::Zero(_) => Vec::new(),
        Derivative::None(reason) => {
            let error = ShapeError::new(format!("has no derivative: {reason}"));
            pullback.graph.fail(node.operation.name(), error, Vec::new(), node.location);
            Vec::new()
        }
        // It was replaced by what it extends to; only an error before it leaves it in place.
        Derivative::Extended(_) => Vec::new(),
    }
}

/// Adds to the cotangent of `tensor`, in the tensor's own shape.
fn add<'g>(sums: &mut HashMap<ValueId, Tensor<'g>>, tensor: Tensor<'g>, cotangent: Tensor<'g>) {
    let whole = cotangent.broadcast_to(&tensor.shape().axes);
    let sum = match sums.get(&tensor.value()) {
        Some(&earlier) => earlier + whole,
        None => whole,
    };
    sums.insert(tensor.value(), sum);
}

/// The rule of an operation that stands for simpler ones: the cotangents by way of what `build`
/// traces.
pub(crate) fn through<'g>(
    pullback: &Pullback<'_, 'g>,
    build: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) -> Cotangents<'g> {
    let graph = pullback.graph;
    let shapes: Vec<_> = pullback.operands.iter().map(|operand| operand.shape()).collect();
    let (region, _) = graph.region(&shapes, build);
    let recorded = graph.recorded(region);
    let forward = forward(graph, &recorded, pullback.operands, pullback.wanted, |_| None);
    backward(graph, &forward, pullback.operands, pullback.cotangents)
}

/// Which results of a region depend differentiably on the active ones of its arguments.
pub(crate) fn activity(graph: &Graph, region: &Region, active: &[bool]) -> Vec<bool> {
    let mut values: HashMap<ValueId, bool> = inputs(region).zip(active.iter().copied()).collect();
    for node in &region.nodes {
        let any = node.operands.iter().any(|value| values.get(value) == Some(&true));
        let passes = any && !matches!(node.operation.derivative(), Derivative::Zero(_));
        for &result in &node.results {
            values.insert(result, passes && graph.dtype_of(result).is_some_and(DType::is_float));
        }
    }
    region.results.iter().map(|value| values.get(value) == Some(&true)).collect()
}

/// A region's parameters, then its captures.
pub(crate) fn inputs(region: &Region) -> impl Iterator<Item = ValueId> + '_ {
    region.parameters.iter().copied().chain(region.captures.iter().map(|&(_, parameter)| parameter))
}

/// Traces a region aside in which `body` goes back through `region`: its parameters are those of the
/// region, then a cotangent for each active result; it returns the cotangents of the active
/// arguments. Also says how many of its operations are the way forward.
pub(crate) fn gradient_region(
    graph: &Graph,
    region: RegionId,
    active: &[bool],
) -> (RegionId, usize, Vec<bool>) {
    let recorded = graph.recorded(region);
    let active_results = activity(graph, &recorded, active);
    let mut shapes: Vec<_> = inputs(&recorded).filter_map(|value| graph.shape_of(value)).collect();
    let arguments = shapes.len();
    let seeded = recorded.results.iter().zip(&active_results).filter(|(_, active)| **active);
    shapes.extend(seeded.filter_map(|(&value, _)| graph.shape_of(value)));
    let mut boundary = 0;
    let (id, _) = graph.region(&shapes, |parameters| {
        let (own, seeds) = parameters.split_at(arguments.min(parameters.len()));
        let forward = forward(graph, &recorded, own, active, |_| None);
        boundary = graph.nodes();
        let mut seeds = seeds.iter().copied();
        let seeds: Cotangents<'_> =
            active_results.iter().map(|&active| if active { seeds.next() } else { None }).collect();
        let cotangents = backward(graph, &forward, own, &seeds);
        let pairs = own.iter().zip(cotangents).zip(active);
        pairs
            .filter(|(_, active)| **active)
            .map(|((&argument, cotangent), _)| cotangent.unwrap_or_else(|| zeros_like(argument)))
            .collect()
    });
    (id, boundary, active_results)
}
