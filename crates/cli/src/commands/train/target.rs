//! What a training step needs on chips that need not be here.

use graph::{AttentionKernel, Mesh, Program};
use llm::ModelConfig;
use runtime::profile::{self, Profile};
use runtime::{
    CacheFolder, CompileChoices, Compiler, Discovery, Fit, Purpose, Target, TargetReport,
};
use serde_json::json;
use train::config::{Config, check_mesh};
use train::metrics::{Trained, flops_per_token, model_flops_utilization};
use train::setup::step_options;
use train::step::{StepOptions, train_step};

use crate::console::{self, BOLD, GREEN, Progress, RED, gibibytes, short_number, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::{model, open};

/// `fungible train --compile-only`.
pub fn compile_only(config: &Config, targets: &[String], as_json: bool) -> Outcome {
    let targets: Vec<Target> =
        targets.iter().map(|name| open::target(name)).collect::<Result<_, _>>()?;
    let progress = Progress::new();
    let cache = CacheFolder::from_environment()?;
    let sizes = model_config(config, &cache, &progress)?;
    let steps: Vec<(Target, Program)> = targets
        .into_iter()
        .map(|target| {
            let options = options(config, &sizes, &target)?;
            Ok((target, train_step(&sizes, &options)?.program))
        })
        .collect::<Result<_, Failure>>()?;
    let discovery = Discovery::new(cache.clone());
    let compiler = Compiler::new(cache)?;
    let mut values = Vec::new();
    let mut misfits = 0;
    for (target, program) in &steps {
        let location = discovery.find(target.plugin())?;
        let choices = CompileChoices {
            purpose: Purpose::Training,
            optimized_program: true,
            ..CompileChoices::default()
        };
        let task = format!("compiling {} for {target}", program.name);
        let report = progress
            .during(&task, || compiler.compile_for(program, target, &location, &choices))?;
        let profile = match &report.optimized_program {
            Some(optimized) if profile::check(target).is_ok() => {
                Some(profile::profile(&optimized.code, target)?)
            }
            _ => None,
        };
        misfits += usize::from(report.fit != Fit::Fits);
        let speed = profile.as_ref().map(|profile| Speed::of(config, &sizes, target, profile));
        match as_json {
            true => values.push(value(target, &report, speed.as_ref())),
            false => print(target, &report, speed.as_ref()),
        }
    }
    if as_json {
        console::line(json!({"steps": values}));
    }
    match misfits {
        0 => Ok(()),
        _ => Err(Failure::new(
            Exit::DoesNotFit,
            format!(
                "the step does not fit {misfits} of {} targets; more chips, `training.remat = \"full\"` or more `training.accumulation` need less memory",
                steps.len()
            ),
        )),
    }
}

/// The training step of a config file for a target, for whoever wants to look into it; if asked for,
/// without attention, which is wrong but shows what the rest costs.
pub fn step_program(
    path: &std::path::Path,
    target: &Target,
    without_attention: bool,
) -> Result<Program, Failure> {
    let config = Config::load(path, &[])?;
    let cache = CacheFolder::from_environment()?;
    let sizes = model_config(&config, &cache, &Progress::new())?;
    let mut options = options(&config, &sizes, target)?;
    if without_attention {
        options.kernels.attention = AttentionKernel::LeftOut;
    }
    Ok(train_step(&sizes, &options)?.program)
}

/// The model that a config trains; neither weights nor data need be here.
pub fn model_config(
    config: &Config,
    cache: &CacheFolder,
    progress: &Progress,
) -> Result<ModelConfig, Failure> {
    if let Some(name) = &config.model.from {
        return model::config(name, cache, progress);
    }
    // A tokenizer that is named decides the vocabulary, as it does when training.
    let vocabulary = match &config.model.tokenizer {
        Some(name) => Some(model::config(name, cache, progress)?.vocab_size),
        None => config.model.vocabulary_size,
    };
    let sizes = config.model.from_scratch(vocabulary, config.data.sequence_length)?;
    sizes.ok_or_else(|| Failure::usage("the config names no model"))
}

fn options(config: &Config, sizes: &ModelConfig, target: &Target) -> Result<StepOptions, Failure> {
    let mesh = mesh_for(config, sizes, target)?;
    Ok(step_options(config, sizes, target.plugin(), mesh)?)
}

/// The config's mesh if it has as many devices as the target; if the config leaves it open, all of
/// them along `fsdp`, else along `data`.
fn mesh_for(config: &Config, sizes: &ModelConfig, target: &Target) -> Result<Mesh, Failure> {
    let (mesh, devices) = (config.mesh.to_mesh(), target.devices());
    if mesh.devices() == devices {
        return Ok(mesh);
    }
    if mesh.devices() > 1 {
        return Err(Failure::usage(format!(
            "the config's mesh {mesh} has {} devices, {target} has {devices}; change it with --set mesh.fsdp=... or leave it out",
            mesh.devices()
        )));
    }
    let sequences = config.training.batch_size / config.training.accumulation.max(1);
    let along = |axis: &str| Mesh::new(&[(axis, devices)]);
    let candidates = [along("fsdp"), along("data")];
    let fits = |mesh: &&Mesh| check_mesh(mesh, sizes, sequences).is_ok();
    match candidates.iter().find(fits) {
        Some(mesh) => Ok(mesh.clone()),
        None => Err(check_mesh(&candidates[0], sizes, sequences)
            .map_or_else(Failure::from, |()| Failure::usage("no mesh suits"))),
    }
}

/// What the compiler's schedule says of speed.
struct Speed {
    seconds: f64,
    low_seconds: f64,
    high_seconds: f64,
    tokens_per_second: f64,
    utilization: Option<f64>,
}

impl Speed {
    fn of(config: &Config, sizes: &ModelConfig, target: &Target, profile: &Profile) -> Speed {
        let length = config.data.sequence_length;
        let tokens = (config.training.batch_size * length) as f64;
        let tokens_per_second = tokens / profile.total_seconds;
        let trained = match &config.lora {
            Some(_) => Trained::Lora { adapter_parameters: 0 },
            None => Trained::All,
        };
        let flops = flops_per_token(sizes, length, trained);
        let (chip, devices) = (target.chip, target.devices());
        let utilization = model_flops_utilization(flops, tokens_per_second, chip, devices);
        Speed {
            seconds: profile.total_seconds,
            low_seconds: profile.low_seconds,
            high_seconds: profile.high_seconds,
            tokens_per_second,
            utilization,
        }
    }
}

fn print(target: &Target, report: &TargetReport, speed: Option<&Speed>) {
    let heading = format!("{target} (mesh {})", report.mesh);
    console::styled_line(styled(BOLD, &heading));
    let available = report.available_bytes.map_or_else(|| "?".to_string(), gibibytes);
    match (&report.fit, &report.memory) {
        (Fit::DoesNotFit { needed_bytes, message, .. }, _) => {
            let needed = needed_bytes.map_or_else(|| "more".to_string(), gibibytes);
            let first = message.lines().next().unwrap_or_default();
            console::styled_line(format_args!(
                "  {}  needs {needed} of {available} per device: {first}",
                styled(RED, "too big")
            ));
        }
        (Fit::Fits, Some(memory)) => console::styled_line(format_args!(
            "  {}  weights and optimizer {}, temporaries {}, peak {} of {available} per device",
            styled(GREEN, "fits"),
            gibibytes(memory.argument_bytes),
            gibibytes(memory.temporary_bytes),
            gibibytes(memory.needed_bytes()),
        )),
        (Fit::Fits, None) => console::styled_line(styled(GREEN, "  fits")),
    }
    if let Some(Speed { seconds, low_seconds, high_seconds, tokens_per_second, utilization }) =
        speed
    {
        let share = utilization.map_or_else(String::new, |share| {
            format!(", {:.0} % of the chips' peak", share * 100.0)
        });
        console::line(format_args!(
            "  estimated from the compiled program: {:.0} ms per step ({:.0} to {:.0}), {} tokens/s{share} (compiled, not run)",
            seconds * 1e3,
            low_seconds * 1e3,
            high_seconds * 1e3,
            short_number(*tokens_per_second),
        ));
    }
}

fn value(target: &Target, report: &TargetReport, speed: Option<&Speed>) -> serde_json::Value {
    let (needed, message) = match &report.fit {
        Fit::Fits => (None, None),
        Fit::DoesNotFit { needed_bytes, message, .. } => (*needed_bytes, Some(message)),
    };
    json!({
        "target": target.to_string(),
        "mesh": report.mesh.to_string(),
        "fits": report.fit == Fit::Fits,
        "needed_bytes": report.memory.map(|memory| memory.needed_bytes()).or(needed),
        "argument_bytes": report.memory.map(|memory| memory.argument_bytes),
        "temporary_bytes": report.memory.map(|memory| memory.temporary_bytes),
        "available_bytes": report.available_bytes,
        "message": message,
        "estimated_step_seconds": speed.map(|speed| speed.seconds),
        "estimated_step_seconds_low": speed.map(|speed| speed.low_seconds),
        "estimated_step_seconds_high": speed.map(|speed| speed.high_seconds),
        "estimated_tokens_per_second": speed.map(|speed| speed.tokens_per_second),
        "estimated_mfu": speed.and_then(|speed| speed.utilization),
        "compile_seconds": report.compile_seconds,
    })
}
