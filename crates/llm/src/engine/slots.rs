//! Adapters in the slots of serving programs: read, scaled and put into the devices' arrays while
//! programs run, which keep the arrays that they were launched with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graph::{DType, Shape, Sharding};
use half::{bf16, f16};
use runtime::{Array, DeviceMesh};

use super::shard::layer_name;
use super::{Engine, EngineError};
use crate::adapter::{AdaptedModule, Adapter, AdapterError};
use crate::models::{LoraSlots, ParameterSpec};
use crate::programs::ModelProgram;
use crate::weights::LANES;

/// The adapters of a server.
pub struct AdapterSlots {
    room: LoraSlots,
    mesh: DeviceMesh,
    halves: Vec<Half>,
    /// One for each half, in the order in which programs ask for them.
    arrays: Mutex<Vec<Arc<Array>>>,
    /// Held while an adapter is put in, so that no other's place is written over with what it was.
    writing: Mutex<()>,
}

/// All slots' A or B of a matrix, or of that matrix in all layers.
struct Half {
    spec: ParameterSpec,
    is_b: bool,
    shape: Shape,
    sharding: Sharding,
}

/// An adapter's numbers for one matrix; B is scaled.
struct Numbers {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AdapterSlots {
    /// Empty slots for a program that has room for adapters; they suit all others of the same model.
    ///
    /// # Errors
    /// What the devices report.
    pub fn new(
        engine: &Engine,
        traced: &ModelProgram,
        room: LoraSlots,
    ) -> Result<AdapterSlots, EngineError> {
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        let half = |(spec, input): (&ParameterSpec, &graph::Input)| {
            let (_, is_b) = spec.slots_of()?;
            let (shape, sharding) = (input.shape.clone(), input.sharding.clone());
            Some(Half { spec: spec.clone(), is_b, shape, sharding })
        };
        let halves: Vec<Half> = traced.parameters.iter().zip(inputs).filter_map(half).collect();
        let mesh = engine.mesh().clone();
        let empty = |half: &Half| Array::zeros(&mesh, &half.shape, &half.sharding).map(Arc::new);
        let arrays = Mutex::new(halves.iter().map(empty).collect::<Result<_, _>>()?);
        Ok(AdapterSlots { room, mesh, halves, arrays, writing: Mutex::new(()) })
    }

    /// What programs are to be run with, as it is now.
    pub fn arrays(&self) -> Vec<Arc<Array>> {
        lock(&self.arrays).clone()
    }

    /// Bytes of all slots, over all devices.
    pub fn bytes(&self) -> usize {
        self.halves.iter().map(|half| half.shape.bytes()).sum()
    }

    /// Puts an adapter into a slot that no row uses, counted from 0, in the place of what was there.
    ///
    /// # Errors
    /// When it is for another model, its rank is too high, or its files are damaged. What the devices
    /// report. Then the slot must not be used.
    pub fn load(&self, slot: usize, adapter: &Adapter) -> Result<(), EngineError> {
        let numbers = self.read(adapter)?;
        let _writing = lock(&self.writing);
        // One after the other, so that the devices hold few of them twice. Rows of other slots see no
        // change, whichever they are run with.
        for (place, half) in self.halves.iter().enumerate() {
            let before = lock(&self.arrays)[place].clone();
            let mut bytes = before.to_host()?;
            half.put(self.room, slot, &numbers, &mut bytes)?;
            let after = Array::from_host(&self.mesh, &half.shape, &half.sharding, &bytes)?;
            lock(&self.arrays)[place] = Arc::new(after);
        }
        Ok(())
    }

    /// The sizes, `[outputs, inputs]`, of the matrices that can be adapted.
    fn matrices(&self) -> BTreeMap<String, [usize; 2]> {
        let width = self.room.slots * self.room.rank;
        let mut matrices: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for half in &self.halves {
            let [rows, columns] = half.sizes();
            for name in half.modules() {
                let sizes = matrices.entry(name).or_default();
                match half.is_b {
                    true => sizes[0] = rows * columns / width,
                    false => sizes[1] = rows * columns / width,
                }
            }
        }
        matrices
    }

