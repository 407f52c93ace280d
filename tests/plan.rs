//! `fungible plan train` and `plan serve` as a user runs them: small models, the vendors' own compilers,
//! and what is wrong about a question.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::fs;
use std::process::Command;

use binary::{Sandbox, run, tiny_model};
use runtime::{CacheFolder, Discovery, PluginKind};
use serde_json::Value;

/// `fungible plan` with the TPU's compiler; `None` after saying that `test` is skipped.
fn with_tpu(test: &str, sandbox: &Sandbox) -> Option<Command> {
    let discovery = Discovery::new(CacheFolder::from_environment().unwrap());
    match discovery.find(PluginKind::Tpu) {
        Ok(location) => {
            let mut command = sandbox.fungible();
            command.env(PluginKind::Tpu.environment_variable(), location.path).arg("plan");
            Some(command)
        }
        Err(error) => {
            shared::skip(test, &error.to_string());
            None
        }
    }
}

/// A model of 27 million parameters: 0.3 GiB with AdamW.
const SMALL: &str = "\
[model]
architecture = \"llama\"
hidden_size = 512
intermediate_size = 1024
num_hidden_layers = 4
num_attention_heads = 8
vocabulary_size = 16384

[data]
sequence_length = 256

[training]
batch_size = 16
dtype = \"bf16\"
steps = 100
";

fn config(sandbox: &Sandbox, text: &str) -> std::path::PathBuf {
    let file = sandbox.path("run.toml");
    fs::write(&file, text).unwrap();
    file
}

fn row<'a>(said: &'a Value, target: &str) -> &'a Value {
    let rows = said["rows"].as_array().unwrap();
    rows.iter().find(|row| row["target"] == target).unwrap_or_else(|| panic!("{said}"))
}

#[test]
fn a_run_is_planned_for_several_targets() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("a_run_is_planned_for_several_targets", &sandbox) else {
        return;
    };
    let file = config(&sandbox, SMALL);
    command.arg("train").arg(&file).args(["--targets", "v6e-4,v5e-4", "--tokens", "1B", "--json"]);
    let said = run(&mut command).json();
    for target in ["v6e-4", "v5e-4"] {
        let row = row(&said, target);
        let verdict = &row["verdict"];
        assert_eq!(verdict["verdict"], "fits", "{row}");
        let plan = &verdict["plan"];
        let (step, job) = (&plan["job"]["step"], &plan["job"]);
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{plan}"));
        let seconds = number(&step["seconds"]);
        assert!(
            number(&step["low_seconds"]) <= seconds && seconds <= number(&step["high_seconds"])
        );
        // 16 x 256 tokens a step, four chips, 1e9 tokens.
        let per_chip = number(&job["tokens_per_second_per_chip"]);
        assert!((per_chip * seconds * 4.0 / 4096.0 - 1.0).abs() < 1e-9);
        assert!((number(&job["total_seconds"]) / (1e9 / 4096.0 * seconds) - 1.0).abs() < 1e-9);
        let shares: f64 =
            step["bounds"].as_array().unwrap().iter().map(|part| number(&part["share"])).sum();
        assert!((shares - 1.0).abs() < 1e-6, "{shares}");
        // Weights, and twice as much of AdamW's, over four chips or fewer pieces.
        let memory = &plan["memory"];
        let (weights, optimizer) =
            (number(&memory["weights_bytes"]), number(&memory["optimizer_bytes"]));
        assert!((optimizer / weights - 2.0).abs() < 0.01, "{memory}");
        assert!(number(&memory["needed_bytes"]) <= number(&memory["available_bytes"]));
        // Chip-hours at the price that is named are most of the money.
        let money = &plan["money"];
        let hours = number(&job["total_seconds"]) / 3600.0 * 4.0;
        let work = hours * number(&money["offer"]["dollars_per_chip_hour"]);
        let parts = money["parts"].as_array().unwrap();
        let of_work = parts.iter().find(|part| part["name"] == "the work itself").unwrap();
        assert!((number(&of_work["dollars"]) / work - 1.0).abs() < 1e-9, "{money}");
        let sum: f64 = parts.iter().map(|part| number(&part["dollars"])).sum();
        assert!((number(&money["total_dollars"]) / sum - 1.0).abs() < 1e-9, "{money}");
        assert!(money["offer"]["source"].as_str().unwrap().len() > 5);
    }
    let ranking = said["ranking"].as_array().unwrap();
    assert_eq!(ranking.len(), 2);
    // A second time nothing is compiled.
    let mut again = with_tpu("a_run_is_planned_for_several_targets", &sandbox).unwrap();
    again.arg("train").arg(&file).args(["--targets", "v6e-4,v5e-4", "--tokens", "1B"]);
    let text = run(&mut again).success();
    assert_eq!(text.matches("kept from before").count(), 2, "{text}");
    assert!(text.contains("$/M tokens") && text.contains("Compiled and estimated"), "{text}");
}

