//! Weights by their checkpoint path. Asking for one while tracing declares it: name, shape in the
//! checkpoint, named axes on the device.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use graph::ops::{PanelType, Panels};
use graph::{Axis, DType, Graph, Role, Shape, Tensor};

use super::lora::{Adapters, Lora, SlotOfRows};
use crate::weights::{FloatType, Packing, PanelPart};

/// Stands in a path for the number of a layer when all layers are stacked into one tensor.
pub const EVERY_LAYER: &str = "*";

/// The name, below that of an adapted matrix and its half, of the matrices of all slots.
const SLOTS: &str = "slots";

/// What follows a matrix's name in that of its scales and offsets.
const SCALES: &str = ".scales";
const OFFSETS: &str = ".offsets";

/// How the matrices of a checkpoint are held in panels, by their names.
pub type PanelPlan = BTreeMap<String, Packing>;

fn panel_type(packing: Packing) -> PanelType {
    let scales = |float_type: FloatType| match float_type {
        FloatType::F16 => DType::F16,
        FloatType::F32 | FloatType::Bf16 => DType::F32,
    };
    match packing {
        Packing::F32 => PanelType::F32,
        Packing::Bf16 => PanelType::Bf16,
        Packing::Q8 { group, scales: held } => PanelType::Q8 { group, scales: scales(held) },
        Packing::Q4 { group, scales: held } => PanelType::Q4 { group, scales: scales(held) },
    }
}

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
    /// Which part this is of a matrix in panels, made of what is joined.
    pub panels: Option<(Packing, PanelPart)>,
}

impl ParameterSpec {
    /// Whether it is part of an adapter, and not of the model itself.
    pub fn is_adapter(&self) -> bool {
        self.name.contains(".lora_A.") || self.name.contains(".lora_B.")
    }

    /// The matrix of a layer, with `*` for the layer's number in a stack, and whether this is B, if it
    /// holds one half of the adapters of all slots.
    pub fn slots_of(&self) -> Option<(&str, bool)> {
        let half = self.name.strip_suffix(SLOTS)?.strip_suffix('.')?;
        let (a, b) = (half.strip_suffix(".lora_A"), half.strip_suffix(".lora_B"));
        a.map(|name| (name, false)).or(b.map(|name| (name, true)))
    }

    /// The name of the matrix whose rows' scales these are; none for a weight itself.
    pub fn scales_of(&self) -> Option<&str> {
        let is_matrix = |name: &&str| name.ends_with(".weight") && self.panels.is_none();
        self.name.strip_suffix(SCALES).filter(is_matrix)
    }
}

/// A place in the checkpoint's tree of names, such as `model.layers.0.self_attn`.
#[derive(Clone)]
pub struct Parameters<'g> {
    graph: &'g Graph,
    path: String,
    store: Rc<RefCell<Store<'g>>>,
}

struct Store<'g> {
    /// What weights are computed with.
    dtype: DType,
    /// What weights are held in.
    stored: DType,
    adapters: Option<Adapters<'g>>,
    /// Adapters in slots, which rows choose.
    slot_of_rows: Option<SlotOfRows<'g>>,
    /// Which matrices are held in panels.
    panels: Option<Arc<PanelPlan>>,
    /// Whether weights that meet the same input are held as one.
    joins: bool,
    /// Whether what several products need is made once, and not again within each.
    settles: bool,
    /// The weights that a loop body was handed; nothing else may be asked for in there.
    given: Option<BTreeMap<String, Tensor<'g>>>,
    known: BTreeMap<String, Tensor<'g>>,
    specs: Vec<ParameterSpec>,
}

impl<'g> Parameters<'g> {
    /// The root of the tree. Weights asked for become arguments of the program, of type `dtype`.
    pub fn new(graph: &'g Graph, dtype: DType) -> Parameters<'g> {
        let (known, specs) = (BTreeMap::new(), Vec::new());
        let store = Store {
            dtype,
            stored: dtype,
            adapters: None,
            slot_of_rows: None,
            panels: None,
            joins: false,
            settles: false,
            given: None,
            known,
            specs,
        };
        Parameters { graph, path: String::new(), store: Rc::new(RefCell::new(store)) }
    }

    /// Holds weights in another type than they are computed with. With s8 the matrices of layers are
    /// int8 with a scale per row; embeddings, head, norms and biases, of which there is little to
    /// spare and which suffer most, have the type of computation.
    pub fn stored_as(self, dtype: DType) -> Parameters<'g> {
        self.store.borrow_mut().stored = dtype;
        self
    }

