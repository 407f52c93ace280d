//! From flags to a model's serving programs: the plugin with its native functions, the shapes, the
//! memory for the cache.

pub mod adapters;
mod memory;
pub mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use graph::{DType, QuantizedKernel};
use llm::engine::{Engine, EngineError};
use llm::models::{Layers, LoraSlots};
use llm::programs::ProgramOptions;
use llm::weights::Quantization as Held;
use llm::{Checkpoint, ModelFiles};
use pjrt::Value;
use runtime::{CompileChoices, PluginKind, Runtime, RuntimeOptions};
use serve::engine::{
    CPU_CACHE_BYTES, Compilation, Device, EngineSettings, GPU_MEMORY_SHARE, Key, Policy, Programs,
    Shapes, for_each_key, usable_bytes,
};

use crate::arguments::serve::{EngineArguments, Quantization};
use crate::console::{self, Progress};
use crate::failure::{Exit, Failure};
use crate::model;
use crate::open::{self, Place};

/// A model that is ready to be served.
pub struct Ready {
    pub files: ModelFiles,
    pub programs: Programs,
    pub settings: EngineSettings,
}

/// What a user should know of how a model is served.
pub fn summary(programs: &Programs) -> Vec<String> {
    let (ladder, engine) = (programs.ladder(), programs.engine());
    let cache_bytes = programs.cache_bytes() as u64;
    let tokens = ladder.pages * ladder.page;
    let mut lines = vec![
        format!(
            "weights {}; KV cache {} for {tokens} tokens in {} pages of {}: {:.1} sequences of the full context of {}",
            console::gibibytes(engine.weight_bytes() as u64),
            console::gibibytes(cache_bytes),
            ladder.pages,
            ladder.page,
            tokens as f64 / ladder.context as f64,
            ladder.context,
        ),
        format!(
            "up to {} sequences at once, prompts in chunks of up to {} tokens, {} programs",
            ladder.slots,
            ladder.chunks.last().copied().unwrap_or_default(),
            programs.compiled().count(),
        ),
    ];
    if let Some(room) = ladder.adapters {
        let bytes = console::gibibytes(programs.adapter_bytes() as u64);
        let LoraSlots { slots, rank } = room;
        lines.push(format!("room for {slots} adapters of up to rank {rank}: {bytes}"));
    }
    lines
}

/// Starts the process again where its plugin needs something in its environment.
pub fn restart_if_needed(arguments: &EngineArguments) -> Result<(), Failure> {
    let place = &arguments.device.place;
    let progress = Progress::new();
    let found = Place::find(place.device, place.plugin.as_deref(), &progress)?;
    found.restart_if_needed(place.mesh()?.devices())
}

/// Registers native functions with a plugin that has room for them. A program that calls one which is
/// not there does not compile, and says so.
pub fn register(plugin: &pjrt::Plugin) -> Result<(), String> {
    if plugin.has_ffi() {
        let _ = kernels::register(plugin);
    }
    Ok(())
}

/// Has matrices held as it was asked for: as the CPU's native functions read them where those are at
/// hand, in int8 on TPUs and GPUs.
pub fn hold(
    options: &mut ProgramOptions,
    quantization: Quantization,
    kind: PluginKind,
    checkpoint: Option<&Checkpoint>,
) -> Result<(), Failure> {
    if matches!(quantization, Quantization::Int8 | Quantization::W8a8) && kind != PluginKind::Cpu {
        options.held = Some(DType::S8);
        options.kernels.quantized = match quantization {
            Quantization::W8a8 => QuantizedKernel::Rounded,
            _ => QuantizedKernel::Widened,
        };
        return Ok(());
    }
    let held = held_on_cpu(quantization)?;
    if let Some(checkpoint) = checkpoint {
        options.kernels.native = true;
        let packings = checkpoint.packings(held).map_err(EngineError::from)?;
        options.panels = Some(Arc::new(packings));
        return Ok(());
    }
    match quantization {
        Quantization::Auto => Ok(()),
        _ => Err(Failure::usage(
            "--quantization none, q8 and q4 are for serving in f32 on one CPU device; leave it out here, or take int8 on a TPU or GPU",
        )),
    }
}

/// How native functions of the CPU are to read matrices.
pub fn held_on_cpu(quantization: Quantization) -> Result<Held, Failure> {
    match quantization {
        Quantization::Auto => Ok(Held::AsStored),
        Quantization::None => Ok(Held::None),
        Quantization::Q8 => Ok(Held::Q8),
        Quantization::Q4 => Ok(Held::Q4),
        Quantization::Int8 | Quantization::W8a8 => Err(Failure::usage(
            "--quantization int8 and w8a8 are for TPUs and GPUs; on a CPU q8 is the quick way to 8 bits",
        )),
    }
}

impl EngineArguments {
    pub fn settings(&self) -> EngineSettings {
        EngineSettings {
            policy: Policy {
                batched_tokens: self.max_num_batched_tokens,
                prefix_cache: !self.no_enable_prefix_caching,
            },
            waiting_max: self.max_waiting,
        }
    }
}

