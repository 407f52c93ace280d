//! `fungible quickstart`: a short fine-tune, the same question before and after it, and a server for
//! the result. It only puts other commands together, so whatever it does can be done by hand.

mod ask;
mod folder;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::export;
use super::train::stop::Stop;
use super::train::{self, Run, Told};
use crate::arguments::quickstart::QuickstartArguments;
use crate::arguments::serve::LOCAL;
use crate::arguments::{Device, DeviceArguments, ExportArguments, PlaceArguments};
use crate::console::{self, BOLD, DIM, Progress, shell_word, styled};
use crate::failure::{Exit, Failure, Outcome};
use crate::open::Place;

use folder::{Folder, State};

/// What is fine-tuned: the model of the example's config.
const BASE: &str = "smollm2-135m";
/// Something that the base model cannot know, and the data says.
const QUESTION: &str = "What is Fungible?";

/// Enough for a few long conversations; more than training took should not be needed.
const CACHE_MEMORY: &str = "1G";

pub fn run(arguments: &QuickstartArguments) -> Outcome {
    let progress = Arc::new(Progress::new());
    let folder = Folder::at(&arguments.output, arguments.steps)?;
    let state = folder.state(arguments.overwrite)?;
    // A port that is taken is known before minutes of training.
    if !arguments.no_serve {
        port_is_free(arguments.port)?;
    }
    // Before the first word, since the process may start again.
    let place = Place::find(arguments.device, arguments.plugin.as_deref(), &progress)?;
    place.restart_if_needed(1)?;
    introduce(arguments, &folder, &state);
    let stop = Stop::on_signal(progress.clone())?;
    let device = device(arguments);

    heading("the answer before");
    let before = ask::answer(BASE, &device, QUESTION)?;
    console::remark(console::remarked_text(&before));

    heading("fine-tuning");
    match &state {
        State::Finished => {
            console::remark(format_args!(
                "all {} steps are made already (--overwrite makes them anew)",
                arguments.steps
            ));
        }
        State::New | State::Begun { .. } | State::Overwritten => {
            folder.write_data()?;
            let run = Run {
                title: "quickstart",
                resume: matches!(state, State::Begun { .. }),
                overwrite: matches!(state, State::Overwritten),
                told: Told::InPassing,
            };
            train::alone(&run, folder.config()?, &place, &stop, &progress)?;
        }
    }
    // What was asked during the last step is done now.
    stop.training_ended()?;

    heading("exporting the model");
    let model = folder.model();
    let exported = ExportArguments {
        checkpoint: folder.path().display().to_string(),
        folder: model.clone(),
        step: None,
        adapter: false,
        base: None,
        dtype: None,
        overwrite: true,
        json: false,
    };
    export::tell(&export::write(&exported, &progress)?);

    heading("the answer after");
    let model = model.display().to_string();
    let after = ask::answer(&model, &device, QUESTION)?;
    console::styled_line(format_args!("{}  {QUESTION}", styled(BOLD, "question")));
    for (when, answer) in [("before  ", &before), ("after   ", &after)] {
        console::styled_print(styled(BOLD, when));
        let words: Vec<&str> = answer.split_whitespace().collect();
        console::print_text(&format!("  {}\n", words.join(" ")));
    }
    if arguments.no_serve {
        console::remark(format_args!("to serve it: fungible serve {}", shell_word(&model)));
        return Ok(());
    }
    heading("serving");
    serve_in_a_fresh_process(arguments, &model)
}

fn introduce(arguments: &QuickstartArguments, folder: &Folder, state: &State) {
    let ending = match arguments.no_serve {
        true => "",
        false => ", and serves the result with a chat page",
    };
    console::remark(format_args!(
        "This fine-tunes SmolLM2-135M with low-rank adapters on {} short conversations, asks it one question before and after{ending}: some three minutes on two CPU cores, and downloads of 160 MB the first time.",
        folder::conversations()
    ));
    let place = folder.path().display();
    match state {
        State::Begun { step } => console::remark(format_args!(
            "{place} has an earlier quickstart that was interrupted: going on after step {step}"
        )),
        State::Finished => {
            console::remark(format_args!(
                "{place} has an earlier quickstart that is finished: reusing it"
            ));
        }
        State::Overwritten => console::remark(format_args!("starting anew in {place}")),
        State::New => {}
    }
}

fn heading(text: &str) {
    console::remark(format_args!("\n{}", styled(BOLD, text)));
}

fn device(arguments: &QuickstartArguments) -> DeviceArguments {
    let (device, plugin) = (arguments.device, arguments.plugin.clone());
    let place = PlaceArguments { device, mesh: None, dtype: None, plugin };
    DeviceArguments { place, context: None }
}

fn port_is_free(port: u16) -> Outcome {
    match TcpListener::bind((LOCAL, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!(
                "cannot listen on {}:{port}: {error}; choose another with --port, or leave serving out with --no-serve",
                LOCAL
            ),
        )),
    }
}

/// A server handles signals in its own way, of which a process has one, and needs none of the memory that
/// training took.
fn serve_in_a_fresh_process(arguments: &QuickstartArguments, model: &str) -> Outcome {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", model, "--port", &arguments.port.to_string()]);
    command.args(["--kv-cache-memory", CACHE_MEMORY, "--served-model-name", "quickstart"]);
    let device = match arguments.device {
        Device::Auto => "auto",
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
        Device::Tpu => "tpu",
    };
    command.args(["--device", device]);
    if let Some(plugin) = &arguments.plugin {
        command.arg("--plugin").arg(Path::new(plugin));
    }
    let same = format!(
        "$ fungible serve {} --port {} --kv-cache-memory {CACHE_MEMORY}",
        shell_word(model),
        arguments.port
    );
    console::remark(styled(DIM, &same));
    crate::open::become_command(command)
}
