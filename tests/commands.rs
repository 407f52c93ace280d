//! Every command as a user runs it, on tiny checkpoints: what it prints, what its JSON holds, how it
//! ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::process::Command;

use binary::{Sandbox, fungible_with_kept_cache, run, run_with_input, tiny_model};
use serde_json::Value;

/// The binary with `arguments`, on the tiny SmolLM2 where it takes a model.
fn command(test: &str, arguments: &[&str]) -> Option<Command> {
    let mut command = fungible_with_kept_cache(test)?;
    let model = tiny_model("smollm2");
    let model = model.to_str().unwrap();
    command.args(arguments.iter().map(|&text| if text == "MODEL" { model } else { text }));
    Some(command)
}

fn expected(model: &str, file: &str) -> Value {
    let text = std::fs::read(tiny_model(model).join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn generate_continues_a_text() {
    let test = "generate_continues_a_text";
    let arguments =
        ["generate", "How high", "--model", "MODEL", "--max-tokens", "9", "--ignore-eos"];
    let Some(mut text) = command(test, &arguments) else { return };
    let text = run(&mut text).success();
    let mut json = command(test, &arguments).unwrap();
    let json = run(json.arg("--json")).json();
    assert_eq!(json["token_ids"].as_array().unwrap().len(), 9);
    assert_eq!(json["log_probs"].as_array().unwrap().len(), 9);
    assert!(numbers(&json["log_probs"]).iter().all(|log_prob| *log_prob < 0.0));
    assert_eq!(json["finish_reason"], "length");
    assert!(json["seconds_to_first_token"].as_f64().unwrap() > 0.0);
    assert!(json["tokens_per_second"].is_number());
    let continuation = json["text"].as_str().unwrap();
    assert!(!continuation.is_empty());
    assert_eq!(text, format!("How high{continuation}\n"));
    // The prompt may come from standard input, and what comes after a stop string is left out.
    let mut piped = arguments;
    piped[1] = "-";
    let mut piped = command(test, &piped).unwrap();
    assert_eq!(run_with_input(&mut piped, "How high").success(), text);
    let stop: String = continuation.chars().skip(2).take(2).collect();
    let mut stopped = command(test, &arguments).unwrap();
    let stopped = run(stopped.args(["--json", "--stop", &stop])).json();
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"], continuation.split(&stop).next().unwrap());
}

#[test]
fn generate_takes_a_seed() {
    let test = "generate_takes_a_seed";
    let draw = |seed: &str| {
        let settings = ["--temperature", "1.5", "--top-k", "50", "--top-p", "0.99", "--seed", seed];
        let model = ["--model", "MODEL", "--max-tokens", "24", "--ignore-eos", "--json"];
        let mut command = command(test, &[&["generate", "x"][..], &model, &settings].concat())?;
        Some(run(&mut command).json()["token_ids"].clone())
    };
    let Some(first) = draw("1") else { return };
    assert_eq!(draw("1").unwrap(), first);
    assert_ne!(draw("2").unwrap(), first);
}

#[test]
fn generate_applies_the_chat_template() {
    let test = "generate_applies_the_chat_template";
    let conversation = &expected("smollm2", "chat.json")["conversations"][0];
    assert_eq!(conversation["messages"].as_array().unwrap().len(), 1);
    let prompt = conversation["messages"][0]["content"].as_str().unwrap();
    let arguments =
        ["generate", prompt, "--chat", "--model", "MODEL", "--max-tokens", "3", "--json"];
    let Some(mut command) = command(test, &arguments) else { return };
    assert_eq!(run(&mut command).json()["prompt_token_ids"], conversation["ids"]);
}

#[test]
fn score_gives_the_log_probabilities_of_transformers() {
    let test = "score_gives_the_log_probabilities_of_transformers";
    let Some(mut command) = fungible_with_kept_cache(test) else { return };
    let expected = expected("llama", "expected.json");
    let ids: Vec<String> =
        expected["token_ids"][1].as_array().unwrap().iter().map(Value::to_string).collect();
    // A folder without a tokenizer.
    command.arg("score").arg(tiny_model("llama"));
    let json = run(command.args(["--token-ids", &ids.join(","), "--top", "5", "--json"])).json();
    let tokens = json["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), ids.len());
    assert!(tokens[0]["log_prob"].is_null() && tokens[0]["text"].is_null());
    let log_probs = numbers(&expected["log_probs"][1]);
    for (place, token) in tokens.iter().enumerate().skip(1) {
        assert_eq!(token["id"].to_string(), ids[place]);
        assert!((token["log_prob"].as_f64().unwrap() - log_probs[place - 1]).abs() < 1e-4);
        let top: Vec<Value> =
            token["top"].as_array().unwrap().iter().map(|other| other["id"].clone()).collect();
        assert_eq!(Value::Array(top), expected["top"][1][place - 1]["ids"]);
    }
    let total: f64 = log_probs.iter().sum();
    assert!((json["total_log_prob"].as_f64().unwrap() - total).abs() < 1e-3);
    let perplexity = (-total / log_probs.len() as f64).exp();
    assert!((json["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-3);
}

#[test]
fn score_prints_a_table_of_a_text() {
    let test = "score_prints_a_table_of_a_text";
    let Some(mut command) = command(test, &["score", "MODEL", "--text", "How high", "--top", "2"])
    else {
        return;
    };
    let table = run(&mut command).success();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("place"), "{table}");
    assert!(lines[1].starts_with("0 ") && lines[1].ends_with(" -"), "{table}");
    assert!(lines.last().unwrap().starts_with("total log-probability -"), "{table}");
}

#[test]
fn compile_accounts_for_every_program() {
    let test = "compile_accounts_for_every_program";
    let arguments =
        ["compile", "MODEL", "--target", "cpu,cpu-3", "--dtype", "f32", "--context", "64"];
    let Some(mut json) = command(test, &arguments) else { return };
    let json = run(json.arg("--json")).json();
    let programs = json["programs"].as_array().unwrap();
    let key = |program: &Value| {
        ["target", "mesh", "program"].map(|name| program[name].as_str().unwrap().to_string())
    };
    let keys: Vec<[String; 3]> = programs.iter().map(key).collect();
    let expected = [
        ["cpu", "one device", "prefill"],
        ["cpu", "one device", "decode"],
        // Three key/value heads.
        ["cpu-3", "tensor=3", "prefill"],
        ["cpu-3", "tensor=3", "decode"],
    ];
    assert_eq!(keys, expected.map(|row| row.map(str::to_string)));
    for program in programs {
        assert_eq!(program["fits"], true);
        assert!(program["compile_seconds"].as_f64().unwrap() > 0.0);
        for bytes in
            ["argument_bytes", "output_bytes", "alias_bytes", "temporary_bytes", "needed_bytes"]
        {
            assert!(program["memory"][bytes].is_u64(), "{bytes}: {program}");
        }
    }
    // A third of the weights and of the cache.
    let bytes = |index: usize| programs[index]["memory"]["argument_bytes"].as_f64().unwrap();
    assert!(bytes(3) < 0.5 * bytes(1), "{} against {}", bytes(3), bytes(1));
    let mut text = command(test, &arguments).unwrap();
    let sandbox = Sandbox::new();
    let said = run(text.arg("--layout").arg("--dump").arg(sandbox.path("dump")));
    for line in ["compiling decode for cpu-3 ...\n", "compiling decode for cpu-3: done after "] {
        assert!(said.stderr.contains(line), "{}", said.stderr);
    }
    let text = said.success();
    assert_eq!(text.matches(" fits ").count(), 4, "{text}");
    assert!(
        text.contains("model.embed_tokens.weight") && text.contains("vocab 384 over tensor"),
        "{text}"
    );
    let dumped = std::fs::read_to_string(sandbox.path("dump/decode-cpu-3.mlir")).unwrap();
    assert!(dumped.contains("stablehlo.dot_general") && dumped.contains("sdy.mesh"));
}

#[test]
fn doctor_says_what_is_here_and_how_to_get_the_rest() {
    let test = "doctor_says_what_is_here_and_how_to_get_the_rest";
    let Some(mut json) = command(test, &["doctor", "--json"]) else { return };
    let json = run(&mut json).json();
    let finding = |name: &str| {
        let findings = json["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["what"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    let cpu = finding("cpu plugin");
    assert!(
        cpu["advice"].is_null() && cpu["state"].as_str().unwrap().starts_with("PJRT 0."),
        "{cpu}"
    );
    assert!(finding("cpu devices")["state"].as_str().unwrap().starts_with("1 x "));
    for name in
        ["fungible", "machine", "pip", "tpu plugin", "cuda plugin", "smollm2-135m", "compile cache"]
    {
        assert!(finding(name)["state"].is_string());
    }
    let targets = json["targets"].as_array().unwrap();
    assert!(targets.iter().any(|target| target["chip"] == "cpu"));
    let mut text = command(test, &["doctor"]).unwrap();
    let text = run(&mut text).success();
    assert!(
        text.contains("ok  cpu plugin") && text.contains("Targets that can be compiled for"),
        "{text}"
    );
    // With nothing installed it still answers, and says what to do.
    let sandbox = Sandbox::new();
    let text = run(sandbox.fungible().arg("doctor")).success();
    assert!(text.contains("fungible plugin install cpu"), "{text}");
}

#[test]
fn plugin_list_shows_what_can_be_installed() {
    let sandbox = Sandbox::new();
    let json = run(sandbox.fungible().args(["plugin", "list", "--json"])).json();
    let packages = json["packages"].as_array().unwrap();
    let names: Vec<&str> =
        packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu", "tpu", "cuda13"]);
    for package in packages {
        assert!(package["path"].is_null(), "{package}");
        assert!(package["download_bytes"].as_u64().unwrap() > 1_000_000, "{package}");
        assert!(package["version"].is_string() && package["license"].is_string(), "{package}");
    }
    let table = run(sandbox.fungible().args(["plugin", "list"])).success();
    assert_eq!(table.lines().filter(|line| line.contains(" to fetch ")).count(), 3, "{table}");
}

#[test]
fn chips_shows_the_catalog() {
    let sandbox = Sandbox::new();
    let chips = |arguments: &[&str]| run(sandbox.fungible().arg("chips").args(arguments));
    let table = chips(&[]).success();
    for name in ["cpu", "v5e", "tpu7x", "h100", "mi300x"] {
        assert!(table.lines().any(|line| line.starts_with(&format!("{name} "))), "{table}");
    }
    assert!(table.contains("Names count chips"), "{table}");
    let one = chips(&["h100"]).success();
    for part in ["450 GB/s", "700 W", "nebius", "eu-north1", "spot", "2026-11-23", "assumed: "] {
        assert!(one.contains(part), "no {part} in {one}");
    }
    let json = chips(&["v5p", "--json"]).json();
    let chip = &json["chips"][0];
    assert_eq!(chip["figures"]["memory"]["value"], 95.0 * 1024.0 * 1024.0 * 1024.0);
    assert_eq!(chip["figures"]["links"]["date"], "2026-11-23");
    assert_eq!(chip["chips_per_host"], 4);
    assert!(chip["prices"].as_array().unwrap().iter().all(|price| price["provider"] == "gcp"));
    let unknown = chips(&["h10"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("did you mean `h100`?"), "{unknown:?}");
}

#[test]
fn a_catalog_of_ones_own_counts_everywhere() {
    let sandbox = Sandbox::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ours.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("[[chip]]\nname = \"h100-nvl\"\nlike = \"h100\"\nmemory = \"94 GB\"\n");
    let json =
        run(sandbox.fungible().args(["chips", "h100-nvl", "--json", "--catalog"]).arg(&file));
    assert_eq!(json.json()["chips"][0]["figures"]["memory"]["value"], 94e9);
    // The variable holds for every command.
    let compile = |target: &str| {
        let mut command = sandbox.fungible();
        command.args(["compile", "llama3-8b", "--target", target]).env("FUNGIBLE_CHIPS", &file);
        run(&mut command).stderr
    };
    let known = compile("h100-nvl-3");
    assert!(known.contains("h100-nvl does not come in 3 chips"), "{known}");
    write("[[chip]]\nname = \"h100\"\nmemory = 94\n");
    let wrong = compile("h100-8");
    assert!(wrong.contains("ours.toml, line 3: `memory` is 94, which has no unit"), "{wrong}");
    let wrong = run(sandbox.fungible().args(["chips", "--catalog", "/nowhere.toml"]));
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.stderr.contains("cannot read the chip catalog /nowhere.toml"), "{wrong:?}");
}

#[test]
fn what_cannot_be_compiled_for_says_so() {
    let sandbox = Sandbox::new();
    for (target, wanted) in [
        ("mi300x-8", "nothing here compiles for mi300x (AMD Instinct MI300X)"),
        ("v5litepod-16", "`v5litepod-16` is Google's name for what is called `v5e-16` here"),
    ] {
        for command in ["compile", "profile"] {
            let said = run(sandbox.fungible().args([command, "llama3-8b", "--target", target]));
            assert!(said.stderr.contains(wanted), "{command}: {said:?}");
            assert_ne!(said.code, Some(0));
        }
    }
}

#[test]
fn chat_holds_a_conversation_over_a_pipe() {
    let test = "chat_holds_a_conversation_over_a_pipe";
    let arguments = ["chat", "MODEL", "--max-tokens", "5", "--system", "Be brief."];
    let Some(mut chat) = command(test, &arguments) else { return };
    let said = run_with_input(
        &mut chat,
        "How high?\n\n/nonsense\nAnd why?\n/reset\nHow high?\n/exit\nx\n",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stderr.matches(" tokens, first after ").count(), 3, "{}", said.stderr);
    assert!(said.stderr.contains("warning: there is no command /nonsense"), "{}", said.stderr);
    assert!(said.stderr.contains("a new conversation"), "{}", said.stderr);
    // The same question at the same place of an equal conversation.
    let mut again = command(test, &arguments).unwrap();
    let again = run_with_input(&mut again, "How high?\n").success();
    assert!(said.stdout.starts_with(&again) && said.stdout.ends_with(&again), "{:?}", said.stdout);
}

#[test]
fn chat_survives_a_message_that_is_too_long() {
    let test = "chat_survives_a_message_that_is_too_long";
    let Some(mut chat) = command(test, &["chat", "MODEL", "--max-tokens", "5"]) else { return };
    let input = format!("{}\nHow high?\n", "long ".repeat(400));
    let said = run_with_input(&mut chat, &input);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("error: the prompt has "), "{}", said.stderr);
    assert_eq!(said.stderr.matches(" tokens, first after ").count(), 1, "{}", said.stderr);
}

#[test]
fn bench_model_measures_what_it_was_asked_for() {
    let test = "bench_model_measures_what_it_was_asked_for";
    let sizes = ["--batch", "1,2", "--prefill", "16,32", "--steps", "3", "--repeat", "2"];
    let Some(mut json) =
        command(test, &[&["bench", "model", "MODEL", "--json"][..], &sizes].concat())
    else {
        return;
    };
    let json = run(&mut json).json();
    let lengths = |name: &str, size: &str| -> Vec<(u64, usize)> {
        let rows = json[name].as_array().unwrap().iter();
        rows.map(|row| (row[size].as_u64().unwrap(), numbers(&row["seconds"]).len())).collect()
    };
    assert_eq!(lengths("decode", "batch"), [(1, 3), (2, 3)]);
    assert_eq!(lengths("prefill", "tokens"), [(16, 2), (32, 2)]);
    // 384 x 36 embeddings and two layers, in f32.
    assert!(json["weights_bytes"].as_u64().unwrap() > 4 * 384 * 36, "{json}");
    let mut table = command(test, &[&["bench", "model", "MODEL"][..], &sizes].concat()).unwrap();
    let table = run(&mut table).success();
    for row in ["decode, batch 1", "decode, batch 2", "prefill, 16 tokens", "prefill, 32 tokens"] {
        assert!(table.contains(row), "{table}");
    }
}

/// Virtual devices need another environment, so the binary starts itself again.
#[test]
fn a_mesh_gives_the_same_text() {
    let test = "a_mesh_gives_the_same_text";
    let arguments =
        ["generate", "How high", "--model", "MODEL", "--max-tokens", "9", "--ignore-eos"];
    let Some(mut one) = command(test, &arguments) else { return };
    let mut three = command(test, &arguments).unwrap();
    assert_eq!(run(three.args(["--mesh", "tensor=3"])).success(), run(&mut one).success());
}

#[test]
fn help_names_every_command_and_exit_code() {
    let sandbox = Sandbox::new();
    let help = |arguments: &[&str]| run(sandbox.fungible().args(arguments)).success();
    let all = help(&["--help"]);
    for command in ["chat", "generate", "score", "compile", "chips", "doctor", "plugin", "bench"] {
        assert!(all.contains(&format!("  {command} ")), "{all}");
        assert!(help(&[command, "--help"]).contains("Usage: fungible"), "{command}");
    }
    assert!(all.contains("Exit codes:"), "{all}");
    for command in ["chat", "generate", "score", "compile", "chips"] {
        assert!(help(&[command, "--help"]).contains("Examples:"), "{command}");
    }
    assert!(help(&["--version"]).starts_with("fungible "));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["generate"][..],
        &["nonsense"],
        &["generate", "x", "--no-such-flag"],
        &["generate", "x", "--system", "y"],
        &["score"],
        &["score", "m", "--text", "x", "--token-ids", "1"],
        &["compile", "llama3-8b"],
        &["generate", "x", "--max-tokens", "many"],
    ] {
        let said = run(sandbox.fungible().args(arguments));
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:?}");
        assert!(
            said.stderr.contains("error:") && said.stdout.is_empty(),
            "{arguments:?}: {said:?}"
        );
    }
    assert!(!sandbox.cache().exists(), "a mistake on the command line changes nothing");
}