/// A chip without a number stands for the fewest that will do.
#[test]
fn a_chip_alone_is_as_many_as_it_takes() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("a_chip_alone_is_as_many_as_it_takes", &sandbox) else {
        return;
    };
    let file = config(&sandbox, SMALL);
    // What is kept for the way back of so many tokens is more than a v5e has, and not than four have.
    command.arg("train").arg(&file).args(["--targets", "v5e", "--json"]);
    command.args(["--set", "training.batch_size=512", "--set", "training.layers=\"scanned\""]);
    let said = run(&mut command).json();
    let row = row(&said, "v5e");
    assert_eq!(row["verdict"]["verdict"], "fits", "{said}");
    assert_eq!((&row["chips"], &row["hosts"]), (&Value::from(4), &Value::from(1)), "{row}");
    let plan = &row["verdict"]["plan"];
    assert_eq!(plan["target"], "v5e-4", "{row}");
    assert_eq!(plan["changes"].as_array().unwrap().len(), 0, "{row}");
    // Starting up comes before the steps.
    let run = &plan["money"]["run"];
    assert_eq!(run["work_seconds"], plan["job"]["total_seconds"], "{row}");
    assert!(run["startup_seconds"].as_f64().unwrap() > 0.0, "{row}");
    assert_eq!(run["lost_seconds"], 0.0, "{row}");
}

#[test]
fn what_does_not_fit_is_made_to_fit() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("what_does_not_fit_is_made_to_fit", &sandbox) else { return };
    // What is kept for the way back of so many tokens is more than a v5e has.
    let file = config(&sandbox, SMALL);
    command.arg("train").arg(file).args(["--targets", "v5e-1", "--json"]);
    command.args(["--set", "training.batch_size=512", "--set", "training.layers=\"scanned\""]);
    let said = run(&mut command).json();
    let verdict = &row(&said, "v5e-1")["verdict"];
    assert_eq!(verdict["verdict"], "fits_changed", "{said}");
    let misfit = &verdict["misfit"];
    assert!(misfit["needed_bytes"].as_u64().unwrap() > misfit["available_bytes"].as_u64().unwrap());
    let plan = &verdict["plan"];
    let changes = plan["changes"].as_array().unwrap();
    assert!(
        changes.iter().any(|change| change.as_str().unwrap().starts_with("training.")),
        "{said}"
    );
    let memory = &plan["memory"];
    assert!(
        memory["needed_bytes"].as_u64().unwrap() <= memory["available_bytes"].as_u64().unwrap()
    );
}

/// Nothing of 70 billion parameters fits one small chip, and no compiler is asked to find out.
#[test]
fn what_cannot_fit_is_said_without_a_compiler() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("what_cannot_fit_is_said_without_a_compiler", &sandbox) else {
        return;
    };
    command.args(["train", "llama3-70b", "--targets", "v5e-1", "--json"]);
    // One sequence cannot be split, so no number of chips is proposed either.
    command.args(["--set", "training.batch_size=1", "--set", "data.sequence_length=128"]);
    let said = run(&mut command);
    let value: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let verdict = &row(&value, "v5e-1")["verdict"];
    assert_eq!(verdict["misfit"]["compiled"], false, "{value}");
    assert!(verdict["misfit"]["reason"].as_str().unwrap().contains("alone do not fit"), "{value}");
    // What does is not another v5e, since one sequence cannot be split over the batch.
    assert_eq!(verdict["verdict"], "does_not_fit", "{value}");
}

