//! The README's first command, through the binary: a fine-tune of the real model that is interrupted,
//! goes on, and leaves a model; what it refuses before anything is trained.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;
#[path = "support/training.rs"]
mod training;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use binary::{Sandbox, run};
use training::{Left, Running};

/// The command, outside of the repository, with the user's own cache.
fn quickstart(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fungible"));
    command.args(["quickstart", "--device", "cpu", "--output", "quick"]).args(arguments);
    command.current_dir(sandbox.path("")).env("NO_COLOR", "1");
    command
}

/// The lines in which the answers are compared.
fn answers(stdout: &str) -> (String, String) {
    let line = |name: &str| {
        let found = stdout.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("no line begins with `{name}`: {stdout}")).trim().to_string()
    };
    assert_eq!(line("question"), "What is Fungible?");
    (line("before"), line("after"))
}

#[test]
fn it_goes_on_after_an_interruption_and_leaves_a_model() {
    let test = "it_goes_on_after_an_interruption_and_leaves_a_model";
    if shared::smollm2(test).is_none() || shared::cpu_plugin(test).is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let left = Left { folder: sandbox.path("quick") };
    let many = &mut quickstart(&sandbox, &["--no-serve", "--steps", "1000"]);
    let mut running = Running::start(many, sandbox.path("first"));
    let trains = running.wait_until(|| !left.records().is_empty());
    assert!(trains, "it ended before a step: {}", running.text("err"));
    let stopped = running.terminate();
    assert_eq!(stopped.code, Some(75), "{stopped:?}");
    assert!(stopped.stderr.contains("the same command goes on from there"), "{stopped:?}");
    let step = *left.saved_steps().last().unwrap();

    let enough = (step + 1).to_string();
    let arguments = ["--no-serve", "--steps", &enough];
    let resumed = run(&mut quickstart(&sandbox, &arguments));
    let said = &resumed.stderr;
    assert!(said.contains(&format!("going on after step {step}")), "{said}");
    assert!(said.contains(&format!("step {enough}/{enough}  loss ")), "{said}");
    assert!(said.contains("to serve it: fungible serve quick/model"), "{said}");
    let (before, after) = answers(&resumed.success());
    assert!(before.len() > 20 && after.len() > 20, "{before} / {after}");

    let reused = run(&mut quickstart(&sandbox, &arguments));
    assert!(reused.stderr.contains("finished: reusing it"), "{reused:?}");
    assert!(!reused.stderr.contains("loss "), "{reused:?}");
    assert_eq!(answers(&reused.success()), (before, after.clone()));

    // The folder is a model like any other.
    let mut generate = Command::new(env!("CARGO_BIN_EXE_fungible"));
    generate.args(["generate", "--chat", "What is Fungible?", "--max-tokens", "48", "--json"]);
    let model = left.folder.join("model");
    let json = run(generate.args(["--device", "cpu", "--model"]).arg(&model)).json();
    let text = json["text"].as_str().unwrap();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), after);

    let fewer = step.to_string();
    let refused = run(&mut quickstart(&sandbox, &["--no-serve", "--steps", &fewer]));
    refused.fails_with(&[&format!("of {enough} steps"), "--overwrite"]);
    fs::write(left.folder.join("quickstart.jsonl"), "{}\n").unwrap();
    let changed = run(&mut quickstart(&sandbox, &arguments));
    changed.fails_with(&["other data", "--overwrite"]);
}

/// Nothing is fetched or trained, and nothing of it is touched.
#[test]
fn a_folder_of_something_else_is_left_alone() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("quick")).unwrap();
    fs::write(sandbox.path("quick/thesis.txt"), "years of work").unwrap();
    for arguments in [&["--no-serve"][..], &["--no-serve", "--overwrite"]] {
        let said = run(&mut quickstart(&sandbox, arguments));
        said.fails_with(&["quick holds something else", "--output"]);
        assert_eq!(said.code, Some(2));
    }
    assert_eq!(fs::read_dir(sandbox.path("quick")).unwrap().count(), 1);
    fs::write(sandbox.path("file"), "").unwrap();
    let said = run(&mut quickstart(&sandbox, &["--no-serve", "--steps", "0"]));
    assert_eq!(said.code, Some(2), "{said:?}");
    let mut file = Command::new(env!("CARGO_BIN_EXE_fungible"));
    file.args(["quickstart", "--no-serve", "--output"]).arg(sandbox.path("file"));
    run(&mut file).fails_with(&["is not a folder", "--output"]);
}

#[test]
fn a_port_that_is_taken_is_known_at_once() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = run(&mut quickstart(&sandbox, &["--port", &port]));
    said.fails_with(&[&format!("cannot listen on 127.0.0.1:{port}"), "--port", "--no-serve"]);
    assert!(!sandbox.path("quick").exists());
}
