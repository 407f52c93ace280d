//! From flags to an engine: the plugin, the devices, the model on them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use graph::{DType, Mesh};
use llm::engine::{Engine, Progress as Step, Sampling};
use llm::programs::ProgramOptions;
use llm::{FloatType, ModelFiles};
use runtime::environment::Variable;
use runtime::targets::TargetError;
use runtime::{
    CacheFolder, CacheUse, CompileInfo, Discovery, PluginKind, Runtime, RuntimeOptions, Target,
};

use crate::arguments::{Device, DeviceArguments, Dtype, PlaceArguments, SamplingArguments};
use crate::console::Progress;
use crate::failure::{Exit, Failure};
use crate::model;

/// A model that is ready, with its text side.
pub struct Opened {
    pub files: ModelFiles,
    pub engine: Engine,
    pub progress: Arc<Progress>,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> DType {
        match dtype {
            Dtype::F32 => DType::F32,
            Dtype::Bf16 => DType::Bf16,
            Dtype::F16 => DType::F16,
        }
    }
}

impl From<Dtype> for FloatType {
    fn from(dtype: Dtype) -> FloatType {
        match dtype {
            Dtype::F32 => FloatType::F32,
            Dtype::Bf16 => FloatType::Bf16,
            Dtype::F16 => FloatType::F16,
        }
    }
}

impl SamplingArguments {
    /// The settings, checked, with a command's own default temperature.
    pub fn settings(&self, default_temperature: f32) -> Result<Sampling, Failure> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(default_temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        sampling.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(sampling)
    }
}

impl PlaceArguments {
    /// The mesh that was asked for, or a single device.
    pub fn mesh(&self) -> Result<Mesh, Failure> {
        self.mesh.as_deref().map_or_else(|| Ok(Mesh::single()), mesh)
    }
}

/// Where programs can run: a kind of device and how to get at its plugin.
pub struct Place {
    pub cache: CacheFolder,
    pub discovery: Discovery,
    pub kind: PluginKind,
}

impl Place {
    /// Finds the plugin, fetching the CPU's if it is the one and is not here.
    pub fn find(
        device: Device,
        plugin: Option<&Path>,
        progress: &Progress,
    ) -> Result<Place, Failure> {
        let cache = CacheFolder::from_environment()?;
        let mut discovery = Discovery::new(cache.clone());
        let kind = device_kind(device, &discovery);
        if let Some(plugin) = plugin {
            discovery = discovery.with_plugin(kind, plugin);
        }
        if kind == PluginKind::Cpu && plugin.is_none() && discovery.find(kind).is_err() {
            install_cpu_plugin(&cache, progress)?;
            discovery = Discovery::new(cache.clone());
        }
        Ok(Place { cache, discovery, kind })
    }

    /// Starts the process again where a plugin for so many devices needs something in its
    /// environment, which it reads while it is loaded.
    pub fn restart_if_needed(&self, devices: usize) -> Result<(), Failure> {
        let location = self.discovery.find(self.kind)?;
        restart_with(&runtime::environment::required_environment(&location, devices))
    }
}

/// Finds or fetches plugin and model, and puts them together.
pub fn open(model: &str, arguments: &DeviceArguments) -> Result<Opened, Failure> {
    let progress = Arc::new(Progress::new());
    let DeviceArguments { place: arguments, context } = arguments;
    let mesh = arguments.mesh()?;
    let place = Place::find(arguments.device, arguments.plugin.as_deref(), &progress)?;
    place.restart_if_needed(mesh.devices())?;
    let files = model::open(model, &place.cache, &progress)?;
    let runtime_options = RuntimeOptions::new(place.kind).with_cpu_devices(mesh.devices());
    let runtime = Runtime::open(&place.discovery, &runtime_options)?;
    let mut options = ProgramOptions::for_plugin(place.kind);
    options.mesh = mesh;
    if let Some(dtype) = arguments.dtype {
        options.dtype = dtype.into();
    }
    let on_progress = show(progress.clone());
    let engine = Engine::new(&files, runtime, options, *context, on_progress)?;
    Ok(Opened { files, engine, progress })
}

