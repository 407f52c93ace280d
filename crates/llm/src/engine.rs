//! A model on devices: weights loaded, programs compiled on first use, text generated and scored
//! for one sequence at a time. Token ids only; the tokenizer is the caller's.

mod error;
mod loading;
mod measure;
mod sampling;
mod scoring;
mod session;
mod shard;
mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use graph::{Role, Shape};
use runtime::{
    Argument, Array, CompileChoices, CompileInfo, DeviceMesh, Executable, PluginKind, Runtime,
};

use crate::config::ModelConfig;
use crate::files::ModelFiles;
use crate::models::{CacheShape, KvCache};
use crate::programs::{self, ModelProgram, ProgramOptions};
use crate::weights::Checkpoint;

pub use error::EngineError;
pub use sampling::Sampling;
pub use scoring::{Alternative, TokenScore};
pub use session::{Finish, Generated, Session};
pub use shard::{Held, read_shard};
pub use slots::AdapterSlots;

/// Lengths that a KV cache can have: the next one is taken when a sequence outgrows its cache, so
/// that a short chat does not read the keys of a long one.
const FIRST_CAPACITY: usize = 256;

/// Lengths of prefill chunks, ascending. A prompt is cut into the largest that fits.
const CHUNKS: [usize; 3] = [32, 128, 512];

/// One of the fixed-shape programs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramKey {
    Prefill { cache: CacheShape, chunk: usize },
    Decode { cache: CacheShape },
    Score { cache: CacheShape, chunk: usize, top: usize },
}

/// What takes long while a model gets ready, for whoever shows progress.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    Weights {
        done_bytes: u64,
        total_bytes: u64,
    },
    Compiling {
        program: &'a str,
    },
    Compiled {
        program: &'a str,
        info: &'a CompileInfo,
    },
    /// Weights in the checkpoint that no part of the model asks for: its config may be wrong.
    Unused {
        names: &'a [&'a str],
    },
}