/// Finds or fetches plugin and model, compiles what serving needs, and loads the weights.
pub fn prepare(model: &str, arguments: &EngineArguments) -> Result<Ready, Failure> {
    let progress = Arc::new(Progress::new());
    let device = &arguments.device;
    let mesh = device.place.mesh()?;
    let room = adapters::room(arguments)?;
    let place = Place::find(device.place.device, device.place.plugin.as_deref(), &progress)?;
    place.restart_if_needed(mesh.devices())?;
    let files = model::open(model, &place.cache, &progress)?;
    let mut runtime_options = RuntimeOptions::new(place.kind).with_cpu_devices(mesh.devices());
    runtime_options.register = register;
    if place.kind == PluginKind::Cuda {
        let share = Value::Float(GPU_MEMORY_SHARE);
        runtime_options.client_options.push(("memory_fraction".to_string(), share));
    }
    let runtime = Runtime::open(&place.discovery, &runtime_options)?;
    let native = place.kind == PluginKind::Cpu && mesh.devices() == 1 && runtime.plugin().has_ffi();
    let mut options = ProgramOptions::for_plugin(place.kind);
    options.mesh = mesh;
    if let Some(dtype) = device.place.dtype {
        options.dtype = dtype.into();
    }
    options.kv_dtype = arguments.kv_cache_dtype.map(DType::from);
    let in_panels = native && options.dtype == DType::F32 && options.layers == Layers::Unrolled;
    let checkpoint = in_panels.then_some(&*files.checkpoint);
    hold(&mut options, arguments.quantization, place.kind, checkpoint)?;
    let own = files.config.max_position_embeddings;
    if let Some(wanted) = device.context.filter(|&wanted| wanted > own) {
        return Err(Failure::usage(format!(
            "--context is {wanted}, but this model was made for {own} tokens; ask for at most that"
        )));
    }
    let shapes = Shapes::new(&files.config, &options, &shapes::wish(arguments, room), place.kind);
    let on_progress = open::show_weights(progress.clone());
    let context = Some(shapes.context());
    let engine = Engine::new(&files, runtime, options.clone(), context, on_progress)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let (ladder, blocks) = match device_bytes(&engine, place.kind) {
        Some(available_bytes) => {
            // What an adapter replaces is there until the steps under way have ended.
            let available_bytes = available_bytes.saturating_sub(shapes.adapter_bytes());
            progress.spin("finding out how large the KV cache can be");
            let pages = shapes::fill(&shapes, arguments.kv_cache_memory, |keys| {
                compile(&engine, keys, threads, available_bytes)
            })?;
            shapes.with_pages(pages)
        }
        None => {
            let weights = memory::weight_bytes(&files, &options)? + shapes.adapter_bytes();
            let host = memory::Host::here();
            let bytes = memory::cache_bytes(arguments.kv_cache_memory, weights, &host)?;
            if arguments.kv_cache_memory.is_none() && bytes < CPU_CACHE_BYTES {
                let (free, most) = (host.available_bytes.unwrap_or(0), console::gibibytes(bytes));
                progress.clear();
                console::remark(format!(
                    "{} of memory are free and the weights take {}, so the KV cache gets at most {most}; --kv-cache-memory decides otherwise",
                    console::gibibytes(free),
                    console::gibibytes(weights),
                ));
            }
            shapes.by_bytes(bytes)
        }
    };
    if device.context.is_none() && ladder.context < own {
        progress.clear();
        console::remark(format!(
            "the KV cache has memory for {} tokens, so that is the longest sequence; this model could go up to {own}",
            ladder.context
        ));
    }
    if let Some(wanted) = device.context.filter(|&wanted| wanted > ladder.context) {
        return Err(Failure::usage(format!(
            "--context is {wanted}, but the KV cache has memory for {} tokens only; raise --kv-cache-memory",
            ladder.context
        )));
    }
    let shown = AtomicUsize::new(0);
    let on_ready = |done: usize, total: usize| {
        if done >= shown.fetch_max(done, Ordering::Relaxed) {
            progress.steps(done as u64, total as u64, "programs ready (compiled once, then kept)");
        }
    };
    let programs = Programs::prepare(engine, ladder, blocks, threads, &on_ready)
        .map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
    progress.clear();
    Ok(Ready { files, programs, settings: arguments.settings() })
}

/// What programs of a model can use on each of its devices, where they have memory of their own and say
/// how much.
fn device_bytes(engine: &Engine, kind: PluginKind) -> Option<u64> {
    let stats = |device: &pjrt::Device| device.memory_stats().ok()?.bytes_limit;
    match kind {
        PluginKind::Cpu => None,
        // The allocator was told its share.
        PluginKind::Cuda => engine.mesh().devices().iter().filter_map(stats).min(),
        PluginKind::Tpu => {
            let limit = engine.mesh().devices().iter().filter_map(stats).min()?;
            Some(usable_bytes(kind, limit))
        }
    }
}

/// Compiles programs for devices that are here, or takes them from the cache.
fn compile(
    engine: &Engine,
    keys: &[Key],
    threads: usize,
    available_bytes: u64,
) -> Result<Compilation, Failure> {
    let done = for_each_key(keys, threads, |key| {
        let traced = key.trace(engine.config(), engine.options()).map_err(EngineError::from)?;
        let compiled = engine.runtime().compile(&traced.program, &CompileChoices::default());
        Ok::<_, EngineError>(compiled?.info().memory.unwrap_or_default())
    });
    match done {
        Ok(uses) => Ok(Compilation::Done { uses, available_bytes }),
        Err(EngineError::Runtime(runtime::Error::DoesNotFit {
            needed_bytes,
            available_bytes,
            ..
        })) => Ok(Compilation::DoesNotFit { bytes: Some((needed_bytes, available_bytes)) }),
        Err(EngineError::Runtime(runtime::Error::OutOfMemory { .. })) => {
            Ok(Compilation::DoesNotFit { bytes: None })
        }
        Err(error) => Err(error.into()),
    }
}
