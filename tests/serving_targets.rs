//! `fungible serve --compile-only` for chips that are not here, on tiny checkpoints, by the vendors' own
//! compilers: what a server would need there, and what does not fit.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::process::Command;

use binary::{Sandbox, run, tiny_model};
use runtime::{CacheFolder, Discovery};
use serde_json::Value;

/// `fungible serve` of a tiny model, compiled for a target whose plugin is here; `None` after saying that
/// `test` is skipped.
fn compile_only(
    test: &str,
    sandbox: &Sandbox,
    model: &std::path::Path,
    target: &str,
) -> Option<Command> {
    let kind = target.parse::<runtime::Target>().unwrap().plugin();
    let discovery = Discovery::new(CacheFolder::from_environment().unwrap());
    let location = match discovery.find(kind) {
        Ok(location) => location,
        Err(error) => {
            shared::skip(test, &error.to_string());
            return None;
        }
    };
    let mut command = sandbox.fungible();
    command.env(kind.environment_variable(), location.path);
    command.arg("serve").arg(model).args(["--compile-only", "--target", target, "--json"]);
    Some(command)
}

fn sizes(program: &Value) -> (String, [u64; 3]) {
    let sizes = ["rows", "tokens", "pages"].map(|name| program[name].as_u64().unwrap());
    (program["program"].as_str().unwrap().to_string(), sizes)
}

/// All programs of a server, and a cache that fills the chip.
fn fills(test: &str, target: &str, quantization: &str) {
    let sandbox = Sandbox::new();
    let model = tiny_model("llama");
    let Some(mut command) = compile_only(test, &sandbox, &model, target) else { return };
    command.args(["--context", "64", "--max-num-seqs", "2", "--block-size", "16"]);
    command.args(["--max-num-batched-tokens", "16", "--quantization", quantization]);
    let said = run(&mut command).json();
    assert_eq!((&said["fits"], &said["target"]), (&true.into(), &target.into()));
    let programs = said["programs"].as_array().unwrap();
    let found: Vec<_> = programs.iter().map(sizes).collect();
    let expected = [
        ("prefill", [1, 16, 4]),
        ("decode", [1, 1, 4]),
        ("decode", [2, 1, 4]),
        ("embed", [1, 16, 4]),
    ];
    assert_eq!(found, expected.map(|(name, sizes)| (name.to_string(), sizes)));
    let available = said["available_bytes"].as_u64().unwrap();
    for program in programs {
        let needed = program["needed_bytes"].as_u64().unwrap();
        assert!(needed <= available, "{program}");
        assert!(needed > available / 100 * 85, "{program} leaves memory of {available}");
        assert!(program["compile_seconds"].as_f64().unwrap() > 0.0);
    }
    let cache = &said["kv_cache"];
    // Two layers of keys and values, two heads of 8 numbers, bf16.
    let page_bytes = 16 * 2 * 2 * 2 * 8 * 2;
    let pages = cache["pages"].as_u64().unwrap();
    assert_eq!(cache["bytes_per_device"].as_u64().unwrap(), pages * page_bytes);
    assert!(pages > 4, "{cache}");
}

#[test]
fn a_server_on_a_tpu_fills_it_with_its_cache() {
    fills("a_server_on_a_tpu_fills_it_with_its_cache", "v5e-1", "auto");
}

#[test]
fn a_server_in_int8_on_a_tpu_fills_it_too() {
    fills("a_server_in_int8_on_a_tpu_fills_it_too", "v5e-1", "w8a8");
}

#[test]
fn a_server_on_a_gpu_fills_it_with_its_cache() {
    fills("a_server_on_a_gpu_fills_it_with_its_cache (cuda)", "h100-1", "int8");
}

#[test]
fn what_does_not_fit_is_said_so() {
    let test = "what_does_not_fit_is_said_so (tpu)";
    let sandbox = Sandbox::new();
    let model = sandbox.path("large");
    std::fs::create_dir(&model).unwrap();
    let config = std::fs::read_to_string(tiny_model("llama").join("config.json")).unwrap();
    // An embedding and a head of 15 GiB each, for a chip with 16 GiB.
    let large = config.replace("\"vocab_size\": 256", "\"vocab_size\": 4000000");
    let large = large.replace("\"hidden_size\": 32", "\"hidden_size\": 2048");
    assert_eq!(large.len(), config.len() + 4 + 2);
    std::fs::write(model.join("config.json"), large).unwrap();
    let config = model.join("config.json");
    let Some(mut command) = compile_only(test, &sandbox, &config, "v5e-1") else { return };
    let said = run(&mut command);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json["fits"], false);
    let (message, code) = said.failure();
    assert_eq!(code, 3);
    assert_eq!(json["error"], message.trim_end());
    for part in ["do not fit", " GiB per device are needed", "take more devices"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn int8_is_for_chips_that_multiply_it() {
    let sandbox = Sandbox::new();
    for quantization in ["int8", "w8a8"] {
        let mut command = sandbox.fungible();
        command.arg("serve").arg(tiny_model("llama"));
        command.args(["--compile-only", "--target", "cpu", "--quantization", quantization]);
        run(&mut command).fails_with(&["for TPUs and GPUs", "q8"]);
    }
    let mut command = sandbox.fungible();
    command.arg("serve").arg(tiny_model("llama"));
    command.args(["--compile-only", "--target", "v5e-1", "--quantization", "q4"]);
    run(&mut command).fails_with(&["on one CPU device", "int8"]);
}
