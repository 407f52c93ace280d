//! A trace in progress. Model code calls operations on [`Tensor`] handles; the graph records nodes,
//! keeps the first error, and hands out a [`Function`] at the end.

mod replay;

use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;

use crate::error::{ShapeError, TraceError};
use crate::operation::Operation;
use crate::shape::{Axis, Shape};
use crate::sharding::Role;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// What every operation returns after the first error: it has no shape and no node.
const POISON: ValueId = ValueId(u32::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(pub(crate) u32);

/// The body of the program itself.
pub(crate) const MAIN: RegionId = RegionId(0);

/// A program being traced. Not shared between threads; cheap to make.
pub struct Graph {
    trace: RefCell<Trace>,
}

/// A handle to a value of a [`Graph`]. Copying it copies nothing else.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    graph: &'g Graph,
    value: ValueId,
}

#[derive(Debug)]
pub(crate) struct Value {
    pub shape: Shape,
    pub region: RegionId,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub operation: Rc<dyn Operation>,
    pub operands: Vec<ValueId>,
    pub results: Vec<ValueId>,
    pub scope: Rc<str>,
    pub location: &'static Location<'static>,
}

/// A straight list of nodes with parameters and results. Values of enclosing regions that it uses
/// are `captures`: explicit operands of the operation that owns the region, so that nothing flows
/// into a loop unseen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Region {
    pub parent: Option<RegionId>,
    pub parameters: Vec<ValueId>,
    /// (value of the parent region, parameter that stands for it in here)
    pub captures: Vec<(ValueId, ValueId)>,
    pub nodes: Vec<Node>,
    pub results: Vec<ValueId>,
}

#[derive(Debug)]
pub(crate) struct InputSlot {
    pub name: String,
    pub role: Role,
    pub value: ValueId,
}

/// A finished trace: pure data, ready to be printed, evaluated or differentiated.
#[derive(Debug)]
pub struct Function {
    pub(crate) values: Vec<Value>,
    pub(crate) regions: Vec<Region>,
    pub(crate) inputs: Vec<InputSlot>,
    pub(crate) outputs: Vec<OutputSlot>,
}

#[derive(Debug)]
pub(crate) struct OutputSlot {
    pub name: String,
    pub role: Role,
    /// Index into `inputs` of the argument whose memory this result takes over.
    pub donated_from: Option<usize>,
}

impl Function {
    pub fn result_shapes(&self) -> Vec<Shape> {
        let results = self.regions[MAIN.0 as usize].results.iter();
        results.map(|value| self.values[value.0 as usize].shape.clone()).collect()
    }

    /// The names of all operations in the order of the trace, regions' after those around them.
    pub fn operation_names(&self) -> Vec<&'static str> {
        let nodes = self.regions.iter().flat_map(|region| &region.nodes);
        nodes.map(|node| node.operation.name()).collect()
    }
}

/// A named result of the program.
pub struct NamedResult<'g> {
    name: String,
    tensor: Tensor<'g>,
    role: Role,
    donated: Option<Tensor<'g>>,
}

/// Names a result.
pub fn output<'g>(name: &str, tensor: Tensor<'g>) -> NamedResult<'g> {
    NamedResult { name: name.to_string(), tensor, role: Role::Activation, donated: None }
}

impl<'g> NamedResult<'g> {
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// The result takes over the memory of `input`, an argument of the same shape.
    pub fn donate(mut self, input: Tensor<'g>) -> Self {
        self.donated = Some(input);
        self
    }
}

struct Trace {
    values: Vec<Value>,
    regions: Vec<Region>,
    current: RegionId,
    inputs: Vec<InputSlot>,
    scope: Vec<String>,
    scope_path: Rc<str>,
    error: Option<TraceError>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace {
            values: Vec::new(),
            regions: vec![Region::default()],
            current: MAIN,
            inputs: Vec::new(),
            scope: Vec::new(),
            scope_path: Rc::from(""),
            error: None,
        }
    }
}

