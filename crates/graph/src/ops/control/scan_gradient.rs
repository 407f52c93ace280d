//! Going back through a scan: another scan, from the end, over the body's derivative. What that
//! needs of the way forward is stacked by the forward scan, unless it follows cheaply from what both
//! have; the gradient of a stack of layers stays one layer of program text.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::scan::Scan;
use crate::autodiff::{activity, forward, gradient_region, zeros_like};
use crate::graph::{Graph, Node, Region, RegionId, Tensor, ValueId};
use crate::operation::{Cotangents, Operation, Pullback};
use crate::shape::Shape;

/// Operations that cost next to nothing beside reading their operands.
const CHEAP: [&str; 26] = [
    "constant",
    "iota",
    "broadcast_in_dim",
    "transpose",
    "rename",
    "split",
    "merge",
    "expand",
    "squeeze",
    "reshape",
    "convert",
    "slice",
    "pad",
    "compare",
    "and",
    "or",
    "not",
    "add",
    "subtract",
    "multiply",
    "negate",
    "select",
    "maximum",
    "minimum",
    "sharding_constraint",
    "shift_right_logical",
];

/// Those of them that make nothing smaller: their operand is kept instead.
const LAYOUT: [&str; 8] =
    ["broadcast_in_dim", "transpose", "rename", "split", "merge", "expand", "squeeze", "reshape"];

/// What the extended scan remembers of how to go back.
#[derive(Debug)]
pub(super) struct ScanGradient {
    /// The body forward and back: its parameters are those of the scan's body and its captures, then
    /// the cotangents of the active results.
    region: RegionId,
    /// How many operations of that region are the way forward.
    boundary: usize,
    /// Those of them that are done again on the way back.
    again: Vec<usize>,
    /// The values of that region that are stacked, one stack each after the scan's own.
    saved: Vec<ValueId>,
    /// Which of step, carry, slices and captures have cotangents, and which results.
    active: Vec<bool>,
    active_results: Vec<bool>,
}

impl ScanGradient {
    /// The scan with what its gradient needs as further stacks.
    pub(super) fn extend<'g>(
        scan: &Scan,
        graph: &'g Graph,
        operands: &[Tensor<'g>],
        active: &[bool],
    ) -> Option<Rc<dyn Operation>> {
        let body = graph.recorded(scan.body);
        let active = fixed_point(scan, graph, &body, active);
        // Captures become parameters: the extended scan has them as operands in the same order.
        let closed = close(graph, &body, &active);
        let (region, boundary, active_results) = gradient_region(graph, closed, &active);
        if graph.has_failed() {
            return None;
        }
        let recorded = graph.recorded(region);
        let Needs { again, saved } = Needs::of(&recorded, boundary, scan.carried, active.len());
        let places = places(&recorded, boundary);
        let mut shapes = parameter_shapes(graph, &recorded);
        shapes.truncate(active.len());
        let (extended, _) = graph.region(&shapes, |parameters| {
            let forward = forward(graph, &body, parameters, &active, |_| None);
            let saved = saved.iter().map(|value| match places.get(value) {
                Some(&(node, result)) => graph.result_of(node, result),
                None => {
                    let place = recorded.parameters.iter().position(|own| own == value);
                    place.map_or(zeros_like(parameters[0]), |place| parameters[place])
                }
            });
            forward.results.iter().copied().chain(saved).collect()
        });
        debug_assert_eq!(operands.len() + 1, active.len());
        Some(Rc::new(Scan {
            axis: scan.axis,
            length: scan.length,
            reverse: scan.reverse,
            carried: scan.carried,
            walked: scan.walked,
            stacks: scan.stacks + saved.len(),
            body: extended,
            body_shapes: graph.region_result_shapes(extended),
            gradient: Some(ScanGradient { region, boundary, again, saved, active, active_results }),
        }))
    }

    /// The scan from the other end.
    pub(super) fn pull<'g>(&self, scan: &Scan, pullback: &Pullback<'_, 'g>) -> Cotangents<'g> {
        let graph = pullback.graph;
        let region = graph.recorded(self.region);
        let (carry, rest) = pullback.operands.split_at(scan.carried);
        let (walked, captured) = rest.split_at(scan.walked);
        let (active_carry, rest) = self.active[1..].split_at(scan.carried);
        let (active_walked, active_captured) = rest.split_at(scan.walked);
        let own_stacks = scan.stacks - self.saved.len();
        // Seeds: the cotangents of the last carry, and of this step's elements of the stacks.
        let seed = |result: usize| {
            pullback.cotangents[result].unwrap_or_else(|| zeros_like(pullback.results[result]))
        };
        let seeds = |range: std::ops::Range<usize>| {
            range.filter(|&result| self.active_results[result]).map(seed).collect::<Vec<_>>()
        };
        let mut carried = seeds(0..scan.carried);
        let carried_seeds = carried.len();
        let sums = captured.iter().zip(active_captured).filter(|(_, active)| **active);
        carried.extend(sums.map(|(&tensor, _)| zeros_like(tensor)));
        let stacked_seeds = seeds(scan.carried..scan.carried + own_stacks);
        let saved = &pullback.results[scan.carried + own_stacks..];
        let walk: Vec<Tensor<'g>> =
            walked.iter().chain(saved).chain(&stacked_seeds).copied().collect();
        let stacks = active_walked.iter().filter(|active| **active).count();
        let (last, stacked) = graph.walk(
            scan.axis,
            scan.length,
            !scan.reverse,
            &carried,
            &walk,
            stacks,
            |step, cotangents, slices| {
                let (own, rest) = slices.split_at(scan.walked);
                let (saved, stacked_seeds) = rest.split_at(self.saved.len());
                let (carried_seeds, sums) = cotangents.split_at(carried_seeds);
                let mut values: HashMap<ValueId, Tensor<'g>> = HashMap::new();
                // The carry's places are left out: what is needed of it is among the saved.
                let parameters = region.parameters.iter().copied();
                let given = own.iter().chain(captured).chain(carried_seeds).chain(stacked_seeds);
                values.insert(region.parameters[0], step);
                values.extend(parameters.skip(1 + carry.len()).zip(given.copied()));
                values.extend(self.saved.iter().copied().zip(saved.iter().copied()));
                let back = (self.boundary..region.nodes.len()).chain([]);
                for node in self.again.iter().copied().chain(back) {
                    trace_again(graph, &region.nodes[node], &mut values);
                }
                let mut results = region
                    .results
                    .iter()
                    .map(|value| values.get(value).copied().unwrap_or(zeros_like(step)));
                // In the order of the active arguments: carry, slices, captures.
                let mut next: Vec<_> = results.by_ref().take(carried_seeds.len()).collect();
                let slices: Vec<_> = results.by_ref().take(stacks).collect();
                next.extend(sums.iter().zip(results).map(|(&sum, own)| sum + own));
                (next, slices)
            },
        );
        let (carry, sums) = last.split_at(carried_seeds.min(last.len()));
        let mut carry = carry.iter().copied();
        let mut stacked = stacked.into_iter();
        let mut sums = sums.iter().copied();
        let carry = active_carry.iter().map(|&active| if active { carry.next() } else { None });
        let walked = active_walked.iter().map(|&active| if active { stacked.next() } else { None });
        let captured =
            active_captured.iter().map(|&active| if active { sums.next() } else { None });
        let cotangents: Cotangents<'g> = carry.collect();
        cotangents.into_iter().chain(walked).chain(captured).collect()
    }
}

