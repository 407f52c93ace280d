//! Weights by their checkpoint path. Asking for one while tracing declares it: name, shape in the
//! checkpoint, named axes on the device.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use graph::{Axis, DType, Graph, Role, Shape, Tensor};

/// Stands in a path for the number of a layer when all layers are stacked into one tensor.
pub const EVERY_LAYER: &str = "*";

/// One weight of a traced program, in the order of the program's arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// The checkpoint path, with `*` for the layer's number in a stack.
    pub name: String,
    /// The shape of one layer's tensor in the checkpoint.
    pub checkpoint_shape: Vec<usize>,
    /// How many layers are stacked, outermost, in the argument.
    pub layers: Option<usize>,
    /// The checkpoint's tensors, and their shapes, that lie one after the other in this argument;
    /// none for an ordinary weight.
    pub joined: Vec<(String, Vec<usize>)>,
}

/// A place in the checkpoint's tree of names, such as `model.layers.0.self_attn`.
#[derive(Clone)]
pub struct Parameters<'g> {
    graph: &'g Graph,
    path: String,
    store: Rc<RefCell<Store<'g>>>,
}

struct Store<'g> {
    dtype: DType,
    /// Whether weights that meet the same input are held as one.
    joins: bool,
    /// The weights that a loop body was handed; nothing else may be asked for in there.
    given: Option<BTreeMap<String, Tensor<'g>>>,
    known: BTreeMap<String, Tensor<'g>>,
    specs: Vec<ParameterSpec>,
}

impl<'g> Parameters<'g> {
    /// The root of the tree. Weights asked for become arguments of the program, of type `dtype`.
    pub fn new(graph: &'g Graph, dtype: DType) -> Parameters<'g> {
        let (known, specs) = (BTreeMap::new(), Vec::new());
        let store = Store { dtype, joins: false, given: None, known, specs };
        Parameters { graph, path: String::new(), store: Rc::new(RefCell::new(store)) }
    }

    /// Lets weights that meet the same input be held as one matrix: one product instead of three
    /// where each has a cost of its own.
    pub(super) fn joining(self, joins: bool) -> Parameters<'g> {
        self.store.borrow_mut().joins = joins;
        self
    }

    pub(super) fn joins(&self) -> bool {
        self.store.borrow().joins
    }

    /// A tree that holds exactly the given weights, under their full names.
    pub(super) fn given(
        &self,
        path: &str,
        weights: BTreeMap<String, Tensor<'g>>,
    ) -> Parameters<'g> {
        let dtype = self.store.borrow().dtype;
        let (known, specs) = (BTreeMap::new(), Vec::new());
        let store = Store { dtype, joins: false, given: Some(weights), known, specs };
        let store = Rc::new(RefCell::new(store));
        Parameters { graph: self.graph, path: path.to_string(), store }
    }

    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    pub fn dtype(&self) -> DType {
        self.store.borrow().dtype
    }

    /// What has been asked for so far.
    pub fn specs(&self) -> Vec<ParameterSpec> {
        self.store.borrow().specs.clone()
    }

    /// What has been asked for so far, with the shapes on the device.
    pub(super) fn shapes(&self) -> Vec<(ParameterSpec, Shape)> {
        let store = self.store.borrow();
        let shape = |spec: &ParameterSpec| store.known.get(&spec.name).map(|tensor| tensor.shape());
        store.specs.iter().filter_map(|spec| Some((spec.clone(), shape(spec)?))).collect()
    }

    /// Traces `body` one step down the tree; errors and locations in it show the path.
    pub fn within<T>(&self, name: &str, body: impl FnOnce(&Parameters<'g>) -> T) -> T {
        let inner =
            Parameters { graph: self.graph, path: self.full(name), store: self.store.clone() };
        self.graph.scope(name, || body(&inner))
    }

    /// The weight `name` of this place. `layout` says what the axes are: one list for each
    /// dimension in the checkpoint, since a checkpoint merges axes that we keep apart (such as
    /// heads and head_dim). The tensor has all of them in order.
    #[track_caller]
    pub fn get(&self, name: &str, layout: &[&[(Axis, usize)]]) -> Tensor<'g> {
        let name = self.full(name);
        let sizes = layout.iter().map(|axes| axes.iter().map(|&(_, size)| size).product());
        let checkpoint_shape = sizes.collect();
        let spec = ParameterSpec { name, checkpoint_shape, layers: None, joined: Vec::new() };
        let axes: Vec<(Axis, usize)> = layout.concat();
        self.declare(spec, &axes)
    }

    /// The rows of several matrices, which all have the columns `inputs`, as one of axes `rows` and
    /// `inputs`. Each part is its name and its number of rows.
    #[track_caller]
    pub(super) fn joined(&self, parts: &[(&str, usize)], inputs: &[(Axis, usize)]) -> Tensor<'g> {
        let columns: usize = inputs.iter().map(|&(_, size)| size).product();
        let rows: usize = parts.iter().map(|&(_, rows)| rows).sum();
        let part = |&(name, rows): &(&str, usize)| (self.full(name), vec![rows, columns]);
        let joined: Vec<(String, Vec<usize>)> = parts.iter().map(part).collect();
        let name = joined.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("+");
        let checkpoint_shape = vec![rows, columns];
        let spec = ParameterSpec { name, checkpoint_shape, layers: None, joined };
        self.declare(spec, &[&[("rows", rows)], inputs].concat())
    }

    /// A weight of all layers in one tensor, with the axis `layers` in front.
    #[track_caller]
    pub(super) fn stack(&self, one: &ParameterSpec, shape: &Shape, layers: usize) -> Tensor<'g> {
        let spec = ParameterSpec { layers: Some(layers), ..one.clone() };
        let mut axes = vec![("layers", layers)];
        axes.extend(&shape.axes);
        self.declare(spec, &axes)
    }

    #[track_caller]
    fn declare(&self, spec: ParameterSpec, axes: &[(Axis, usize)]) -> Tensor<'g> {
        let mut store = self.store.borrow_mut();
        if let Some(given) = &store.given {
            return given.get(&spec.name).copied().unwrap_or_else(|| {
                let message = format!("`{}` was not asked for by every layer alike", spec.name);
                self.graph.reject("parameter", message)
            });
        }
        if let Some(&tensor) = store.known.get(&spec.name) {
            return tensor;
        }
        let shape = Shape::new(store.dtype, axes);
        let tensor = self.graph.input(&spec.name, Role::Parameter, shape);
        store.known.insert(spec.name.clone(), tensor);
        store.specs.push(spec);
        tensor
    }

    fn full(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_string(),
            path => format!("{path}.{name}"),
        }
    }
}