impl Trace {
    fn value(&mut self, shape: Shape, region: RegionId) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { shape, region });
        id
    }

    fn region(&mut self, id: RegionId) -> &mut Region {
        &mut self.regions[id.0 as usize]
    }

    /// The value as `region` sees it: itself, or the parameter that captures it. `None` when it
    /// belongs to a region that is neither this one nor around it.
    fn resolve(&mut self, value: ValueId, region: RegionId) -> Option<ValueId> {
        if self.values[value.0 as usize].region == region {
            return Some(value);
        }
        let parent = self.region(region).parent?;
        let outer = self.resolve(value, parent)?;
        let known = self.region(region).captures.iter().find(|&&(from, _)| from == outer).copied();
        if let Some((_, parameter)) = known {
            return Some(parameter);
        }
        let shape = self.values[outer.0 as usize].shape.clone();
        let parameter = self.value(shape, region);
        self.region(region).captures.push((outer, parameter));
        Some(parameter)
    }

    fn fail(
        &mut self,
        operation: &str,
        error: ShapeError,
        operands: Vec<Shape>,
        location: &'static Location<'static>,
    ) {
        if self.error.is_none() {
            let scope = self.scope_path.clone();
            self.error = Some(TraceError::new(operation, error, operands, &scope, location));
        }
    }
}

impl Default for Graph {
    fn default() -> Graph {
        Graph::new()
    }
}

impl Graph {
    pub fn new() -> Graph {
        Graph { trace: RefCell::new(Trace::default()) }
    }