/// Traces an operation of a region again, on the values that stand for the region's.
fn trace_again<'g>(graph: &'g Graph, node: &Node, values: &mut HashMap<ValueId, Tensor<'g>>) {
    let find = |value: &ValueId| values.get(value).copied();
    let Some(operands) = node.operands.iter().map(find).collect::<Option<Vec<_>>>() else {
        return;
    };
    let results = graph.again(node, node.operation.clone(), &operands, node.results.len());
    values.extend(node.results.iter().copied().zip(results));
}

/// Which of step, carry, slices and captures have cotangents: what the body makes active in the carry
/// is active from the start.
fn fixed_point(scan: &Scan, graph: &Graph, body: &Region, operands: &[bool]) -> Vec<bool> {
    let mut active = vec![false];
    active.extend(operands);
    loop {
        let results = activity(graph, body, &active);
        let mut changed = false;
        for (own, &result) in active[1..].iter_mut().zip(&results[..scan.carried]) {
            changed |= result && !*own;
            *own |= result;
        }
        if !changed {
            return active;
        }
    }
}

/// The region with its captures as parameters.
fn close(graph: &Graph, body: &Region, active: &[bool]) -> RegionId {
    let shapes = parameter_shapes(graph, body);
    let none = vec![false; active.len()];
    graph.region(&shapes, |parameters| forward(graph, body, parameters, &none, |_| None).results).0
}

fn parameter_shapes(graph: &Graph, region: &Region) -> Vec<Shape> {
    crate::autodiff::inputs(region).filter_map(|value| graph.shape_of(value)).collect()
}

/// Where the results of the first operations come from: operation and place among its results.
fn places(region: &Region, boundary: usize) -> HashMap<ValueId, (usize, usize)> {
    let nodes = region.nodes[..boundary].iter().enumerate();
    nodes
        .flat_map(|(index, node)| {
            node.results.iter().enumerate().map(move |(place, &value)| (value, (index, place)))
        })
        .collect()
}

/// What the way back needs of the way forward.
struct Needs {
    again: Vec<usize>,
    saved: Vec<ValueId>,
}

impl Needs {
    fn of(region: &Region, boundary: usize, carried: usize, arguments: usize) -> Needs {
        let places = places(region, boundary);
        let carry: HashSet<ValueId> = region.parameters[1..=carried].iter().copied().collect();
        let given: HashSet<ValueId> = region.parameters[..arguments].iter().copied().collect();
        // Follows from what the way back has anyway: the step, slices and captures.
        let mut free: HashMap<ValueId, bool> =
            given.iter().map(|&value| (value, !carry.contains(&value))).collect();
        for node in &region.nodes[..boundary] {
            let cheap = CHEAP.contains(&node.operation.name())
                && node.operands.iter().all(|value| free.get(value) == Some(&true));
            free.extend(node.results.iter().map(|&value| (value, cheap)));
        }
        let used = region.nodes[boundary..].iter().flat_map(|node| &node.operands);
        let mut wanted: Vec<ValueId> = used.chain(&region.results).copied().collect();
        let mut seen = HashSet::new();
        let mut again = HashSet::new();
        let mut saved = Vec::new();
        while let Some(value) = wanted.pop() {
            if !seen.insert(value) {
                continue;
            }
            if carry.contains(&value) {
                saved.push(value);
            } else if let Some(&(node, _)) = places.get(&value) {
                let recorded = &region.nodes[node];
                let name = recorded.operation.name();
                if free.get(&value) == Some(&true) || LAYOUT.contains(&name) {
                    again.insert(node);
                    wanted.extend(&recorded.operands);
                } else {
                    saved.push(value);
                }
            }
        }
        // In an order that does not depend on how sets are walked.
        saved.sort_unstable();
        let mut again: Vec<usize> = again.into_iter().collect();
        again.sort_unstable();
        Needs { again, saved }
    }
}