    /// Adds adapters to the matrices that `lora` names. With a key of two u32 scalars their inputs
    /// are left out at random.
    pub fn adapted(self, lora: Lora, dropout_key: Option<[Tensor<'g>; 2]>) -> Parameters<'g> {
        self.store.borrow_mut().adapters =
            Some(Adapters { lora, dropout_key, first_row: None, layer: None });
        self
    }

    /// From here on, rows have the adapters of slots.
    pub(crate) fn choose_slots(&self, of_rows: SlotOfRows<'g>) {
        self.store.borrow_mut().slot_of_rows = Some(of_rows);
    }

    /// From here on, the rows at hand are those of a batch from this one (u32) on: what is left out
    /// at random depends on it.
    pub fn rows_from(&self, first_row: Tensor<'g>) {
        if let Some(adapters) = &mut self.store.borrow_mut().adapters {
            adapters.first_row = Some(first_row);
        }
    }

    /// Holds the matrices that the plan names in panels.
    pub fn in_panels(self, plan: Option<Arc<PanelPlan>>) -> Parameters<'g> {
        self.store.borrow_mut().panels = plan;
        self
    }

    pub(super) fn has_panels(&self) -> bool {
        self.store.borrow().panels.is_some()
    }

    /// Lets weights that meet the same input be held as one matrix: one product instead of three
    /// where each has a cost of its own.
    pub(super) fn joining(self, joins: bool) -> Parameters<'g> {
        self.store.borrow_mut().joins = joins;
        self
    }