    /// An argument of the program. Arguments keep the order in which they are asked for.
    #[track_caller]
    pub fn input(&self, name: &str, role: Role, shape: Shape) -> Tensor<'_> {
        if let Err(error) = check_axes(&shape) {
            return self.fail("input", error, vec![shape], Location::caller());
        }
        let mut trace = self.trace.borrow_mut();
        let value = trace.value(shape, MAIN);
        trace.region(MAIN).parameters.push(value);
        trace.inputs.push(InputSlot { name: name.to_string(), role, value });
        Tensor { graph: self, value }
    }

    /// Runs `body` with `name` added to the path that errors and locations show.
    pub fn scope<T>(&self, name: &str, body: impl FnOnce() -> T) -> T {
        let update = |trace: &mut Trace| trace.scope_path = Rc::from(trace.scope.join("."));
        {
            let mut trace = self.trace.borrow_mut();
            trace.scope.push(name.to_string());
            update(&mut trace);
        }
        let result = body();
        let mut trace = self.trace.borrow_mut();
        trace.scope.pop();
        update(&mut trace);
        result
    }

    /// Adds a node with one result.
    #[track_caller]
    pub fn apply<'g>(
        &'g self,
        operation: impl Operation + 'static,
        operands: &[Tensor<'g>],
    ) -> Tensor<'g> {
        let results = self.apply_many(Rc::new(operation), operands, 1, Location::caller());
        results.first().copied().unwrap_or(Tensor::poison(self))
    }

    /// Adds a node with `count` results.
    pub(crate) fn apply_many<'g>(
        &'g self,
        operation: Rc<dyn Operation>,
        operands: &[Tensor<'g>],
        count: usize,
        location: &'static Location<'static>,
    ) -> Vec<Tensor<'g>> {
        let poisoned = || vec![Tensor::poison(self); count];
        let foreign = operands.iter().any(|operand| !std::ptr::eq(operand.graph, self));
        let mut trace = self.trace.borrow_mut();
        if foreign {
            let error = ShapeError::new("an operand belongs to another graph");
            trace.fail(operation.name(), error, Vec::new(), location);
        }
        let shapes: Vec<Shape> =
            operands.iter().filter_map(|t| trace.shape(t.value)).cloned().collect();
        if trace.error.is_some() || shapes.len() != operands.len() {
            return poisoned();
        }
        let inferred = operation.infer(&shapes).and_then(|results| {
            results.iter().try_for_each(check_axes)?;
            Ok(results)
        });
        let results = match inferred {
            Ok(results) => results,
            Err(error) => {
                trace.fail(operation.name(), error, shapes, location);
                return poisoned();
            }
        };
        let current = trace.current;
        let mut ids = Vec::with_capacity(operands.len());
        for operand in operands {
            let Some(id) = trace.resolve(operand.value, current) else {
                let error = ShapeError::new(
                    "an operand belongs to a loop body or branch that is already closed; return \
                     it from there instead",
                );
                trace.fail(operation.name(), error, shapes, location);
                return poisoned();
            };
            ids.push(id);
        }
        let results: Vec<ValueId> =
            results.into_iter().map(|shape| trace.value(shape, current)).collect();
        let scope = trace.scope_path.clone();
        let node = Node { operation, operands: ids, results: results.clone(), scope, location };
        trace.region(current).nodes.push(node);
        results.into_iter().map(|value| Tensor { graph: self, value }).collect()
    }

    /// Traces a nested region: `body` gets its parameters and returns its results.
    #[track_caller]
    pub(crate) fn region<'g>(
        &'g self,
        parameters: &[Shape],
        body: impl FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> (RegionId, Vec<Tensor<'g>>) {
        let (id, outer, parameters) = {
            let mut trace = self.trace.borrow_mut();
            let outer = trace.current;
            let id = RegionId(trace.regions.len() as u32);
            trace.regions.push(Region { parent: Some(outer), ..Region::default() });
            let values: Vec<ValueId> =
                parameters.iter().map(|shape| trace.value(shape.clone(), id)).collect();
            trace.region(id).parameters.clone_from(&values);
            trace.current = id;
            let tensors: Vec<Tensor<'g>> =
                values.into_iter().map(|value| Tensor { graph: self, value }).collect();
            (id, outer, tensors)
        };
        let results = body(&parameters);
        let mut trace = self.trace.borrow_mut();
        let ids = results.iter().map(|&tensor| trace.visible(self, tensor, id)).collect();
        match ids {
            Ok(ids) => trace.region(id).results = ids,
            Err(error) => trace.fail("region", error, Vec::new(), Location::caller()),
        }
        trace.current = outer;
        (id, results)
    }

    /// What the region takes from around it, as values that the current region can use.
    pub(crate) fn captures<'g>(&'g self, region: RegionId) -> Vec<Tensor<'g>> {
        let trace = self.trace.borrow();
        let captures = trace.regions[region.0 as usize].captures.iter();
        captures.map(|&(outer, _)| Tensor { graph: self, value: outer }).collect()
    }

    pub(crate) fn region_result_shapes(&self, region: RegionId) -> Vec<Shape> {
        let trace = self.trace.borrow();
        let results = trace.regions[region.0 as usize].results.iter();
        results.filter_map(|&value| trace.shape(value)).cloned().collect()
    }

    /// Records an error that no single operation's shape rule sees.
    pub(crate) fn fail(
        &self,
        operation: &str,
        error: ShapeError,
        operands: Vec<Shape>,
        location: &'static Location<'static>,
    ) -> Tensor<'_> {
        self.trace.borrow_mut().fail(operation, error, operands, location);
        Tensor { graph: self, value: POISON }
    }

    /// Ends the trace: the function, or the first error. The graph is empty afterwards.
    #[track_caller]
    pub fn finish(&self, outputs: Vec<NamedResult<'_>>) -> Result<Function, TraceError> {
        let location = Location::caller();
        let mut trace = std::mem::take(&mut *self.trace.borrow_mut());
        let mut slots = Vec::with_capacity(outputs.len());
        let mut results = Vec::with_capacity(outputs.len());
        for output in outputs {
            match trace.slot(self, &output) {
                Ok((value, donated_from)) => {
                    results.push(value);
                    slots.push(OutputSlot { name: output.name, role: output.role, donated_from });
                }
                Err(error) => trace.fail("finish", error, Vec::new(), location),
            }
        }
        if let Some(error) = trace.error {
            return Err(error);
        }
        trace.region(MAIN).results = results;
        let Trace { values, regions, inputs, .. } = trace;
        Ok(Function { values, regions, inputs, outputs: slots })
    }

    /// Records an error that the model's own code found, at the caller's line.
    #[track_caller]
    pub fn reject(&self, operation: &str, message: impl Into<String>) -> Tensor<'_> {
        self.fail(operation, ShapeError::new(message), Vec::new(), Location::caller())
    }

    /// The path of the part of the model being traced.
    pub fn path(&self) -> String {
        self.trace.borrow().scope_path.to_string()
    }
}

