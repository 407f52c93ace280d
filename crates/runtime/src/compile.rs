//! From a program to something that runs here, or to an account of it for a target that is not
//! here. Asks the cache first; compiles in a worker process.

use graph::{Mesh, Program};

use crate::cache::{CacheKey, CompileCache, Lookup, plugin_digest};
use crate::chips;
use crate::device::{CPU_DEVICE_COUNT, Runtime};
use crate::discover::{PluginKind, PluginLocation};
use crate::environment::{
    Variable, compile_only_environment, cuda_tools, effective_environment, processor_features,
    processor_threads, required_environment,
};
use crate::error::{Error, Result};
use crate::executable::Executable;
use crate::fit::needed_and_available;
use crate::folders::CacheFolder;
use crate::mesh::DeviceMesh;
use crate::options::CompileOptions;
use crate::presets::presets;
use crate::settings::{Setting, Settings};
use crate::targets::Target;
use crate::worker::{
    self, Cost, Job, JobDevice, MemoryUse, Outcome, Report, WorkerError, WorkerLimits,
};

/// Compiles and remembers.
#[derive(Clone, Debug)]
pub struct Compiler {
    folder: CacheFolder,
    cache: CompileCache,
    limits: WorkerLimits,
}

/// Where a compiled program came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheUse {
    Hit,
    Miss,
    /// There was an entry and it was of no use; says why, which should reach the user.
    Replaced(String),
    /// It was compiled but could not be kept for the next time; says why, which should reach the
    /// user.
    NotKept(String),
}

/// How a program came to be.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileInfo {
    pub cache: CacheUse,
    /// What compiling took when it was compiled, which on a cache hit was not now.
    pub compile_seconds: f64,
    pub memory: Option<MemoryUse>,
    pub cost: Cost,
}

/// The outcome of compiling for a target that need not be here. Memory is per device.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetReport {
    pub target: Target,
    pub mesh: Mesh,
    pub fit: Fit,
    /// Nothing where the compiler refused, or its plugin keeps no account.
    pub memory: Option<MemoryUse>,
    /// What a program may use: the compiler's figure, else the data sheet's; nothing for the CPU.
    pub available_bytes: Option<u64>,
    pub compile_seconds: f64,
    pub cost: Cost,
    /// The optimized program and its format, if it was asked for.
    pub optimized_program: Option<pjrt::Program>,
    pub cache: CacheUse,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    Fits,
    DoesNotFit {
        /// Nothing if the compiler's sentence gives no figures.
        needed_bytes: Option<u64>,
        available_bytes: Option<u64>,
        /// The compiler's own words, or ours where it compiled what cannot run.
        message: String,
    },
}

/// What a program is for: compilers have options that suit one and not the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    #[default]
    Serving,
    Training,
}

/// What may be chosen when compiling.
#[derive(Clone, Debug, Default)]
pub struct CompileChoices {
    /// Which presets of the target apply.
    pub purpose: Purpose,
    /// Options of the plugin's compiler, over the presets of the target.
    pub overrides: Settings,
    /// Whether a target's optimized program is wanted; it can be many megabytes.
    pub optimized_program: bool,
}

impl Compiler {
    /// # Errors
    /// When `FUNGIBLE_CACHE_LIMIT` is set to something that is no size.
    pub fn new(folder: CacheFolder) -> Result<Compiler> {
        let cache = CompileCache::new(&folder)?;
        Ok(Compiler { folder, cache, limits: WorkerLimits::default() })
    }

    #[must_use]
    pub fn with_limits(mut self, limits: WorkerLimits) -> Compiler {
        self.limits = limits;
        self
    }

    pub fn cache(&self) -> &CompileCache {
        &self.cache
    }

