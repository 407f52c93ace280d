//! Reading back what was traced, and tracing it again elsewhere: what differentiation needs of a
//! graph.

use std::rc::Rc;

use super::{Graph, Node, Region, RegionId, Tensor, ValueId};
use crate::DType;
use crate::operation::Operation;
use crate::shape::Shape;

impl Graph {
    /// A closed region as it was traced.
    pub(crate) fn recorded(&self, region: RegionId) -> Region {
        self.trace.borrow().regions[region.0 as usize].clone()
    }

    /// How many operations the current region has so far.
    pub(crate) fn nodes(&self) -> usize {
        let trace = self.trace.borrow();
        trace.regions[trace.current.0 as usize].nodes.len()
    }

    /// A result of the current region's operation `node`.
    pub(crate) fn result_of(&self, node: usize, result: usize) -> Tensor<'_> {
        let trace = self.trace.borrow();
        let nodes = &trace.regions[trace.current.0 as usize].nodes;
        let value = nodes.get(node).and_then(|node| node.results.get(result)).copied();
        value.map_or(Tensor::poison(self), |value| Tensor { graph: self, value })
    }

    /// Applies a recorded operation to other operands, at its own path and line.
    pub(crate) fn again<'g>(
        &'g self,
        node: &Node,
        operation: Rc<dyn Operation>,
        operands: &[Tensor<'g>],
        results: usize,
    ) -> Vec<Tensor<'g>> {
        self.at_path(&node.scope, || self.apply_many(operation, operands, results, node.location))
    }

    /// Runs `body` with `path` as the path that errors and locations show.
    pub(crate) fn at_path<T>(&self, path: &Rc<str>, body: impl FnOnce() -> T) -> T {
        let outer = std::mem::replace(&mut self.trace.borrow_mut().scope_path, path.clone());
        let result = body();
        self.trace.borrow_mut().scope_path = outer;
        result
    }

    /// The tensor as the current region sees it.
    pub(crate) fn local<'g>(&'g self, tensor: Tensor<'g>) -> Tensor<'g> {
        let mut trace = self.trace.borrow_mut();
        if trace.shape(tensor.value).is_none() {
            return tensor;
        }
        let current = trace.current;
        let value = trace.resolve(tensor.value, current);
        value.map_or(Tensor::poison(self), |value| Tensor { graph: self, value })
    }

    pub(crate) fn shape_of(&self, value: ValueId) -> Option<Shape> {
        self.trace.borrow().shape(value).cloned()
    }

    pub(crate) fn dtype_of(&self, value: ValueId) -> Option<DType> {
        self.shape_of(value).map(|shape| shape.dtype)
    }

    /// How many results the operation has on these operands.
    pub(crate) fn result_count(
        &self,
        operation: &dyn Operation,
        operands: &[Tensor<'_>],
    ) -> Option<usize> {
        let shapes: Vec<Shape> = operands.iter().filter_map(|t| t.try_shape()).collect();
        if shapes.len() != operands.len() {
            return None;
        }
        operation.infer(&shapes).ok().map(|results| results.len())
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.trace.borrow().error.is_some()
    }
}

impl<'g> Tensor<'g> {
    pub(crate) fn value(self) -> ValueId {
        self.value
    }
}
