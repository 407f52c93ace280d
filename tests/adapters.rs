//! `fungible serve` with adapters, as clients see it: given at the start and while it serves, used beside
//! the base and beside each other, taken away, and refused.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "../crates/serve/tests/support/client.rs"]
#[allow(dead_code, reason = "shared with the server's own tests")]
mod client;
#[path = "support/running.rs"]
#[allow(dead_code, reason = "each test uses what it needs")]
mod running;
#[path = "support/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;

use binary::{fungible_with_kept_cache, root, run, tiny_model};
use client::{get, post};
use running::Running;
use serde::Deserialize;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";
const BASE: &str = "smollm2";

/// A server of the tiny model, once it is ready; `None` after saying that `test` is skipped.
fn start(test: &str, more: &[&str]) -> Option<Running> {
    let mut command = fungible_with_kept_cache(test)?;
    command.arg("serve").arg(tiny_model(BASE)).args(["--served-model-name", BASE]);
    command.args(["--port", "0", "--device", "cpu", "--max-num-seqs", "4"]).args(more);
    Some(Running::launch(&mut command))
}

trait Adapters {
    fn models(&self) -> Vec<String>;
    fn load(&self, name: &str, path: &str) -> client::Reply;
    fn unload(&self, name: &str) -> client::Reply;
}

impl Adapters for Running {
    fn models(&self) -> Vec<String> {
        let models = get(self, "/v1/models").ok()["data"].clone();
        models.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().into()).collect()
    }

    fn load(&self, name: &str, path: &str) -> client::Reply {
        post(self, LOAD, &json!({"lora_name": name, "lora_path": path}))
    }

    fn unload(&self, name: &str) -> client::Reply {
        post(self, UNLOAD, &json!({"lora_name": name}))
    }
}

#[derive(Deserialize)]
struct Expected {
    base: String,
    prompts: Vec<Vec<u32>>,
    greedy: BTreeMap<String, Vec<Greedy>>,
}

#[derive(Deserialize)]
struct Greedy {
    token_ids: Vec<u32>,
}

fn adapter(name: &str) -> PathBuf {
    root().join("tests/goldens/adapters").join(name)
}

fn question(model: &str, prompt: &[u32]) -> Value {
    json!({
        "model": model, "prompt": prompt, "temperature": 0, "max_tokens": 24, "ignore_eos": true,
        "return_token_ids": true,
    })
}

fn tokens(answer: &Value) -> Vec<u32> {
    serde_json::from_value(answer["choices"][0]["token_ids"].clone()).unwrap()
}