/// Called with each step of [`Progress`].
pub type OnProgress = dyn Fn(Progress<'_>) + Send + Sync;

/// A compiled program with the places of its arguments, and the model's weights.
pub struct Compiled {
    executable: Executable,
    program: ModelProgram,
    /// The weights in the order of the arguments; none where adapters in slots stand.
    weights: Vec<Option<Arc<Array>>>,
}

/// A model that is ready to run.
pub struct Engine {
    config: ModelConfig,
    /// Where weights come from that are not on the devices yet.
    checkpoint: Option<Arc<Checkpoint>>,
    options: ProgramOptions,
    runtime: Runtime,
    mesh: DeviceMesh,
    context: usize,
    weights: Mutex<HashMap<String, Arc<Array>>>,
    programs: Mutex<HashMap<ProgramKey, Arc<Compiled>>>,
    on_progress: Box<OnProgress>,
}

/// The results of prefill and decode that the next step or the host reads.
struct Drawn {
    token: Array,
    position: Array,
    log_prob: Array,
}

/// What a sequence leaves on the device between steps; each step consumes it and returns the next.
struct State {
    /// Marks of the tokens that were there, `[batch, vocab]`.
    seen: Array,
    cache: Vec<Array>,
}

impl Engine {
    /// Takes a model and the devices to run it on. Weights are read when the first program needs
    /// them. `context` limits the length of sequences; at most the model's own.
    ///
    /// # Errors
    /// A mesh that the devices cannot form, a checkpoint that lacks a tensor.
    pub fn new(
        files: &ModelFiles,
        runtime: Runtime,
        mut options: ProgramOptions,
        context: Option<usize>,
        on_progress: Box<OnProgress>,
    ) -> Result<Engine, EngineError> {
        options.joins = runtime.location().kind == PluginKind::Cpu;
        let (config, checkpoint) = (files.config.clone(), Some(files.checkpoint.clone()));
        let weights = HashMap::new();
        let engine =
            Engine::assemble(config, checkpoint, weights, runtime, options, context, on_progress)?;
        engine.check_checkpoint()?;
        Ok(engine)
    }

    /// Takes weights that are on the devices already, under the names of their [`ParameterSpec`]s and
    /// laid out as `options` say, such as those of a model that is being trained.
    ///
    /// # Errors
    /// A mesh that the devices cannot form.
    pub fn over(
        config: ModelConfig,
        weights: HashMap<String, Arc<Array>>,
        runtime: Runtime,
        options: ProgramOptions,
        on_progress: Box<OnProgress>,
    ) -> Result<Engine, EngineError> {
        Engine::assemble(config, None, weights, runtime, options, None, on_progress)
    }

    fn assemble(
        config: ModelConfig,
        checkpoint: Option<Arc<Checkpoint>>,
        weights: HashMap<String, Arc<Array>>,
        runtime: Runtime,
        options: ProgramOptions,
        context: Option<usize>,
        on_progress: Box<OnProgress>,
    ) -> Result<Engine, EngineError> {
        let mesh = runtime.mesh(options.mesh.clone())?;
        let own = config.max_position_embeddings;
        let context = context.map_or(own, |wanted| wanted.min(own));
        Ok(Engine {
            config,
            checkpoint,
            options,
            runtime,
            mesh,
            context,
            weights: Mutex::new(weights),
            programs: Mutex::new(HashMap::new()),
            on_progress,
        })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn mesh(&self) -> &DeviceMesh {
        &self.mesh
    }

    /// The longest sequence that this engine takes, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The bytes of all weights loaded so far, over all devices.
    pub fn weight_bytes(&self) -> usize {
        let weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        weights.values().map(|array| array.shape().bytes()).sum()
    }

    /// Compiles a program ahead of its first use.
    ///
    /// # Errors
    /// What the trace, the compiler or the weights' files object to.
    pub fn prepare(&self, key: ProgramKey) -> Result<(), EngineError> {
        self.program(key).map(drop)
    }

    /// The smallest capacity of the ladder that holds `tokens`.
    pub fn capacity_for(&self, tokens: usize) -> usize {
        let mut capacity = FIRST_CAPACITY;
        while capacity < tokens {
            capacity *= 2;
        }
        capacity.min(self.context).max(1)
    }

    /// The chunk in which `tokens` are best prefilled into a cache of this capacity.
    fn chunk_for(&self, tokens: usize, capacity: usize) -> usize {
        let fitting = CHUNKS.iter().copied().filter(|&chunk| chunk <= capacity);
        let enough = fitting.clone().find(|&chunk| chunk >= tokens);
        enough.or_else(|| fitting.max()).unwrap_or(capacity)
    }

    fn trace(&self, key: ProgramKey) -> Result<ModelProgram, EngineError> {
        let (config, options) = (&self.config, &self.options);
        Ok(match key {
            ProgramKey::Prefill { cache, chunk } => {
                programs::prefill(config, options, cache, chunk)?
            }
            ProgramKey::Decode { cache } => programs::decode(config, options, cache)?,
            ProgramKey::Score { cache, chunk, top } => {
                programs::score(config, options, cache, chunk, top)?
            }
        })
    }

    fn program(&self, key: ProgramKey) -> Result<Arc<Compiled>, EngineError> {
        let known = |engine: &Engine| {
            let programs = engine.programs.lock().unwrap_or_else(PoisonError::into_inner);
            programs.get(&key).cloned()
        };
        if let Some(compiled) = known(self) {
            return Ok(compiled);
        }
        let compiled = Arc::new(self.load(self.trace(key)?)?);
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.insert(key, compiled.clone());
        Ok(compiled)
    }

    /// Compiles a program and reads the weights that it is the first to need. Several threads may do so
    /// at once.
    ///
    /// # Errors
    /// What the compiler or the weights' files object to.
    pub fn load(&self, traced: ModelProgram) -> Result<Compiled, EngineError> {
        let name = traced.program.name.clone();
        (self.on_progress)(Progress::Compiling { program: &name });
        // Weights are read while the compiler, a process of its own, works.
        let (executable, weights) = std::thread::scope(|scope| {
            let weights = scope.spawn(|| self.weights_of(&traced));
            let executable = self.runtime.compile(&traced.program, &CompileChoices::default());
            (executable, weights.join())
        });
        let executable = executable?;
        let weights = weights.map_err(|_| EngineError::WeightsThread)??;
        (self.on_progress)(Progress::Compiled { program: &name, info: executable.info() });
        Ok(Compiled { executable, program: traced, weights })
    }

    pub fn options(&self) -> &ProgramOptions {
        &self.options
    }

    /// An empty cache, without memory being touched where a program does not need it to be zero.
    ///
    /// # Errors
    /// What the devices report, such as too little memory.
    pub fn new_cache(&self, compiled: &Compiled) -> Result<Vec<Array>, EngineError> {
        let first = compiled.program.data;
        let inputs = &compiled.program.program.inputs[first..first + compiled.program.cache];
        // The native functions look at nothing that was not written; plain operations multiply it by zero,
        // which must be possible.
        let empty = match self.options.kernels.native {
            true => Array::uninitialized,
            false => Array::zeros,
        };
        let empty = |input: &graph::Input| empty(&self.mesh, &input.shape, &input.sharding);
        Ok(inputs.iter().map(empty).collect::<Result<_, _>>()?)
    }

    /// How large one sequence's cache of this capacity is, in bytes.
    pub fn cache_bytes(&self, cache: CacheShape) -> usize {
        let options = &self.options;
        let shapes = KvCache::shapes(&self.config, options.layers, cache, options.dtype);
        shapes.iter().map(Shape::bytes).sum()
    }

    /// An argument of a program made of host values: four-byte elements of the input's own type.
    ///
    /// # Errors
    /// What the devices report.
    pub fn argument(
        &self,
        compiled: &Compiled,
        index: usize,
        words: &[u32],
    ) -> Result<Array, EngineError> {
        self.activation(&compiled.program.program.inputs[index].shape, words)
    }

    /// An activation of four-byte elements, laid out as programs expect it.
    fn activation(&self, shape: &Shape, words: &[u32]) -> Result<Array, EngineError> {
        debug_assert_eq!(shape.dtype.bytes(), 4);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sharding = self.options.rules.resolve(Role::Activation, shape, self.mesh.mesh());
        Ok(Array::from_host(&self.mesh, shape, &sharding, &bytes)?)
    }
}

impl Compiled {
    pub fn program(&self) -> &ModelProgram {
        &self.program
    }

    pub fn info(&self) -> &CompileInfo {
        self.executable.info()
    }

    /// Runs the program; `data` are the arguments before the cache. The cache is consumed and comes back
    /// updated, behind the other results.
    ///
    /// # Errors
    /// What the devices report.
    pub fn run<'a>(
        &'a self,
        data: Vec<Argument<'a>>,
        cache: Vec<Array>,
    ) -> Result<(Vec<Array>, Vec<Array>), EngineError> {
        self.run_with(data, cache, &[])
    }

    /// The same with the adapters of slots ([`AdapterSlots::arrays`]), if the program has room for them.
    ///
    /// # Errors
    /// What the devices report.
    pub fn run_with<'a>(
        &'a self,
        mut data: Vec<Argument<'a>>,
        cache: Vec<Array>,
        slots: &'a [Arc<Array>],
    ) -> Result<(Vec<Array>, Vec<Array>), EngineError> {
        data.extend(cache.into_iter().map(Argument::Donated));
        let mut slots = slots.iter();
        for (weight, spec) in self.weights.iter().zip(&self.program.parameters) {
            let array = weight.as_ref().or_else(|| slots.next());
            let not_given = || EngineError::NotGiven { name: spec.name.clone() };
            data.push(Argument::Borrowed(array.ok_or_else(not_given)?));
        }
        let mut outputs = self.executable.run(data)?.outputs;
        let cache = outputs.split_off(outputs.len() - self.program.cache);
        Ok((outputs, cache))
    }

    /// Runs prefill or decode; `data` are the arguments before `seen`.
    fn draw<'a>(
        &'a self,
        mut data: Vec<Argument<'a>>,
        state: State,
    ) -> Result<(Drawn, State), EngineError> {
        data.push(Argument::Donated(state.seen));
        let (outputs, cache) = self.run(data, state.cache)?;
        match <[Array; 4]>::try_from(outputs) {
            Ok([token, position, log_prob, seen]) => {
                Ok((Drawn { token, position, log_prob }, State { seen, cache }))
            }
            Err(outputs) => Err(EngineError::Results { count: outputs.len() }),
        }
    }
}

/// The bytes of an array as numbers of four bytes.
fn words(array: &Array) -> Result<Vec<u32>, EngineError> {
    let bytes = array.to_host()?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|chunk| u32::from_le_bytes(*chunk)).collect())
}

fn floats(array: &Array) -> Result<Vec<f32>, EngineError> {
    Ok(words(array)?.into_iter().map(f32::from_bits).collect())
}
