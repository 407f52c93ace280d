//! `fungible train`: from a config file to a run, and what people see of it.

mod end;
pub mod show;
pub mod stop;
pub mod target;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use llm::ModelFiles;
use runtime::distributed::{GroupOptions, Launch, LaunchFlags, ProcessGroup, Variables};
use runtime::{PluginKind, Runtime, RuntimeOptions};
use train::checkpoint::Checkpoints;
use train::config::Config;
use train::setup::{Model, SavedModel, step_options};
use train::trainer::{Beginning, Records, Setup, TrainError, Trainer, saved_config};

use crate::arguments::TrainArguments;
use crate::console::{self, Progress};
use crate::failure::{Exit, Failure, Outcome};
use crate::model;
use crate::open::Place;

use stop::Stop;

/// How long processes wait for each other to say what they are about to do.
const AGREEMENT: Duration = Duration::from_secs(300);

pub fn run(arguments: &TrainArguments) -> Outcome {
    if arguments.keys {
        console::line(Config::reference().trim_end());
        return Ok(());
    }
    let Some(path) = &arguments.config else {
        return Err(Failure::usage("give a config file, such as examples/shakespeare.toml"));
    };
    let config = Config::load(path, &arguments.set)
        .map_err(|error| Failure::usage(Failure::from(error).to_string()))?;
    if arguments.compile_only {
        return target::compile_only(&config, &arguments.target, arguments.json);
    }
    let progress = Arc::new(Progress::new());
    // Before all that may take long.
    let stop = Stop::on_signal(progress.clone())?;
    let place = Place::find(arguments.device, arguments.plugin.as_deref(), &progress)?;
    let mesh = config.mesh.to_mesh();
    place.restart_if_needed(mesh.devices())?;
    let processes = join(arguments, &config, &place)?;
    stop.joined(&processes.group);
    let title = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
    let run = Run {
        title: &title,
        resume: arguments.resume,
        overwrite: arguments.overwrite,
        told: if arguments.json { Told::Json } else { Told::Text },
    };
    let ended = train(&run, config, &place, &processes, &stop, &progress);
    progress.clear();
    end::part(&processes.group, ended)
}

/// What is asked of a run besides its config.
pub struct Run<'a> {
    /// In metrics and the report.
    pub title: &'a str,
    pub resume: bool,
    pub overwrite: bool,
    pub told: Told,
}

/// How the end of a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// With what to do next.
    Text,
    Json,
    /// In a line, by a command that goes on itself.
    InPassing,
}

/// Trains as a part of another command, in this process alone.
pub fn alone(
    run: &Run<'_>,
    config: Config,
    place: &Place,
    stop: &Stop,
    progress: &Progress,
) -> Outcome {
    let processes = Processes { launch: None, group: Arc::new(ProcessGroup::alone()) };
    let ended = train(run, config, place, &processes, stop, progress);
    progress.clear();
    ended?
}

/// This process and the others.
struct Processes {
    launch: Option<Launch>,
    group: Arc<ProcessGroup>,
}

/// Which process of how many this is, and the others.
fn join(arguments: &TrainArguments, config: &Config, place: &Place) -> Result<Processes, Failure> {
    let processes = &arguments.processes;
    let flags = LaunchFlags {
        index: processes.process_id,
        count: processes.process_count,
        coordinator: processes.coordinator.clone(),
        ..LaunchFlags::default()
    };
    let variables: Variables = std::env::vars().collect();
    let mut launch = match place.kind {
        PluginKind::Tpu => Launch::find_for_tpu(&flags, &variables, Duration::from_secs(5))?,
        PluginKind::Cpu | PluginKind::Cuda => Launch::find(&flags, &variables)?,
    };
    if let Some(launch) = &mut launch {
        if place.kind == PluginKind::Cpu {
            return Err(Failure::usage(format!(
                "{launch}: XLA's CPU plugin does not compute over several processes; train on one machine's processor, or on GPUs or TPUs"
            )));
        }
        // Told apart from another job on the same port by what it writes to.
        if launch.job.is_empty() {
            launch.job.clone_from(&config.output.folder);
        }
        console::remark(format_args!("{launch}"));
    }
    let group = ProcessGroup::join_or_alone(launch.as_ref(), &GroupOptions::default())?;
    group.on_failure(|error| {
        // The main thread may be waiting for a device that waits for a process that is gone.
        console::error(&Failure::from(error.clone()).to_string());
        runtime::end_process(Exit::Failure as i32);
    });
    let own = config.to_toml();
    let all = group.all_gather("train/config", own.as_bytes(), AGREEMENT)?;
    if let Some(other) = all.iter().position(|other| other.as_slice() != own.as_bytes()) {
        return Err(Failure::usage(format!(
            "process {other} has another config than process {}; start all with the same file and flags",
            group.index()
        )));
    }
    Ok(Processes { launch, group: Arc::new(group) })
}