    /// Compiles for a target that need not be here, with its plugin at `location`. The program's
    /// mesh must have as many devices as the target. Blocks, possibly for minutes.
    ///
    /// # Errors
    /// A program that does not fit is no error but a report; every other refusal is.
    pub fn compile_for(
        &self,
        program: &Program,
        target: &Target,
        location: &PluginLocation,
        choices: &CompileChoices,
    ) -> Result<TargetReport> {
        let devices = target.devices();
        if program.mesh.devices() != devices {
            return Err(Error::TooFewDevices {
                mesh: program.mesh.to_string(),
                needed: program.mesh.devices(),
                available: devices,
            });
        }
        let device = match target.topology() {
            Some(request) => JobDevice::Topology { name: request.name, options: request.options },
            None => cpu_client(devices),
        };
        let mut overrides = presets(Some(target.chip), choices.purpose, devices);
        overrides.extend(choices.overrides.iter().cloned());
        let options = CompileOptions { partitions: devices, device_ids: Vec::new(), overrides };
        let job = Job {
            plugin: location.path.clone(),
            device,
            optimized_program: choices.optimized_program,
            executable: false,
            options: options.encode(),
            program: program.text.clone(),
        };
        let mut environment = required_environment(location, devices);
        environment.extend(compile_only_environment(location));
        let request = Request { program, location, job: &job, environment: &environment };
        let (outcome, cache) = self.compile(&request, || {
            match worker::run(&job, &environment, self.limits, &self.folder) {
                Err(WorkerError::Crashed(crash)) if crash.recurs => Ok(Outcome::Crashed(crash)),
                outcome => Ok(outcome?),
            }
        })?;
        match outcome {
            Outcome::Crashed(crash) if cache == CacheUse::Hit => {
                let entry = self.cache.path(&self.key(&request)?);
                Err(Error::CrashedBefore { crash, entry })
            }
            outcome => target_report(program, target, outcome, cache),
        }
    }

    /// Takes the outcome from the cache, or from `run`, whose outcome it then keeps. Refusals are
    /// kept only if they say that the program does not fit, and crashes only for targets that are not
    /// here and if they would recur: others may have passing causes.
    ///
    /// A cache that cannot be read or written costs time and no result, so it is no error.
    fn compile(
        &self,
        request: &Request<'_>,
        run: impl FnOnce() -> Result<Outcome>,
    ) -> Result<(Outcome, CacheUse)> {
        let key = self.key(request)?;
        let cache = match self.cache.get(&key) {
            Ok(Lookup::Hit(bytes)) => match Outcome::from_bytes(&bytes) {
                Ok(outcome) => return Ok((outcome, CacheUse::Hit)),
                Err(error) => CacheUse::Replaced(error.to_string()),
            },
            Ok(Lookup::Miss) => CacheUse::Miss,
            Ok(Lookup::Damaged(reason)) => CacheUse::Replaced(reason),
            Err(error) => CacheUse::Replaced(error.to_string()),
        };
        let outcome = run()?;
        let keep = !matches!(outcome, Outcome::Refused { out_of_memory: false, .. });
        if keep
            && let Ok(bytes) = outcome.to_bytes()
            && let Err(error) = self.cache.put(&key, &bytes)
        {
            return Ok((outcome, CacheUse::NotKept(error.to_string())));
        }
        Ok((outcome, cache))
    }

    fn key(&self, request: &Request<'_>) -> Result<CacheKey> {
        let Request { program, location, job, environment } = request;
        let plugin = plugin_digest(&self.folder, &location.path)?;
        // The job names the plugin's path, which does not change the result. Nor do locations, unless
        // the optimized program is looked at: it says where in the source its instructions are from.
        let text = match job.optimized_program {
            true => &program.text,
            false => &program.text_without_locations,
        };
        let device = serde_json::to_vec(&job.device).unwrap_or_default();
        let wanted = [u8::from(job.optimized_program), u8::from(job.executable)];
        let variables = format!("{:?}", effective_environment(location.kind, environment));
        let (processor, threads) = match location.kind {
            PluginKind::Cpu => (processor_features(), processor_threads(environment)),
            PluginKind::Tpu | PluginKind::Cuda => (String::new(), String::new()),
        };
        let mut tools = String::new();
        for (name, path) in cuda_tools(location, environment) {
            tools += &format!("{name} {}\n", plugin_digest(&self.folder, &path)?);
        }
        Ok(CacheKey::new(&[
            ("plugin", plugin.as_bytes()),
            ("device", &device),
            ("wanted", &wanted),
            ("options", &job.options),
            ("environment", variables.as_bytes()),
            ("processor", processor.as_bytes()),
            ("threads", threads.as_bytes()),
            ("tools", tools.as_bytes()),
            ("text", text.as_bytes()),
        ]))
    }
}