    /// Keeps compilers from making what several products need again within each of them.
    pub(super) fn settling(self, settles: bool) -> Parameters<'g> {
        self.store.borrow_mut().settles = settles;
        self
    }

    /// The tensor as an operand of several products.
    pub(super) fn settled(&self, x: Tensor<'g>) -> Tensor<'g> {
        match self.store.borrow().settles {
            true => self.graph.optimization_barrier(&[x])[0],
            false => x,
        }
    }

    pub(super) fn joins(&self) -> bool {
        self.store.borrow().joins
    }

    /// A tree that holds exactly the given weights, under their full names, for the layer with that
    /// number (s32).
    pub(super) fn given(
        &self,
        path: &str,
        layer: Tensor<'g>,
        weights: BTreeMap<String, Tensor<'g>>,
    ) -> Parameters<'g> {
        let (dtype, stored, settles, adapters, slot_of_rows) = {
            let store = self.store.borrow();
            (store.dtype, store.stored, store.settles, store.adapters.clone(), store.slot_of_rows)
        };
        let adapters = adapters.map(|adapters| Adapters { layer: Some(layer), ..adapters });
        let (known, specs) = (BTreeMap::new(), Vec::new());
        let given = Some(weights);
        let store = Store {
            dtype,
            stored,
            adapters,
            slot_of_rows,
            panels: None,
            joins: false,
            settles,
            given,
            known,
            specs,
        };
        let store = Rc::new(RefCell::new(store));
        Parameters { graph: self.graph, path: path.to_string(), store }
    }

    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// What weights are computed with.
    pub fn dtype(&self) -> DType {
        self.store.borrow().dtype
    }

    /// This place's path in the checkpoint.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn adapters(&self) -> Option<Adapters<'g>> {
        self.store.borrow().adapters.clone()
    }

    pub(super) fn slot_of_rows(&self) -> Option<SlotOfRows<'g>> {
        self.store.borrow().slot_of_rows
    }

    /// An empty tree of the same types and adapters over another graph, for tracing on the side.
    pub(super) fn aside<'h>(&self, graph: &'h Graph) -> Parameters<'h> {
        let store = self.store.borrow();
        let aside = Parameters::new(graph, store.dtype).stored_as(store.stored);
        aside.store.borrow_mut().slot_of_rows = store.slot_of_rows.map(SlotOfRows::aside);
        match &store.adapters {
            Some(adapters) => aside.adapted(adapters.lora.clone(), None),
            None => aside,
        }
    }

    /// The weights asked for so far as the program's arguments, in the order of [`Parameters::specs`].
    pub fn arguments(&self) -> Vec<Tensor<'g>> {
        let store = self.store.borrow();
        store.specs.iter().filter_map(|spec| store.known.get(&spec.name).copied()).collect()
    }

    /// What has been asked for so far.
    pub fn specs(&self) -> Vec<ParameterSpec> {
        self.store.borrow().specs.clone()
    }

    /// What has been asked for so far, with the shapes on the device.
    pub fn shapes(&self) -> Vec<(ParameterSpec, Shape)> {
        let store = self.store.borrow();
        let shape = |spec: &ParameterSpec| store.known.get(&spec.name).map(|tensor| tensor.shape());
        store.specs.iter().filter_map(|spec| Some((spec.clone(), shape(spec)?))).collect()
    }

    /// One step down the tree, without a scope of its own.
    pub(super) fn at(&self, name: &str) -> Parameters<'g> {
        Parameters { graph: self.graph, path: self.full(name), store: self.store.clone() }
    }

    /// Traces `body` one step down the tree; errors and locations in it show the path.
    pub fn within<T>(&self, name: &str, body: impl FnOnce(&Parameters<'g>) -> T) -> T {
        let inner = self.at(name);
        self.graph.scope(name, || body(&inner))
    }

    /// The weight `name` of this place. `layout` says what the axes are: one list for each
    /// dimension in the checkpoint, since a checkpoint merges axes that we keep apart (such as
    /// heads and head_dim). The tensor has all of them in order, and the type of computation.
    #[track_caller]
    pub fn get(&self, name: &str, layout: &[impl AsRef<[(Axis, usize)]>]) -> Tensor<'g> {
        self.stored(name, layout).convert_whole(self.dtype())
    }

    /// The same in the type that it is held in.
    #[track_caller]
    pub fn stored(&self, name: &str, layout: &[impl AsRef<[(Axis, usize)]>]) -> Tensor<'g> {
        let dtype = match self.store.borrow().stored {
            DType::S8 => self.dtype(),
            dtype => dtype,
        };
        self.ask(name, layout, dtype)
    }

    /// The product of `x` with a layer's matrix `[outputs, inputs]`, over `inputs`.
    #[track_caller]
    pub(super) fn product(
        &self,
        name: &str,
        x: Tensor<'g>,
        inputs: &[(Axis, usize)],
        outputs: &[(Axis, usize)],
    ) -> Tensor<'g> {
        let rows = outputs.iter().map(|&(_, size)| size).product();
        if let Some(panels) = self.panels(&[(name, rows)], inputs) {
            return panel_product(x, panels, inputs, outputs);
        }
        let contract: Vec<Axis> = inputs.iter().map(|&(axis, _)| axis).collect();
        if self.store.borrow().stored != DType::S8 {
            return x.dot(self.get(name, &[outputs, inputs]), &contract);
        }
        let matrix = self.ask(name, &[outputs, inputs], DType::S8);
        let scales = self.ask(&format!("{name}{SCALES}"), &[outputs], DType::F32);
        x.quantized_dot(matrix, scales, &contract)
    }

    /// A part of an adapter: held in f32, like everything that is trained.
    #[track_caller]
    pub(super) fn adapter(&self, name: &str, layout: &[impl AsRef<[(Axis, usize)]>]) -> Tensor<'g> {
        self.ask(name, layout, DType::F32).convert(self.dtype())
    }

    /// One half of the adapters of all slots, `[outputs, inputs]`, in the type of computation.
    #[track_caller]
    pub(super) fn slot_matrix(
        &self,
        inputs: &[(Axis, usize)],
        outputs: &[(Axis, usize)],
    ) -> Tensor<'g> {
        self.ask(SLOTS, &[outputs, inputs], self.dtype())
    }

    /// The same in panels, where matrices are held so.
    #[track_caller]
    pub(super) fn slot_panels(
        &self,
        inputs: &[(Axis, usize)],
        outputs: &[(Axis, usize)],
    ) -> Option<Panels<'g>> {
        if !self.has_panels() {
            return None;
        }
        let size = |axes: &[(Axis, usize)]| axes.iter().map(|&(_, size)| size).product();
        let (rows, columns) = (size(outputs), size(inputs));
        let spec = ParameterSpec {
            name: self.full(SLOTS),
            checkpoint_shape: vec![rows, columns],
            layers: None,
            joined: Vec::new(),
            panels: Some((Packing::F32, PanelPart::Values)),
        };
        let values = self.declare(spec, PanelType::F32.values(rows, columns));
        Some(Panels { values, scaling: None, rows })
    }

    #[track_caller]
    fn ask(&self, name: &str, layout: &[impl AsRef<[(Axis, usize)]>], dtype: DType) -> Tensor<'g> {
        let name = self.full(name);
        let size = |axes: &[(Axis, usize)]| axes.iter().map(|&(_, size)| size).product();
        let checkpoint_shape = layout.iter().map(|axes| size(axes.as_ref())).collect();
        let spec = ParameterSpec {
            name,
            checkpoint_shape,
            layers: None,
            joined: Vec::new(),
            panels: None,
        };
        let axes: Vec<(Axis, usize)> =
            layout.iter().flat_map(|axes| axes.as_ref()).copied().collect();
        self.declare(spec, Shape::new(dtype, &axes))
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
        let spec = ParameterSpec { name, checkpoint_shape, layers: None, joined, panels: None };
        let axes = [&[("rows", rows)], inputs].concat();
        let dtype = self.store.borrow().stored;
        self.declare(spec, Shape::new(dtype, &axes)).convert(self.dtype())
    }

    /// The rows of matrices, one behind the other, as one matrix in panels, if the plan holds all of
    /// them in the same way. Each part is its name and its number of rows.
    #[track_caller]
    pub(super) fn panels(
        &self,
        parts: &[(&str, usize)],
        inputs: &[(Axis, usize)],
    ) -> Option<Panels<'g>> {
        let plan = self.store.borrow().panels.clone()?;
        let columns: usize = inputs.iter().map(|&(_, size)| size).product();
        let rows: usize = parts.iter().map(|&(_, rows)| rows).sum();
        let names: Vec<String> = parts.iter().map(|&(name, _)| self.full(name)).collect();
        let (first, others) = names.split_first()?;
        let packing = *plan.get(first)?;
        if others.iter().any(|name| plan.get(name) != Some(&packing)) {
            return None;
        }
        let panel_type = panel_type(packing);
        let shapes = parts.iter().map(|&(_, rows)| vec![rows, columns]);
        let joined: Vec<(String, Vec<usize>)> = names.iter().cloned().zip(shapes).collect();
        let name = names.join("+");
        let part = |part: PanelPart, suffix: &str, shape: Shape| {
            let spec = ParameterSpec {
                name: format!("{name}{suffix}"),
                checkpoint_shape: vec![rows, columns],
                layers: None,
                joined: joined.clone(),
                panels: Some((packing, part)),
            };
            self.declare(spec, shape)
        };
        let values = part(PanelPart::Values, "", panel_type.values(rows, columns));
        let scaling = panel_type.scaling(rows, columns).map(|shape| {
            let scales = part(PanelPart::Scales, SCALES, shape.clone());
            (scales, part(PanelPart::Offsets, OFFSETS, shape))
        });
        Some(Panels { values, scaling, rows })
    }

    /// A weight of all layers in one tensor, with the axis `layers` in front.
    #[track_caller]
    pub(super) fn stack(&self, one: &ParameterSpec, shape: &Shape, layers: usize) -> Tensor<'g> {
        let spec = ParameterSpec { layers: Some(layers), ..one.clone() };
        let mut axes = vec![("layers", layers)];
        axes.extend(&shape.axes);
        self.declare(spec, Shape::new(shape.dtype, &axes))
    }

    /// Declares a weight by its full name, ahead of whoever asks for it. The shape has the type that it
    /// is held in.
    #[track_caller]
    pub fn declare(&self, spec: ParameterSpec, shape: Shape) -> Tensor<'g> {
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

/// The product of `x` with a matrix in panels over the axes `inputs`; the others stay in their order,
/// followed by `outputs`.
#[track_caller]
pub(super) fn panel_product<'g>(
    x: Tensor<'g>,
    panels: Panels<'g>,
    inputs: &[(Axis, usize)],
    outputs: &[(Axis, usize)],
) -> Tensor<'g> {
    let contract: Vec<Axis> = inputs.iter().map(|&(axis, _)| axis).collect();
    let mut others = x.shape().axes;
    others.retain(|(axis, _)| !contract.contains(axis));
    let names: Vec<Axis> = others.iter().map(|&(axis, _)| axis).collect();
    let flat = x.convert(DType::F32).merge(&contract, "inputs").merge(&names, "token");
    let product = panels.product(flat.transpose(&["token", "inputs"]));
    product.split("token", &others).split("rows", outputs).convert(x.dtype())
}
