//! Other people's clients (`tests/clients`): OpenAI's own, and schemathesis on our own document.
//! Needs a Python that has them (`tests/clients/requirements.txt`): the one in `FUNGIBLE_PYTHON`,
//! or `python3`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Script, start};

fn python() -> PathBuf {
    let name = std::env::var_os("FUNGIBLE_PYTHON").filter(|name| !name.is_empty());
    name.map_or_else(|| "python3".into(), PathBuf::from)
}

/// Whether the Python has this module; says so if it has not.
fn has(module: &str, test: &str) -> bool {
    let import = Command::new(python()).args(["-c", &format!("import {module}")]).output();
    let found = import.is_ok_and(|output| output.status.success());
    if !found {
        // Not `eprintln`: the harness would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: this Python has no {module}");
    }
    found
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

fn script() -> Script {
    let call = "[c:add]{\"a\":2,\"b\":3}[/c]";
    let replies = [("Call add", call), ("Two numbers", "{\"a\":2,\"b\":3}")];
    Script {
        replies: replies.map(|(asked, said)| (asked.to_owned(), said.to_owned())).into(),
        ..Script::saying("Hello there, how are you today?")
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn openais_own_client_is_content() {
    if !has("openai", "openais_own_client_is_content") {
        return;
    }
    let server = start(script());
    let address = format!("http://{}", server.address);
    run(Command::new(python()).arg(clients().join("openai_client.py")).arg(address));
}

#[test]
fn schemathesis_finds_nothing() {
    if !has("schemathesis", "schemathesis_finds_nothing") {
        return;
    }
    let server = start(script());
    let address = format!("http://{}", server.address);
    let folder = python().parent().map(Path::to_owned).unwrap_or_default();
    let mut path = vec![folder];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("sh");
    command.env("PATH", std::env::join_paths(path).unwrap());
    run(command.arg(clients().join("schemathesis.sh")).args([&address, "20"]));
}