    /// An adapter's numbers by the names of its matrices.
    fn read(&self, adapter: &Adapter) -> Result<BTreeMap<String, Numbers>, EngineError> {
        let matrices = self.matrices();
        let mut all = BTreeMap::new();
        for module in &adapter.modules {
            let Some(sizes) = matrices.get(&module.name) else {
                return Err(AdapterError::NotAdaptable { name: module.name.clone() }.into());
            };
            check(adapter, module, *sizes, self.room.rank)?;
            let AdaptedModule { rank, inputs, outputs, .. } = *module;
            let mut numbers =
                Numbers { rank, a: vec![0.0; rank * inputs], b: vec![0.0; outputs * rank] };
            let unusable = |source| AdapterError::Weights { source: Box::new(source) };
            let checkpoint = &adapter.checkpoint;
            let (a, b) = (adapter.stored_name(&module.a()), adapter.stored_name(&module.b()));
            checkpoint.read_f32(&a, None, &mut numbers.a).map_err(unusable)?;
            checkpoint.read_f32(&b, None, &mut numbers.b).map_err(unusable)?;
            let scale = adapter.config.scale(rank) as f32;
            numbers.b.iter_mut().for_each(|value| *value *= scale);
            all.insert(module.name.clone(), numbers);
        }
        Ok(all)
    }
}

/// That a matrix of an adapter suits that of the model.
fn check(
    adapter: &Adapter,
    module: &AdaptedModule,
    [outputs, inputs]: [usize; 2],
    most: usize,
) -> Result<(), AdapterError> {
    let rank = module.rank;
    if rank > most {
        return Err(AdapterError::Rank { rank, most });
    }
    let halves = [
        (module.a(), [rank, module.inputs], [rank, inputs]),
        (module.b(), [module.outputs, rank], [outputs, rank]),
    ];
    for (name, found, wanted) in halves {
        if found != wanted {
            let name = adapter.stored_name(&name);
            return Err(AdapterError::Shape { name, found, wanted });
        }
    }
    Ok(())
}

impl Half {
    /// Rows and columns of one layer's matrix.
    fn sizes(&self) -> [usize; 2] {
        match self.spec.checkpoint_shape[..] {
            [rows, columns] => [rows, columns],
            _ => [0, 0],
        }
    }

    /// The names of the adapted matrices, layer by layer.
    fn modules(&self) -> Vec<String> {
        let name = self.spec.slots_of().map_or("", |(name, _)| name);
        match self.spec.layers {
            None => vec![name.to_owned()],
            Some(layers) => (0..layers).map(|layer| layer_name(name, layer)).collect(),
        }
    }

    /// Writes an adapter's numbers into its slot, and zeros where it has none.
    fn put(
        &self,
        room: LoraSlots,
        slot: usize,
        numbers: &BTreeMap<String, Numbers>,
        bytes: &mut [u8],
    ) -> Result<(), AdapterError> {
        let LoraSlots { rank, .. } = room;
        let [rows, columns] = self.sizes();
        let in_panels = self.spec.panels.is_some();
        let rows_held = if in_panels { rows.next_multiple_of(LANES) } else { rows };
        let place = |row: usize, column: usize| match in_panels {
            true => (row / LANES * columns + column) * LANES + row % LANES,
            false => row * columns + column,
        };
        let layer_bytes = rows_held * columns * self.shape.dtype.bytes();
        let layers = bytes.chunks_exact_mut(layer_bytes.max(1));
        for (name, bytes) in self.modules().into_iter().zip(layers) {
            let own = numbers.get(&name);
            let (outer, inner) = if self.is_b { (rows, rank) } else { (rank, columns) };
            for (outer, inner) in (0..outer).flat_map(|i| (0..inner).map(move |j| (i, j))) {
                // B's columns and A's rows are those of the ranks, slot by slot.
                let (row, column) = match self.is_b {
                    true => (outer, slot * rank + inner),
                    false => (slot * rank + outer, inner),
                };
                let value = own.map_or(0.0, |own| match self.is_b {
                    true if inner < own.rank => own.b[outer * own.rank + inner],
                    false if outer < own.rank => own.a[outer * columns + inner],
                    _ => 0.0,
                });
                // One number that is not finite would spoil every row, whatever its adapter.
                if !write(self.shape.dtype, bytes, place(row, column), value) {
                    let dtype = self.shape.dtype;
                    return Err(AdapterError::NotFinite { name, dtype: dtype.to_string() });
                }
            }
        }
        Ok(())
    }
}

/// Writes a number into its place; says whether it is finite there.
fn write(dtype: DType, bytes: &mut [u8], place: usize, value: f32) -> bool {
    let start = place * dtype.bytes();
    let target = &mut bytes[start..start + dtype.bytes()];
    match dtype {
        DType::Bf16 => {
            let value = bf16::from_f32(value);
            target.copy_from_slice(&value.to_ne_bytes());
            value.is_finite()
        }
        DType::F16 => {
            let value = f16::from_f32(value);
            target.copy_from_slice(&value.to_ne_bytes());
            value.is_finite()
        }
        _ => {
            target.copy_from_slice(&value.to_ne_bytes());
            value.is_finite()
        }
    }
}
