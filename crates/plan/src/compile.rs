//! One program, compiled for one target: does it fit, in how much memory of which kind, in what time.
//! Knows programs only, not what they are for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use graph::{Input, Mesh, Program, Role};
use runtime::profile::{self, Profile, ProfileError, ProfileOptions};
use runtime::worker::MemoryUse;
use runtime::{
    CacheFolder, CacheUse, CompileChoices, Compiler, Discovery, Fit, PluginKind, PluginLocation,
    Purpose, Target, TargetReport,
};

use crate::here::Measurer;
use crate::row::{Memory, Misfit};

/// How many of a program's largest temporaries a plan names.
const TEMPORARIES: usize = 5;

/// Why a target cannot be planned for.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The target is left out, and the rest goes on.
    #[error(transparent)]
    NoPlugin(#[from] runtime::discover::DiscoverError),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(
        "the compiler of {target} compiled `{program}` but does not hand out what it made of it"
    )]
    NoProgram { target: String, program: String },
}

/// A program that fits.
pub struct Compiled {
    pub memory: Memory,
    /// What `memory` is made from.
    pub usage: MemoryUse,
    pub profile: Profile,
    pub compile_seconds: f64,
    pub cached: bool,
}

/// Compiles for targets, with the plugins that are here; may be shared between threads.
pub struct Planner {
    cache: CacheFolder,
    /// What starts this program again as one that measures.
    measuring: Option<(PathBuf, Vec<String>)>,
    discovery: Discovery,
    compiler: Compiler,
    found: Mutex<HashMap<PluginKind, PluginLocation>>,
}

impl Planner {
    /// # Errors
    /// Those of [`Compiler::new`].
    pub fn new(cache: CacheFolder) -> Result<Planner, runtime::Error> {
        Ok(Planner {
            discovery: Discovery::new(cache.clone()),
            compiler: Compiler::new(cache.clone())?,
            cache,
            measuring: None,
            found: Mutex::new(HashMap::new()),
        })
    }

    /// With `program` and `arguments`, which measure on this machine's processor
    /// ([`answer`](crate::here::answer::answer)).
    #[must_use]
    pub fn with_measuring(mut self, program: PathBuf, arguments: Vec<String>) -> Planner {
        self.measuring = Some((program, arguments));
        self
    }

    /// What measures on a processor, if anything does.
    ///
    /// # Errors
    /// As [`Planner::plugin`].
    pub fn measurer(&self, target: &Target) -> Result<Option<Measurer>, CompileError> {
        let location = self.plugin(target)?;
        let measuring = self.measuring.clone();
        Ok(measuring.map(|(program, arguments)| Measurer {
            program,
            arguments,
            cache: self.cache.clone(),
            location,
        }))
    }

    /// # Errors
    /// [`CompileError::NoPlugin`] with how to get it.
    pub fn plugin(&self, target: &Target) -> Result<PluginLocation, CompileError> {
        let kind = target.plugin();
        let known = || Some(self.found.lock().ok()?.get(&kind)?.clone());
        if let Some(location) = known() {
            return Ok(location);
        }
        let location = self.discovery.find(kind)?;
        if let Ok(mut found) = self.found.lock() {
            found.insert(kind, location.clone());
        }
        Ok(location)
    }

    /// Compiles, or takes from the cache. Blocks, possibly for minutes.
    ///
    /// # Errors
    /// All but that it does not fit, which is a result.
    pub fn compile(
        &self,
        program: &Program,
        purpose: Purpose,
        target: &Target,
    ) -> Result<Result<Compiled, Misfit>, CompileError> {
        self.compile_with(program, purpose, target, &ProfileOptions::default())
    }

    /// The same, with what is known of the program's loops.
    ///
    /// # Errors
    /// As [`Planner::compile`].
    pub fn compile_with(
        &self,
        program: &Program,
        purpose: Purpose,
        target: &Target,
        options: &ProfileOptions,
    ) -> Result<Result<Compiled, Misfit>, CompileError> {
        let location = self.plugin(target)?;
        let choices =
            CompileChoices { purpose, optimized_program: true, ..CompileChoices::default() };
        let report = self.compiler.compile_for(program, target, &location, &choices)?;
        if let Some(misfit) = misfit(&report) {
            return Ok(Err(misfit));
        }
        let Some(optimized) = &report.optimized_program else {
            let (target, program) = (target.to_string(), program.name.clone());
            return Err(CompileError::NoProgram { target, program });
        };
        let profile = profile::profile_with(&optimized.code, target, options)?;
        let mut memory = memory(program, &report);
        memory.largest_temporaries =
            profile.largest_temporaries.iter().take(TEMPORARIES).cloned().collect();
        Ok(Ok(Compiled {
            memory,
            usage: report.memory.unwrap_or_default(),
            profile,
            compile_seconds: report.compile_seconds,
            cached: report.cache == CacheUse::Hit,
        }))
    }
}

/// What must be in a device's memory before anything runs, if that alone is more than there is: then no
/// compiler need look at it.
pub fn too_large(argument_bytes: u64, target: &Target) -> Option<Misfit> {
    let available = target.memory_bytes_per_device()?;
    (argument_bytes > available).then(|| Misfit {
        reason: "what the program is given does not fit by itself".to_string(),
        needed_bytes: Some(argument_bytes),
        available_bytes: Some(available),
        compiled: false,
    })
}

fn misfit(report: &TargetReport) -> Option<Misfit> {
    let Fit::DoesNotFit { needed_bytes, available_bytes, message } = &report.fit else {
        return None;
    };
    Some(Misfit {
        reason: message.lines().next().unwrap_or_default().to_string(),
        needed_bytes: *needed_bytes,
        available_bytes: available_bytes.or(report.available_bytes),
        compiled: true,
    })
}

fn memory(program: &Program, report: &TargetReport) -> Memory {
    let of = |roles: &[Role]| {
        let inputs = program.inputs.iter().filter(|input| roles.contains(&input.role));
        inputs.map(|input| bytes_on_device(input, &program.mesh)).sum::<u64>()
    };
    let weights_bytes = of(&[Role::Parameter]);
    let optimizer_bytes = of(&[Role::OptimizerState, Role::Gathered]);
    let kv_cache_bytes = of(&[Role::KvCache]);
    let counted = weights_bytes + optimizer_bytes + kv_cache_bytes;
    let used = report.memory.unwrap_or_default();
    Memory {
        weights_bytes,
        optimizer_bytes,
        kv_cache_bytes,
        other_argument_bytes: used.argument_bytes.saturating_sub(counted),
        temporary_bytes: used.temporary_bytes,
        code_bytes: used.generated_code_bytes,
        needed_bytes: used.needed_bytes(),
        available_bytes: report.available_bytes,
        largest_temporaries: Vec::new(),
    }
}

/// One device's share of an argument.
pub fn bytes_on_device(input: &Input, mesh: &Mesh) -> u64 {
    let pieces: usize = input.sharding.pieces(mesh).iter().product();
    (input.shape.bytes() / pieces.max(1)) as u64
}