impl Trace {
    /// The tensor as `region` sees it, or why it cannot be a result there.
    fn visible(
        &mut self,
        graph: &Graph,
        tensor: Tensor<'_>,
        region: RegionId,
    ) -> Result<ValueId, ShapeError> {
        if !std::ptr::eq(tensor.graph, graph) {
            return Err(ShapeError::new("a result belongs to another graph"));
        }
        if self.shape(tensor.value).is_none() {
            return Err(ShapeError::new("a result was never computed"));
        }
        self.resolve(tensor.value, region).ok_or_else(|| {
            ShapeError::new("a result belongs to a loop body or branch that is already closed")
        })
    }

    /// A result of the program: its value and the argument whose memory it takes over.
    fn slot(
        &mut self,
        graph: &Graph,
        output: &NamedResult<'_>,
    ) -> Result<(ValueId, Option<usize>), ShapeError> {
        let value = self.visible(graph, output.tensor, MAIN)?;
        let Some(input) = output.donated else { return Ok((value, None)) };
        let slot = self.inputs.iter().position(|slot| slot.value == input.value);
        match slot {
            Some(slot) if self.shape(input.value) == self.shape(value) => Ok((value, Some(slot))),
            _ => Err(ShapeError::new(format!(
                "result `{}` can only take over an argument of the same shape",
                output.name
            ))),
        }
    }

    fn shape(&self, value: ValueId) -> Option<&Shape> {
        self.values.get(value.0 as usize).map(|value| &value.shape)
    }
}

fn check_axes(shape: &Shape) -> Result<(), ShapeError> {
    for (position, &(axis, size)) in shape.axes.iter().enumerate() {
        if shape.axes[..position].iter().any(|&(other, _)| other == axis) {
            return Err(ShapeError::new(format!(
                "two axes would be called `{axis}`; rename one of them first"
            )));
        }
        if size == 0 {
            return Err(ShapeError::new(format!("axis `{axis}` would have size 0")));
        }
    }
    Ok(())
}

impl<'g> Tensor<'g> {
    pub fn graph(self) -> &'g Graph {
        self.graph
    }

    pub(crate) fn same_as(self, other: Tensor<'g>) -> bool {
        self.value == other.value
    }

    /// Stands for a result that an earlier error made impossible.
    pub(crate) fn poison(graph: &'g Graph) -> Tensor<'g> {
        Tensor { graph, value: POISON }
    }

    /// The shape, or `None` after an error in the trace.
    pub fn try_shape(self) -> Option<Shape> {
        self.graph.trace.borrow().shape(self.value).cloned()
    }

    /// The shape; after an error in the trace, an empty one, which no later operation looks at.
    pub fn shape(self) -> Shape {
        self.try_shape().unwrap_or_else(|| Shape::scalar(crate::DType::F32))
    }

    pub fn dtype(self) -> crate::DType {
        self.shape().dtype
    }

    /// The size of an axis. Asking for an axis that is not there is recorded as an error.
    #[track_caller]
    pub fn size(self, axis: Axis) -> usize {
        let Some(shape) = self.try_shape() else { return 1 };
        shape.size(axis).unwrap_or_else(|| {
            let error = ShapeError::new(format!("there is no axis `{axis}`"));
            self.graph.fail("size", error, vec![shape], Location::caller());
            1
        })
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.try_shape() {
            Some(shape) => write!(formatter, "%{} {shape}", self.value.0),
            None => formatter.write_str("%error"),
        }
    }
}