/// Everything that a compilation's result depends on.
struct Request<'a> {
    program: &'a Program,
    location: &'a PluginLocation,
    job: &'a Job,
    /// What the compiler's process has in its environment on top of this one's.
    environment: &'a [Variable],
}

fn cpu_client(devices: usize) -> JobDevice {
    let count = Setting::Integer(devices as i64);
    JobDevice::Client { options: vec![(CPU_DEVICE_COUNT.to_string(), count)] }
}

fn target_report(
    program: &Program,
    target: &Target,
    outcome: Outcome,
    cache: CacheUse,
) -> Result<TargetReport> {
    let mut report = TargetReport {
        target: *target,
        mesh: program.mesh.clone(),
        fit: Fit::Fits,
        memory: None,
        available_bytes: target.memory_bytes_per_device(),
        compile_seconds: 0.0,
        cost: Cost::new(),
        optimized_program: None,
        cache,
    };
    match outcome {
        Outcome::Refused { out_of_memory: true, message } => {
            let (needed_bytes, available_bytes) = needed_and_available(&message).unzip();
            report.available_bytes = available_bytes.or(report.available_bytes);
            report.fit = Fit::DoesNotFit { needed_bytes, available_bytes, message };
        }
        Outcome::Refused { out_of_memory: false, message } => {
            return Err(Error::refused(&program.name, message));
        }
        Outcome::Crashed(crash) => return Err(WorkerError::Crashed(crash).into()),
        Outcome::Compiled(compiled) => {
            report.compile_seconds = compiled.compile_seconds;
            report.available_bytes = compiled.device_memory_bytes.or(report.available_bytes);
            report.memory = compiled.memory;
            report.cost = compiled.cost;
            if !compiled.optimized_program.is_empty() {
                report.optimized_program = Some(pjrt::Program {
                    format: compiled.optimized_program_format,
                    code: compiled.optimized_program,
                });
            }
            // Some compilers do not look at the device's memory.
            let needed = compiled.memory.map(|memory| memory.needed_bytes());
            if let (Some(needed), Some(available)) = (needed, report.available_bytes)
                && needed > available
            {
                report.fit = Fit::DoesNotFit {
                    needed_bytes: Some(needed),
                    available_bytes: Some(available),
                    message: "it compiled, but its memory is more than the device has".to_string(),
                };
            }
        }
    }
    Ok(report)
}