#[test]
fn a_server_is_planned_for_a_load() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("a_server_is_planned_for_a_load", &sandbox) else { return };
    let model = tiny_model("llama");
    command.arg("serve").arg(&model).args(["--input", "24", "--output", "8", "--qps", "5"]);
    command.args(["--max-num-seqs", "8", "--max-num-batched-tokens", "16"]);
    command.args(["--targets", "v5e-1,v6e", "--json"]);
    let said = run(&mut command).json();
    for target in ["v5e-1", "v6e"] {
        let row = row(&said, target);
        let plan = &row["verdict"]["plan"];
        let job = &plan["job"];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{row}"));
        assert_eq!(job["kind"], "serving", "{row}");
        assert!(job["meets"].as_bool().unwrap(), "{row}");
        let load = &job["load"];
        let instances = number(&job["instances"]);
        assert!((number(&load["requests_per_second"]) * instances - 5.0).abs() < 1e-9);
        assert!(number(&job["capacity_requests_per_second"]) * instances >= 5.0);
        // Two chunks of a prompt come before the first token.
        assert_eq!(job["prefill_tokens"], 16);
        assert!(number(&load["ttft_seconds"]) > number(&job["prefill"]["seconds"]));
        assert!(number(&load["tpot_seconds"]) >= number(&job["decode"]["seconds"]));
    }
}

#[test]
fn the_processor_is_measured() {
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu("the_processor_is_measured") else { return };
    let file = config(&sandbox, SMALL);
    command.args(["plan", "train"]).arg(file).args(["--targets", "cpu", "--json"]);
    command.args(["--set", "training.batch_size=2", "--set", "data.sequence_length=32"]);
    let said = run(command.args(["--set", "training.dtype=\"f32\""])).json();
    let plan = &row(&said, "cpu")["verdict"]["plan"];
    let source = plan["job"]["step"]["source"].as_str().unwrap_or_else(|| panic!("{said}"));
    assert!(source.contains("measured here"), "{said}");
    assert!(plan["memory"]["needed_bytes"].as_u64().unwrap() > 300 << 20, "{said}");
}

#[test]
fn a_plugin_that_is_missing_skips_its_targets_only() {
    let sandbox = Sandbox::new();
    let Some(mut command) = with_tpu("a_plugin_that_is_missing_skips_its_targets_only", &sandbox)
    else {
        return;
    };
    let file = config(&sandbox, SMALL);
    // The sandbox's cache holds no plugin, and only the TPU's is named; for MI300X there is none at all.
    command.arg("train").arg(file).args(["--targets", "h100-8,mi300x-8,v6e-4"]);
    let text = run(&mut command).success();
    assert!(text.contains("nothing here compiles for AMD"), "{text}");
    assert!(text.contains("skipped") && text.contains("plugin install cuda13"), "{text}");
    assert!(text.contains("v6e-4") && text.contains("fits"), "{text}");
}

#[test]
fn wrong_questions_are_answered_with_what_to_ask() {
    let sandbox = Sandbox::new();
    let file = config(&sandbox, SMALL);
    let refused = |arguments: &[&str]| {
        let said = run(sandbox.fungible().arg("plan").args(arguments));
        assert_eq!(said.code, Some(2), "{said:?}");
        said.stderr
    };
    let file = file.to_str().unwrap();
    let unknown = refused(&["train", file, "--targets", "v6-16"]);
    assert!(unknown.contains("did you mean `v6e-16`"), "{unknown}");
    let illegal = refused(&["train", file, "--targets", "v5e-3"]);
    assert!(illegal.contains("1, 4, 8, 16, 32, 64, 128, 256"), "{illegal}");
    let provider = refused(&["train", file, "--targets", "v6e-4", "--provider", "acme"]);
    assert!(provider.contains("known are") && provider.contains("gcp"), "{provider}");
    let nothing = refused(&["train", "llama9", "--targets", "v6e-4"]);
    assert!(nothing.contains("llama3-8b"), "{nothing}");
    let long = refused(&["serve", "llama3-8b", "--input", "999999", "--targets", "v6e"]);
    assert!(long.contains("the model handles"), "{long}");
}

#[test]
fn a_catalog_without_a_unit_is_refused_with_its_line() {
    let sandbox = Sandbox::new();
    let file = config(&sandbox, SMALL);
    let catalog = sandbox.path("chips.toml");
    fs::write(&catalog, "[[chip]]\nname = \"h100\"\npower = \"650\"\n").unwrap();
    let mut command = sandbox.fungible();
    command.args(["plan", "train"]).arg(file).args(["--targets", "v6e-4", "--catalog"]);
    let said = run(command.arg(&catalog));
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("chips.toml") && said.stderr.contains("line 3"), "{said:?}");
}
