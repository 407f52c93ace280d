//! The reference: runs a function on host values by each operation's definition. Slow, exact in
//! f64, and independent of every compiler; tests compare plugins with it.

use std::collections::HashMap;

use crate::graph::{Function, MAIN, RegionId, ValueId};
use crate::kernels::Kernels;
use crate::literal::Literal;

pub struct Evaluator<'a> {
    function: &'a Function,
    kernels: &'a Kernels,
}

impl<'a> Evaluator<'a> {
    pub fn new(function: &'a Function, kernels: &'a Kernels) -> Evaluator<'a> {
        Evaluator { function, kernels }
    }

    pub fn kernels(&self) -> &Kernels {
        self.kernels
    }

    /// The results of the whole function.
    pub fn main(&self, arguments: &[Literal]) -> Vec<Literal> {
        self.region(MAIN, arguments)
    }

    /// The results of one region; `arguments` are its parameters, then its captures.
    pub fn region(&self, region: RegionId, arguments: &[Literal]) -> Vec<Literal> {
        let region = &self.function.regions[region.0 as usize];
        let captured = region.captures.iter().map(|&(_, parameter)| parameter);
        let parameters = region.parameters.iter().copied().chain(captured);
        let mut values: HashMap<ValueId, Literal> =
            parameters.zip(arguments.iter().cloned()).collect();
        for node in &region.nodes {
            let operands: Vec<Literal> =
                node.operands.iter().map(|id| values[id].clone()).collect();
            let results = node.operation.evaluate(self, &operands);
            values.extend(node.results.iter().copied().zip(results));
        }
        region.results.iter().map(|id| values[id].clone()).collect()
    }
}
