//! `generate` and the chat on the real model, with plugin and model fetched as a
//! user's first run fetches them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::process::Command;

use binary::{fungible_with_kept_cache, run};

/// The binary on the real model, or `None` after saying that `test` is skipped.
fn command(test: &str, arguments: &[&str]) -> Option<Command> {
    let model = shared::smollm2(test)?;
    let mut command = fungible_with_kept_cache(test)?;
    let model = model.to_str().unwrap();
    command.args(arguments.iter().map(|&text| if text == "MODEL" { model } else { text }));
    Some(command)
}

/// By its name, from the user's own cache, with nothing else given.
#[test]
fn the_capital_of_france_is_paris() {
    let test = "the_capital_of_france_is_paris";
    if shared::smollm2(test).is_none() || shared::cpu_plugin(test).is_none() {
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_fungible"));
    let prompt = "The capital of France is";
    let said = run(command.args(["generate", prompt, "--max-tokens", "2", "--temperature", "0"]));
    assert!(said.stderr.contains("2 tokens, first after "), "{}", said.stderr);
    assert_eq!(said.success(), "The capital of France is Paris.\n");
}

/// The same answer as from `transformers`, up to the token that ends the turn.
#[test]
fn a_question_gets_an_answer_that_ends() {
    let test = "a_question_gets_an_answer_that_ends";
    let golden = include_str!("goldens/smollm2.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let question = "Explain rain in one sentence.";
    let cases = golden["greedy"].as_array().unwrap();
    let case = cases.iter().find(|case| case["messages"][0]["content"] == question).unwrap();
    let arguments = ["generate", question, "--chat", "--model", "MODEL", "--json"];
    let Some(mut command) = command(test, &arguments) else { return };
    let json = run(&mut command).json();
    assert_eq!(json["prompt_token_ids"], case["prompt"]);
    let expected = case["continuation"].as_str().unwrap().split("<|im_end|>").next().unwrap();
    assert!(expected.ends_with('.'), "{expected}");
    assert_eq!(json["text"], expected);
    assert_eq!(json["finish_reason"], "stop");
}

/// Ctrl-C ends an answer, not the conversation.
#[cfg(unix)]
#[test]
fn an_answer_can_be_interrupted() {
    use std::io::{Read, Write};
    use std::process::Stdio;

    let test = "an_answer_can_be_interrupted";
    let Some(mut command) = command(test, &["chat", "MODEL", "--max-tokens", "400"]) else {
        return;
    };
    let mut chat = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = chat.stdin.take().unwrap();
    writeln!(input, "Write a long story about a lighthouse keeper and the sea.").unwrap();
    // Once a part of the answer is here, the rest is under way.
    let mut output = chat.stdout.take().unwrap();
    let mut beginning = [0; 16];
    output.read_exact(&mut beginning).unwrap();
    let interrupt = Command::new("kill").args(["-INT", &chat.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    writeln!(input, "What is the capital of France?").unwrap();
    drop(input);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let mut errors = String::new();
    chat.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(chat.wait().unwrap().code(), Some(0), "{errors}");
    let ends: Vec<&str> = errors.lines().filter(|line| line.contains("first after")).collect();
    assert_eq!(ends.len(), 2, "{errors}");
    assert!(ends[0].ends_with(", stopped"), "{errors}");
    assert!(!ends[1].ends_with(", stopped"), "{errors}");
    assert!(rest.contains("Paris"), "{rest}");
}