/// A mesh as given on the command line.
pub fn mesh(text: &str) -> Result<Mesh, Failure> {
    runtime::parse_mesh(text).map_err(|error| Failure::usage(error.to_string()))
}

/// A target as given on the command line.
pub fn target(name: &str) -> Result<Target, Failure> {
    name.parse().map_err(|error: TargetError| Failure::usage(error.to_string()))
}

/// The registry's CPU plugin, fetched on first use.
pub fn install_cpu_plugin(cache: &CacheFolder, progress: &Progress) -> Result<(), Failure> {
    match runtime::registry::find(PluginKind::Cpu.package()) {
        Some(package) => model::install(package, cache, progress).map(drop),
        None => Err(Failure::new(Exit::Failure, "the registry has no CPU plugin")),
    }
}

fn device_kind(device: Device, discovery: &Discovery) -> PluginKind {
    let present = |paths: &[&str]| paths.iter().any(|path| Path::new(path).exists());
    let usable = |kind: PluginKind| discovery.find(kind).is_ok();
    match device {
        Device::Cpu => PluginKind::Cpu,
        Device::Cuda => PluginKind::Cuda,
        Device::Tpu => PluginKind::Tpu,
        Device::Auto if present(&["/dev/nvidia0"]) && usable(PluginKind::Cuda) => PluginKind::Cuda,
        Device::Auto if present(&["/dev/accel0", "/dev/vfio/0"]) && usable(PluginKind::Tpu) => {
            PluginKind::Tpu
        }
        Device::Auto => PluginKind::Cpu,
    }
}

/// Starts the process again with more in its environment, at most once.
pub fn restart_with(variables: &[Variable]) -> Result<(), Failure> {
    runtime::environment::restart_with(variables).map_or(Ok(()), become_command)
}

/// Goes on as another process. Returns only if that cannot be.
pub fn become_command(mut command: Command) -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(Failure::new(Exit::Failure, format!("could not start again: {error}")))
    }
    #[cfg(not(unix))]
    {
        let status = command.status()?;
        runtime::end_process(status.code().unwrap_or(1));
    }
}

/// Shows the weights being loaded and what is odd about them, where programs are counted elsewhere.
pub fn show_weights(progress: Arc<Progress>) -> Box<llm::engine::OnProgress> {
    let all = show(progress);
    Box::new(move |step| match step {
        Step::Compiling { .. } => {}
        Step::Weights { .. } | Step::Unused { .. } | Step::Compiled { .. } => all(step),
    })
}

/// Shows what takes long while a model gets ready.
fn show(progress: Arc<Progress>) -> Box<llm::engine::OnProgress> {
    Box::new(move |step| match step {
        Step::Weights { done_bytes, total_bytes } => {
            progress.bytes("loading weights", done_bytes, total_bytes);
            if done_bytes == total_bytes {
                progress.clear();
            }
        }
        Step::Compiling { program } => {
            progress.spin(&format!("preparing {program} (compiled once, then kept)"));
        }
        Step::Unused { names } => {
            let some = names.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            crate::console::warning(&format!(
                "{} tensors of the checkpoint are not used by this model ({some}, ...); if answers look wrong, its config does not describe it",
                names.len()
            ));
        }
        Step::Compiled { program, info } => {
            progress.clear();
            compiled(program, info);
        }
    })
}

/// Says what a user should know of how a compiled program came to be.
pub fn compiled(program: &str, info: &CompileInfo) {
    match &info.cache {
        CacheUse::Hit | CacheUse::Miss => {}
        CacheUse::Replaced(reason) => {
            crate::console::warning(&format!("{program} was compiled again: {reason}"));
        }
        CacheUse::NotKept(reason) => crate::console::warning(&format!(
            "{program} was compiled but not kept for the next time: {reason}"
        )),
    }
}