impl Runtime {
    /// Compiles the program for this runtime's devices, or takes it from the cache, and loads it.
    /// Blocks while compiling.
    ///
    /// CPU programs are compiled in a worker process if this program can be started as one.
    /// Programs for accelerators are compiled in this process: it holds the device, which the
    /// compiler measures kernels on and no second process can open.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::DoesNotFit`] with the compiler's words, and everything that
    /// can go wrong with the worker, the cache folder and the plugin.
    pub fn compile(&self, program: &Program, choices: &CompileChoices) -> Result<Executable> {
        let mesh = self.mesh(program.mesh.clone())?;
        let inner = &*self.inner;
        let compiler = &inner.compiler;
        let device = match inner.location.kind {
            PluginKind::Cpu => cpu_client(inner.cpu_devices),
            PluginKind::Tpu | PluginKind::Cuda => self.device_identity()?,
        };
        let kind = self.devices().first().map(pjrt::Device::kind);
        let partitions = mesh.devices().len();
        let chip = kind.and_then(chips::of_device);
        let mut overrides = presets(chip, choices.purpose, partitions);
        overrides.extend(choices.overrides.iter().cloned());
        let options = CompileOptions {
            partitions,
            device_ids: mesh.devices().iter().map(|device| i64::from(device.id())).collect(),
            overrides,
        };
        let job = Job {
            plugin: inner.location.path.clone(),
            device,
            optimized_program: false,
            executable: true,
            options: options.encode(),
            program: program.text.clone(),
        };
        // Devices of other processes are not there in a worker.
        let alone = self.devices().len() == inner.cpu_devices;
        let isolated = inner.location.kind == PluginKind::Cpu && alone && worker::is_available();
        // In this process the plugin has read the environment already, such as it is.
        let environment = match isolated {
            true => required_environment(&inner.location, inner.cpu_devices),
            false => Vec::new(),
        };
        let request =
            Request { program, location: &inner.location, job: &job, environment: &environment };
        let run = || match isolated {
            true => Ok(worker::run(&job, &environment, compiler.limits, &compiler.folder)?),
            false => Ok(worker::compile_with_client(&job, &inner.client)),
        };
        let (outcome, cache) = compiler.compile(&request, run)?;
        let report = accept(program, outcome)?;
        match self.load(program, &mesh, &report, cache.clone()) {
            // Compiling again would not change how much of the donated memory is reused.
            Err(Error::Plugin(error))
                if cache == CacheUse::Hit && !matches!(error, pjrt::Error::Donation { .. }) =>
            {
                // Another machine's or another version's code; the plugin knows better than our key.
                compiler.cache.remove(&compiler.key(&request)?);
                let (outcome, cache) = compiler.compile(&request, run)?;
                let report = accept(program, outcome)?;
                let cache = match cache {
                    CacheUse::NotKept(reason) => CacheUse::NotKept(reason),
                    _ => CacheUse::Replaced(error.to_string()),
                };
                self.load(program, &mesh, &report, cache)
            }
            loaded => loaded,
        }
    }

    fn load(
        &self,
        program: &Program,
        mesh: &DeviceMesh,
        report: &Report,
        cache: CacheUse,
    ) -> Result<Executable> {
        let loaded = self.inner.client.deserialize(&report.executable)?;
        let info = CompileInfo {
            cache,
            compile_seconds: report.compile_seconds,
            memory: report.memory,
            cost: report.cost.clone(),
        };
        Executable::new(program, mesh, loaded, info)
    }

    /// What the compiled code depends on: the devices' kinds and the driver's version. Spelled as a
    /// job's device, since it takes that place in the cache key.
    fn device_identity(&self) -> Result<JobDevice> {
        let client = &self.inner.client;
        let kinds: Vec<&str> = client.devices().iter().map(pjrt::Device::kind).collect();
        let version = Setting::Text(client.platform_version()?);
        let options = vec![("version".to_string(), version)];
        Ok(JobDevice::Topology { name: kinds.join(","), options })
    }
}

fn accept(program: &Program, outcome: Outcome) -> Result<Report> {
    let name = program.name.clone();
    match outcome {
        Outcome::Compiled(report) => Ok(report),
        Outcome::Crashed(crash) => Err(WorkerError::Crashed(crash).into()),
        Outcome::Refused { out_of_memory: false, message } => Err(Error::refused(&name, message)),
        Outcome::Refused { out_of_memory: true, message } => {
            Err(match needed_and_available(&message) {
                Some((needed_bytes, available_bytes)) => {
                    Error::DoesNotFit { program: name, needed_bytes, available_bytes, message }
                }
                None => Error::OutOfMemory { program: name, message },
            })
        }
    }
}