/// Answers as [`end::part`] takes it.
fn train(
    run: &Run<'_>,
    config: Config,
    place: &Place,
    Processes { launch, group }: &Processes,
    stop: &Stop,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let checkpoints = Checkpoints::open(&config.checkpoint.folder)?;
    let beginning = find_beginning(run, &config, &checkpoints, group)?;
    let saved = match beginning.checkpoint() {
        Some(checkpoint) => {
            let before = saved_config(checkpoint)?;
            for difference in config.resumes(&before)? {
                let text =
                    |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
                progress.note(&format!(
                    "changed since the checkpoint: {} = {} (was {})",
                    difference.key,
                    text(&difference.now),
                    text(&difference.before)
                ));
            }
            SavedModel::of(checkpoint)
        }
        None => None,
    };
    let files = |name: &Option<String>| -> Result<Option<ModelFiles>, Failure> {
        name.as_ref().map(|name| model::open(name, &place.cache, progress)).transpose()
    };
    let (base, tokenizer) = (files(&config.model.from)?, files(&config.model.tokenizer)?);
    let mut on_data = |step: train::data::Progress<'_>| show::data(progress, &step);
    let opened =
        Model::open(&config, base.as_ref(), tokenizer.as_ref(), saved, &place.cache, &mut on_data)?;
    // Before the data is read: a mesh that does not fit is found at once.
    let options = step_options(&config, &opened.config, place.kind, config.mesh.to_mesh())?;
    let data = opened.data(&config, &place.cache, &mut on_data)?;
    progress.clear();
    for source in data.training.sources() {
        show::source(progress, &source);
    }
    let stopped = || Ok(Err(Failure::silent(Exit::Stopped)));
    if let Some(checkpoint) = beginning.checkpoint()
        && checkpoint.step() > config.training.steps as u64
    {
        return Err(Failure::usage(format!(
            "the run is at step {} already, and training.steps is {}: raise it to go on",
            checkpoint.step(),
            config.training.steps
        )));
    }
    if stop.before_training(group)? {
        return stopped();
    }
    let mut runtime_options =
        RuntimeOptions::new(place.kind).with_cpu_devices(options.mesh.devices());
    if place.kind == PluginKind::Cuda {
        // As when serving, and as `plan` counts on.
        let share = pjrt::Value::Float(serve::engine::GPU_MEMORY_SHARE);
        runtime_options.client_options.push(("memory_fraction".to_string(), share));
    }
    if let Some(launch) = launch {
        runtime_options = runtime_options.with_processes(launch, group);
    }
    let runtime = Runtime::open(&place.discovery, &runtime_options)?;
    let folder = PathBuf::from(&config.output.folder);
    let log_every = config.training.log_every;
    let setup = Setup { config, model: opened, data, options, runtime, group: group.clone() };
    let mut screen = show::Screen::new(progress, log_every, group.is_first());
    let mut on_event = |event: train::trainer::Event<'_>| screen.event(&event);
    let mut trainer = Trainer::new(&setup, checkpoints, &beginning, &mut on_event)?;
    if stop.before_training(group)? {
        return stopped();
    }
    stop.training_begins();
    // Only now is it certain that no other run is at work there.
    if group.is_first() {
        prepare_folder(&folder, &setup.config)?;
    }
    let first = trainer.step();
    if first == setup.config.training.steps {
        progress
            .note(&format!("all {first} steps are made already; raise training.steps to go on"));
    }
    let mut records = match group.is_first() {
        true => Some(Records::open(&setup, &folder, run.title, first, trainer.seconds())?),
        false => None,
    };
    let ended = trainer.run(stop.asked(), records.as_mut());
    drop(trainer);
    progress.clear();
    // Saves are agreed on, and all have the same loss: with these ends all processes end.
    let everywhere = matches!(ended, Ok(_) | Err(TrainError::Diverged { .. }));
    let outcome = match records {
        Some(records) => end::tell(&setup, records, &screen, ended, run.told),
        None => end::outcome(ended),
    };
    if everywhere { Ok(outcome) } else { outcome.map(Ok) }
}

/// Whether there is a checkpoint to go on from; those of another run are not written over unasked.
fn find_beginning(
    run: &Run<'_>,
    config: &Config,
    checkpoints: &Checkpoints,
    group: &ProcessGroup,
) -> Result<Beginning, Failure> {
    if run.resume {
        let latest = checkpoints.agree_on_latest(group)?;
        match &latest {
            None => console::remark(format_args!(
                "there is no checkpoint in {} yet: starting from the beginning",
                checkpoints.location()
            )),
            Some(latest) => {
                for damaged in &latest.damaged {
                    console::warning(&format!(
                        "the checkpoint of step {} is damaged ({}); going on from step {}",
                        damaged.step,
                        damaged.reason,
                        latest.checkpoint.step()
                    ));
                }
            }
        }
        return Ok(latest.map_or(Beginning::Anew, |latest| Beginning::After(Box::new(latest))));
    }
    let steps = checkpoints.list()?;
    match (steps.last(), run.overwrite) {
        (Some(last), false) => Err(Failure::usage(format!(
            "{} has checkpoints up to step {last}: go on from there with --resume, start anew with --overwrite, or choose another output.folder",
            config.checkpoint.folder
        ))),
        (Some(_), true) => Ok(Beginning::Overwriting),
        (None, _) => Ok(Beginning::Anew),
    }
}

fn prepare_folder(folder: &Path, config: &Config) -> Outcome {
    let failed = |what: &str, path: &Path, error: std::io::Error| {
        Failure::new(Exit::Failure, format!("cannot {what} {}: {error}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed("create", folder, error))?;
    // As it was resolved, so that the run can be told from its folder alone.
    let file = folder.join("config.toml");
    std::fs::write(&file, config.to_toml()).map_err(|error| failed("write", &file, error))
}
