//! What the tests of training share: devices, programs run by hand, what PyTorch says
//! (`tests/goldens/make_training.py`). Knows no test.

#![allow(dead_code, unused_imports, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../../../tests/support/mod.rs"]
pub mod shared;

mod runs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graph::ops::Remat;
use graph::{DType, Kernels, Mesh, ShardingRules};
use llm::models::Layers;
use llm::{Checkpoint, FloatType, ModelFiles};
use runtime::{Array, CacheFolder, Discovery, PluginKind, PluginLocation, Runtime, RuntimeOptions};
use train::data::Batch;
use train::device::{Loaded, Scalars, StepResult};
use train::optimizer::Settings;
use train::state::{self, Start};
use train::step::{self, StepOptions};

pub use runs::{LENGTH, ROWS, adapter_places, adapters, batches, golden};

/// So many CPU devices. Compiled programs are kept in the build folder.
pub fn open(location: &PluginLocation, devices: usize) -> Runtime {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible");
    let discovery =
        Discovery::new(CacheFolder::at(cache)).with_plugin(PluginKind::Cpu, &location.path);
    let options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(devices);
    Runtime::open(&discovery, &options).unwrap()
}

pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

pub fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&goldens().join("models").join(name)).unwrap()
}

pub fn json(path: &str) -> serde_json::Value {
    let bytes = std::fs::read(goldens().join("training").join(path)).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The optimizer of the goldens' runs.
pub fn adamw() -> Settings {
    Settings {
        muon: false,
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: Some(1.0),
        momentum: 0.95,
        products: DType::F32,
        states_first: true,
    }
}

/// f32 on one device, everything in one piece.
pub fn options(batch_size: usize, sequence_length: usize) -> StepOptions {
    StepOptions {
        batch_size,
        sequence_length,
        accumulation: 1,
        dtype: DType::F32,
        frozen: DType::F32,
        layers: Layers::Unrolled,
        remat: Remat::None,
        z_loss: 0.0,
        optimizer: adamw(),
        lora: None,
        mesh: Mesh::single(),
        rules: ShardingRules::transformer(),
        kernels: Kernels::default(),
    }
}

/// Some rows of a batch.
pub fn rows(batch: &Batch, rows: std::ops::Range<usize>) -> Batch {
    let length = batch.sequence_length;
    let cut = |values: &[i32]| values[rows.start * length..rows.end * length].to_vec();
    Batch {
        rows: rows.len(),
        sequence_length: length,
        tokens: cut(&batch.tokens),
        targets: cut(&batch.targets),
        segments: cut(&batch.segments),
        positions: cut(&batch.positions),
    }
}

pub fn texts(loaded: &Loaded, batch: &Batch) -> Vec<Array> {
    loaded.texts(|range| Ok::<_, runtime::Error>(rows(batch, range))).unwrap()
}

pub fn start(loaded: &Loaded, files: &ModelFiles) -> Vec<Arc<Array>> {
    let start = Start::Files { checkpoint: files.checkpoint.clone(), seed: 0 };
    let layers = files.config.num_hidden_layers;
    let source = state::Source { start: &start, checkpoint: None, layers };
    let arrays = state::load(loaded.program(), loaded.mesh(), &source, &mut |_, _| {}).unwrap();
    arrays.into_iter().map(Arc::new).collect()
}

/// A run of steps by hand: learning rates and batches in order.
pub struct Run {
    pub loaded: Loaded,
    pub kept: Vec<Arc<Array>>,
    pub steps: Vec<StepResult>,
}

impl Run {
    pub fn new(runtime: &Runtime, files: &ModelFiles, options: &StepOptions) -> Run {
        let program = step::train_step(&files.config, options).unwrap();
        let loaded = Loaded::new(runtime, program).unwrap();
        let kept = start(&loaded, files);
        Run { loaded, kept, steps: Vec::new() }
    }

    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> StepResult {
        let scalars = Scalars {
            learning_rate,
            adamw_learning_rate: learning_rate,
            loss_limit: f64::INFINITY,
            seed: 0,
            step: self.steps.len() as u32,
        };
        let texts = texts(&self.loaded, batch);
        let metrics = self.loaded.step(&texts, &scalars, &mut self.kept).unwrap();
        let result = metrics.read().unwrap();
        self.steps.push(result);
        result
    }

    /// A kept tensor by its name in a checkpoint.
    pub fn kept(&self, name: &str) -> Vec<f32> {
        let place = self.loaded.program().kept.iter().position(|tensor| tensor.name == name);
        floats(&self.kept[place.unwrap_or_else(|| panic!("no {name}"))])
    }
}

pub fn floats(array: &Array) -> Vec<f32> {
    let bytes = array.to_host().unwrap();
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// A tensor of a safetensors file in f32.
pub fn tensor(checkpoint: &Checkpoint, name: &str, elements: usize) -> Vec<f32> {
    let mut bytes = vec![0; elements * 4];
    checkpoint.read(name, None, FloatType::F32, &mut bytes).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// A field of the JSON as numbers.
pub fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The norm of the difference by the norm of what is expected.
pub fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = found.iter().zip(expected);
    let difference = norm(&mut pairs.map(|(a, b)| f64::from(a - b)));
    difference / norm(&mut expected.iter().map(|v| f64::from(*v))).max(1e-12)
}