#[test]
fn adapters_come_and_go_while_the_base_is_served() {
    let test = "adapters_come_and_go_while_the_base_is_served";
    let text = std::fs::read(root().join("tests/goldens/adapters/expected.json")).unwrap();
    let all: Vec<Expected> = serde_json::from_slice(&text).unwrap();
    let expected = all.into_iter().find(|one| one.base == BASE).unwrap();
    let (own, other) = (adapter("smollm2"), adapter("plain"));
    let (own, other) = (own.to_str().unwrap(), other.to_str().unwrap());
    let given = format!("first={own}");
    let flags = ["--adapter", &given, "--max-loras", "2", "--max-lora-rank", "8"];
    let Some(server) = start(test, &flags) else { return };
    assert_eq!(server.models(), [BASE, "first"]);
    assert_eq!(server.load("second", own).status, 200);
    assert_eq!(server.models(), [BASE, "first", "second"]);
    // What is wrong with an adapter is said, and harms nobody.
    let wrong = [
        ("first", own, "the name `first` is taken"),
        (BASE, own, "is taken"),
        ("third", own, "every slot has an adapter"),
    ];
    for (name, path, part) in wrong {
        let error = server.load(name, path).error(400);
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    // All at once: every prompt of the base and of both adapters.
    thread::scope(|scope| {
        for (place, prompt) in expected.prompts.iter().enumerate() {
            for (model, golden) in [(BASE, ""), ("first", "smollm2"), ("second", "smollm2")] {
                let (server, wanted) = (&server, &expected.greedy[golden][place].token_ids);
                scope.spawn(move || {
                    let answer = post(server, COMPLETIONS, &question(model, prompt)).ok();
                    assert_eq!(answer["model"], model);
                    assert_eq!(tokens(&answer), *wanted, "{model}, prompt {place}");
                });
            }
        }
    });
    assert_eq!(server.unload("first").status, 200);
    assert_eq!(server.unload("first").error(404)["param"], "lora_name");
    assert_eq!(server.models(), [BASE, "second"]);
    let gone = post(&server, COMPLETIONS, &question("first", &expected.prompts[0])).error(404);
    assert_eq!(gone["code"], "model_not_found");
    let error = loop {
        // The slot is free a moment after the last answer that used it.
        let error = server.load("third", other).error(400);
        match error["message"].as_str().unwrap().contains("every slot") {
            true => thread::yield_now(),
            false => break error,
        }
    };
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("made for another base") && message.contains("[4, 96]"), "{error}");
    let error = server.load("third", "/nowhere/at/all").error(400);
    assert!(error["message"].as_str().unwrap().contains("could not be read"), "{error}");
    assert_eq!(server.load("first", own).status, 200);
    let answer = post(&server, COMPLETIONS, &question("first", &expected.prompts[1])).ok();
    assert_eq!(tokens(&answer), expected.greedy["smollm2"][1].token_ids);
    let chat = json!({"model": "second", "messages": [{"role": "user", "content": "Hi"}]});
    assert_eq!(post(&server, "/v1/chat/completions", &chat).ok()["model"], "second");
    let page = get(&server, "/metrics");
    let line = page.text().lines().find(|line| line.starts_with("vllm:lora_requests_info{"));
    assert!(line.unwrap().contains("max_lora=\"2\""), "{line:?}");
    let late = "fungible:compiled_after_ready_total{";
    let late = page.text().lines().find(|line| line.starts_with(late));
    assert!(late.unwrap().ends_with(" 0"), "{late:?}");
}

#[test]
fn clients_may_not_load_what_no_room_was_asked_for() {
    let test = "clients_may_not_load_what_no_room_was_asked_for";
    let own = adapter("smollm2");
    let given = format!("sql={}", own.display());
    let Some(server) = start(test, &["--adapter", &given]) else { return };
    assert_eq!(
        server.load("other", own.to_str().unwrap()).error(403)["code"],
        "adapters_not_allowed"
    );
    server.unload("sql").error(403);
    assert_eq!(server.models(), [BASE, "sql"]);
}

#[test]
fn flags_that_cannot_be_are_refused_before_anything_is_compiled() {
    let test = "flags_that_cannot_be_are_refused_before_anything_is_compiled";
    let own = adapter("smollm2");
    let named = |name: &str| format!("{name}={}", own.display());
    let cases: [(Vec<String>, &[&str]); 7] = [
        (vec!["--adapter".into(), "sql".into()], &["sql=adapters/sql"]),
        (vec!["--adapter".into(), "sql=nowhere".into()], &["--adapter sql", "could not be read"]),
        (
            vec!["--adapter".into(), named("a"), "--adapter".into(), named("a")],
            &["the name `a` twice"],
        ),
        (vec!["--adapter".into(), named("a"), "--max-loras=0".into()], &["--max-loras is 0"]),
        (
            vec!["--adapter".into(), named("a"), "--max-lora-rank=3".into()],
            &["`a` has rank 4", "--max-lora-rank is 3"],
        ),
        (vec!["--max-lora-rank=0".into()], &["--max-lora-rank"]),
        (
            vec!["--adapter".into(), named("same"), "--served-model-name=same".into()],
            &["names an adapter and the model"],
        ),
    ];
    for (flags, parts) in cases {
        let Some(mut command) = fungible_with_kept_cache(test) else { return };
        command.arg("serve").arg(tiny_model(BASE)).args(["--port", "0", "--device", "cpu"]);
        let said = run(command.args(&flags));
        assert!(matches!(said.code, Some(1 | 2)), "{flags:?}: {said:?}");
        for part in parts {
            assert!(said.stderr.contains(part), "{flags:?}: {}", said.stderr);
        }
    }
}
