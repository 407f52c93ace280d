//! From flags to a model's serving programs: the plugin with its native functions, the shapes, the
//! memory for the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use graph::DType;
use llm::ModelFiles;
use llm::engine::Engine;
use llm::models::{KvCache, Layers, PageShape};
use llm::programs::ProgramOptions;
use llm::weights::Quantization as Held;
use runtime::{PluginKind, Runtime, RuntimeOptions};
use serve::engine::{
    Device, EngineSettings, LadderChoice, Policy, Programs, blocks_ladder, ladder,
};

use crate::arguments::serve::{EngineArguments, Quantization};
use crate::console::{self, Progress};
use crate::failure::{Exit, Failure};
use crate::model;
use crate::open::{self, Place};

/// Of a CPU's memory, what the cache takes if nobody says otherwise.
const CPU_CACHE_BYTES: u64 = 4 << 30;

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
    vec![
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
    ]
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

impl From<Quantization> for Held {
    fn from(quantization: Quantization) -> Held {
        match quantization {
            Quantization::Auto => Held::AsStored,
            Quantization::None => Held::None,
            Quantization::Q8 => Held::Q8,
            Quantization::Q4 => Held::Q4,
        }
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
    let place = Place::find(device.place.device, device.place.plugin.as_deref(), &progress)?;
    place.restart_if_needed(mesh.devices())?;
    let files = model::open(model, &place.cache, &progress)?;
    let mut runtime_options = RuntimeOptions::new(place.kind).with_cpu_devices(mesh.devices());
    runtime_options.register = register;
    let runtime = Runtime::open(&place.discovery, &runtime_options)?;
    let native = place.kind == PluginKind::Cpu && mesh.devices() == 1 && runtime.plugin().has_ffi();
    let mut options = ProgramOptions::for_plugin(place.kind);
    options.mesh = mesh;
    if let Some(dtype) = device.place.dtype {
        options.dtype = dtype.into();
    }
    options.kv_dtype = arguments.kv_cache_dtype.map(DType::from);
    let in_panels = native && options.dtype == DType::F32 && options.layers == Layers::Unrolled;
    if in_panels {
        options.kernels.native = true;
        let held = arguments.quantization.into();
        let packings = files.checkpoint.packings(held).map_err(llm::engine::EngineError::from)?;
        options.panels = Some(Arc::new(packings));
    } else if arguments.quantization != Quantization::Auto {
        return Err(Failure::usage(
            "--quantization is for serving in f32 on one CPU device; leave it out here",
        ));
    }
    let choice = LadderChoice {
        context: device.context,
        sequences: arguments.max_num_seqs,
        page: arguments.block_size,
        pages: None,
        cache_bytes: arguments.kv_cache_memory.unwrap_or(CPU_CACHE_BYTES),
        chunk: arguments.max_num_batched_tokens,
        guesses: arguments.num_speculative_tokens,
        looks_ahead: place.kind != PluginKind::Cpu,
    };
    let held = options.kv_dtype.unwrap_or(options.dtype);
    let one = PageShape { pages: 1, page: 1 };
    let shapes = KvCache::page_shapes(&files.config, options.layers, one, held);
    let token_bytes = shapes.iter().map(graph::Shape::bytes).sum();
    let ladder = ladder(&files.config, &choice, token_bytes);
    let blocks = blocks_ladder(&ladder, in_panels);
    let on_progress = open::show_weights(progress.clone());
    let context = Some(ladder.context);
    let engine = Engine::new(&files, runtime, options, context, on_progress)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
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
