//! Whatever is wrong with files, names, plugins, network or disk: one sentence that says what, why and
//! what to do, an exit code, and nothing half-written left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use binary::{Sandbox, run};
use runtime::registry;
use serde_json::json;

/// A GGUF file with a tensor of every encoding.
fn gguf() -> Vec<u8> {
    fs::read(binary::root().join("crates/llm/tests/goldens/blocks.gguf")).unwrap()
}

/// Scores two tokens with the model at `path`: the shortest way to all of its weights.
fn score(mut command: Command, model: &Path) -> Command {
    command.arg("score").arg(model).args(["--token-ids", "5,6"]);
    command
}

/// Runs `score` on a tiny Llama after `damage`, demanding that it fails with `parts`.
fn damaged_model(test: &str, damage: impl FnOnce(&Path), parts: &[&str]) {
    let sandbox = Sandbox::new();
    let Some(command) = sandbox.fungible_on_cpu(test) else { return };
    let model = sandbox.model("llama");
    let mut command = score(command, &model);
    damage(&model);
    run(&mut command).fails_with(parts);
    sandbox.assert_clean();
}

/// What the tests below damage works as long as it is not damaged.
#[test]
fn an_undamaged_model() {
    let sandbox = Sandbox::new();
    let Some(command) = sandbox.fungible_on_cpu("an_undamaged_model") else { return };
    run(&mut score(command, &sandbox.model("llama"))).success();
    sandbox.assert_clean();
}

#[test]
fn a_truncated_safetensors_file() {
    let cut = |model: &Path| {
        let path = model.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let parts =
        ["model.safetensors is not a valid safetensors file", "the file has", "fetch it again"];
    damaged_model("a_truncated_safetensors_file", cut, &parts);
}

#[test]
fn a_corrupt_safetensors_header() {
    let scramble = |model: &Path| {
        let path = model.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[8..40].fill(b'#');
        fs::write(&path, bytes).unwrap();
    };
    let parts = ["model.safetensors is not a valid safetensors file: its header", "fetch it again"];
    damaged_model("a_corrupt_safetensors_header", scramble, &parts);
}

#[test]
fn a_tensor_that_is_missing() {
    let rename = |model: &Path| {
        shared::change_checkpoint(model, |header, _| {
            let tensor = header.remove("model.layers.1.mlp.up_proj.weight").unwrap();
            header.insert("model.layers.1.mlp.other_proj.weight".to_string(), tensor);
        });
    };
    let parts = [
        "tensor `model.layers.1.mlp.up_proj.weight` is missing in ",
        "model.safetensors",
        "nearest: `model.layers.",
        "does not fit its config",
    ];
    damaged_model("a_tensor_that_is_missing", rename, &parts);
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let turn = |model: &Path| {
        shared::change_checkpoint(model, |header, _| {
            header["model.layers.0.mlp.down_proj.weight"]["shape"] = json!([64, 32]);
        });
    };
    let parts = [
        "tensor `model.layers.0.mlp.down_proj.weight` has shape [64, 32] in ",
        "model.safetensors, expected [32, 64]",
        "does not fit its config",
    ];
    damaged_model("a_tensor_of_the_wrong_shape", turn, &parts);
}

#[test]
fn a_config_of_another_size() {
    let widen = |model: &Path| {
        shared::change_config(model, |config| {
            config.insert("intermediate_size".to_string(), json!(80));
        });
    };
    let parts = ["mlp.", "has shape", "80", "model.safetensors"];
    damaged_model("a_config_of_another_size", widen, &parts);
}

#[test]
fn nan_in_weights() {
    let poison = |model: &Path| {
        shared::change_checkpoint(model, |header, data| {
            let range = &header["model.layers.1.self_attn.v_proj.weight"]["data_offsets"];
            let start = range[0].as_u64().unwrap() as usize;
            data[start + 40..start + 44].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    };
    let parts = [
        "tensor `model.layers.1.self_attn.v_proj.weight` in ",
        "model.safetensors holds NaN at element 10",
        "use another one",
    ];
    damaged_model("nan_in_weights", poison, &parts);
}

#[test]
fn an_unknown_architecture() {
    let rename = |model: &Path| {
        shared::change_config(model, |config| {
            config.insert("model_type".to_string(), json!("mamba"));
            config.insert("architectures".to_string(), json!(["MambaForCausalLM"]));
        });
    };
    let parts =
        ["config.json", "`mamba` is not supported", "llama, mistral, qwen2, qwen3", "choose"];
    damaged_model("an_unknown_architecture", rename, &parts);
}

#[test]
fn a_config_that_is_no_json() {
    let scramble =
        |model: &Path| fs::write(model.join("config.json"), "{\"model_type\": ").unwrap();
    damaged_model(
        "a_config_that_is_no_json",
        scramble,
        &["config.json", "not valid JSON", "fetch"],
    );
}

/// Scores with a GGUF file of these bytes, demanding that it fails with `parts`.
fn damaged_gguf(test: &str, bytes: &[u8], parts: &[&str]) {
    let sandbox = Sandbox::new();
    let Some(command) = sandbox.fungible_on_cpu(test) else { return };
    let path = sandbox.path("model.gguf");
    fs::write(&path, bytes).unwrap();
    let said = run(&mut score(command, &path));
    said.fails_with(parts);
    said.fails_with(&["model.gguf"]);
    sandbox.assert_clean();
}

#[test]
fn a_gguf_file_cut_in_its_head() {
    let parts = ["the file ends inside", "it is truncated, fetch it again"];
    damaged_gguf("a_gguf_file_cut_in_its_head", &gguf()[..200], &parts);
}

#[test]
fn a_gguf_file_cut_in_its_tensors() {
    let bytes = gguf();
    let parts = ["tensor `", "ends at byte", "it is truncated, fetch it again"];
    damaged_gguf("a_gguf_file_cut_in_its_tensors", &bytes[..bytes.len() - 100], &parts);
}

#[test]
fn a_gguf_file_that_is_something_else() {
    let parts = ["where a GGUF file has `GGUF`"];
    damaged_gguf("a_gguf_file_that_is_something_else", b"PK\x03\x04 a zip archive", &parts);
}

#[test]
fn a_gguf_file_with_impossible_counts() {
    let mut bytes = gguf();
    // The number of tensors stands after magic and version.
    bytes[8..16].fill(0xff);
    damaged_gguf("a_gguf_file_with_impossible_counts", &bytes, &["the header claims", "corrupt"]);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let test = "a_prompt_longer_than_the_context";
    let sandbox = Sandbox::new();
    let model = sandbox.model("smollm2");
    let generate = |prompt: &str, flags: &[&str]| {
        let mut command = sandbox.fungible_on_cpu(test)?;
        command.args(["generate", prompt, "--model"]).arg(&model).args(flags);
        Some(run(&mut command))
    };
    let Some(said) = generate(&"long ".repeat(300), &[]) else { return };
    said.fails_with(&["the prompt has ", "more than the context of 128", "shorten it"]);
    assert!(!said.stderr.contains("--context"), "the model itself has no more: {}", said.stderr);
    let said = generate("How high is the water?", &["--context", "4"]).unwrap();
    said.fails_with(&["more than the context of 4", "shorten it or raise --context"]);
    sandbox.assert_clean();
}

#[test]
fn tokens_that_are_not_in_the_vocabulary() {
    let test = "tokens_that_are_not_in_the_vocabulary";
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu(test) else { return };
    command.arg("score").arg(sandbox.model("llama")).args(["--token-ids", "5,99999"]);
    run(&mut command).fails_with(&["token 99999 is not in the vocabulary of 256 tokens"]);
}

#[test]
fn text_without_a_tokenizer() {
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu("text_without_a_tokenizer") else { return };
    command.args(["generate", "x", "--model"]).arg(sandbox.model("llama"));
    run(&mut command).fails_with(&["has no tokenizer.json", "--token-ids"]);
}

#[test]
fn a_model_that_does_not_exist() {
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu("a_model_that_does_not_exist") else { return };
    command.args(["generate", "x", "--model", "smolm2-135m"]);
    run(&mut command).fails_with(&[
        "there is no model `smolm2-135m`",
        "known names are smollm2-135m",
        "`hf download ID --local-dir FOLDER`",
    ]);
    let Some(mut command) = sandbox.fungible_on_cpu("a_model_that_does_not_exist") else { return };
    command.args(["generate", "x", "--model", "somebody/model-1b"]);
    run(&mut command).fails_with(&["`hf download somebody/model-1b --local-dir FOLDER`"]);
    sandbox.assert_clean();
}

#[test]
fn an_adapter_in_the_place_of_a_model() {
    let sandbox = Sandbox::new();
    let test = "an_adapter_in_the_place_of_a_model";
    let Some(mut command) = sandbox.fungible_on_cpu(test) else { return };
    let adapter = sandbox.path("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    command.args(["generate", "x", "--model"]).arg(&adapter);
    run(&mut command).fails_with(&["adapter is a LoRA adapter", "`fungible export RUN model`"]);
}

#[test]
fn a_model_of_which_only_the_shape_is_known() {
    let test = "a_model_of_which_only_the_shape_is_known";
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu(test) else { return };
    command.args(["generate", "x", "--model", "llama3-8b"]);
    run(&mut command).fails_with(&[
        "known by its shape only",
        "fungible compile",
        "with its weights",
    ]);
}

#[test]
fn sampling_settings_out_of_range() {
    let test = "sampling_settings_out_of_range";
    let sandbox = Sandbox::new();
    let Some(mut command) = sandbox.fungible_on_cpu(test) else { return };
    command.args(["generate", "x", "--top-p", "1.5", "--model"]).arg(sandbox.model("smollm2"));
    run(&mut command).fails_with(&["top-p is 1.5", "it must be above 0 and at most 1"]);
}

#[test]
fn a_target_that_does_not_exist() {
    let sandbox = Sandbox::new();
    let compile =
        |target: &str| run(sandbox.fungible().args(["compile", "llama3-8b", "--target", target]));
    let said = compile("v6-16");
    said.fails_with(&["there is no target `v6-16`", "did you mean `v6e-16`?", "Known chips: "]);
    compile("v5e-1,h10-8").fails_with(&["there is no target `h10-8`", "did you mean `h100-8`?"]);
    compile("v5e-3").fails_with(&[
        "v5e does not come in 3 chips",
        "1, 4, 8, 16",
        "chips, not cores",
    ]);
    compile("h100").fails_with(&["`h100` does not say how many chips", "write `h100-`"]);
    assert!(!sandbox.cache().exists());
}

#[test]
fn a_mesh_that_cannot_be() {
    let sandbox = Sandbox::new();
    let compile = |mesh: &str| {
        let arguments = ["compile", "llama3-8b", "--target", "v5e-4", "--mesh", mesh];
        run(sandbox.fungible().args(arguments))
    };
    compile("tensor=8").fails_with(&["the mesh tensor=8 has 8 devices, v5e-4 has 4"]);
    compile("tensor").fails_with(&["`tensor` is not of the form name=size", "data=2,tensor=4"]);
}

/// Runs with a file of these bytes as the CPU plugin.
fn with_plugin(bytes: &[u8], parts: &[&str]) {
    let sandbox = Sandbox::new();
    let plugin = sandbox.path("plugin.so");
    fs::write(&plugin, bytes).unwrap();
    let model = sandbox.model("llama");
    let said = run(score(sandbox.fungible(), &model).arg("--plugin").arg(&plugin));
    said.fails_with(parts);
    said.fails_with(&["cannot load the plugin ", "plugin.so"]);
    sandbox.assert_clean();
    // The variable means the same.
    let again = run(score(sandbox.fungible(), &model).env("FUNGIBLE_CPU_PLUGIN", &plugin));
    assert_eq!(again.failure(), said.failure());
}

#[test]
fn a_plugin_that_is_no_library() {
    with_plugin(b"<html>404</html>", &["it is not a library", "install the plugin again"]);
}

#[test]
fn a_plugin_that_is_half_a_download() {
    let mut header = [0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    with_plugin(&header[..40], &["half a download", "install the plugin again"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_plugin_of_another_platform() {
    with_plugin(b"MZ this is for Windows", &["library for Windows", "for linux"]);
    let mut header = [0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // The machine: one of x86-64 and AArch64, whichever this is not.
    header[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    with_plugin(&header, &[other]);
}

#[test]
fn a_plugin_that_is_not_there() {
    let sandbox = Sandbox::new();
    let mut command = score(sandbox.fungible(), &sandbox.model("llama"));
    let said = run(command.env("FUNGIBLE_CPU_PLUGIN", sandbox.path("nowhere.so")));
    let advice = "correct the flag or FUNGIBLE_CPU_PLUGIN";
    said.fails_with(&["was said to be ", "nowhere.so, which is not a file", advice]);
}

#[test]
fn a_package_that_does_not_exist() {
    let sandbox = Sandbox::new();
    let said = run(sandbox.fungible().args(["plugin", "install", "cuda12x"]));
    said.fails_with(&[
        "there is no plugin `cuda12x`",
        "did you mean `cuda13`?",
        "cpu, tpu, cuda13",
    ]);
    sandbox.assert_clean();
}

/// What a first run does on a machine without pip.
#[test]
fn no_pip() {
    let sandbox = Sandbox::new();
    for arguments in [&["generate", "x"][..], &["plugin", "install", "cpu"]] {
        let said = run(sandbox.fungible().args(arguments).env("FUNGIBLE_PYTHON", "no-such-python"));
        said.fails_with(&[
            "no working pip was found",
            "`no-such-python -m pip`",
            "set FUNGIBLE_PYTHON",
        ]);
        sandbox.assert_clean();
    }
}

fn has_pip(test: &str) -> bool {
    let python = std::env::var_os("FUNGIBLE_PYTHON").unwrap_or_else(|| "python3".into());
    let version = Command::new(python).args(["-m", "pip", "--version"]).output();
    let found = version.is_ok_and(|output| output.status.success());
    if !found {
        shared::skip(test, "there is no pip");
    }
    found
}

/// With the real pip, and none of the user's settings for it.
fn with_pip(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.fungible();
    if let Some(python) = std::env::var_os("FUNGIBLE_PYTHON") {
        command.env("FUNGIBLE_PYTHON", python);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PIP_") {
            command.env_remove(name);
        }
    }
    command.env("PIP_CONFIG_FILE", "/dev/null");
    command
}

#[test]
fn no_network() {
    if !has_pip("no_network") {
        return;
    }
    let sandbox = Sandbox::new();
    let mut command = with_pip(&sandbox);
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    // The discard port: nothing listens there.
    command.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PIP_RETRIES", "1");
    let said = run(command.args(["generate", "x"]));
    let advice = "check the network";
    said.fails_with(&["cannot download ", "the package index was not reached", advice]);
    sandbox.assert_clean();
    // A pip that is not to try again does not say why it found nothing.
    let said = run(command.env("PIP_RETRIES", "0"));
    said.fails_with(&["was not found in the package index", advice]);
    sandbox.assert_clean();
}

#[test]
fn a_package_that_was_tampered_with() {
    if !has_pip("a_package_that_was_tampered_with") {
        return;
    }
    let wheel = &registry::find("cpu").unwrap().archives[0];
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("index")).unwrap();
    fs::write(sandbox.path("index").join(&wheel.file), "not the file that was pinned").unwrap();
    let mut command = with_pip(&sandbox);
    command.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", sandbox.path("index"));
    let said = run(command.args(["plugin", "install", "cpu"]));
    said.fails_with(&[
        "is not the expected file",
        &wheel.sha256,
        "nothing was installed",
        "run this again",
    ]);
    sandbox.assert_clean();
}

#[test]
fn a_file_in_the_place_of_the_cache() {
    let test = "a_file_in_the_place_of_the_cache";
    let sandbox = Sandbox::new();
    fs::write(sandbox.cache(), "in the way").unwrap();
    let said = run(sandbox.fungible().args(["plugin", "install", "cpu"]));
    said.fails_with(&["cache", "FUNGIBLE_CACHE"]);
    let Some(command) = sandbox.fungible_on_cpu(test) else { return };
    run(&mut score(command, &sandbox.model("llama"))).fails_with(&["cache", "FUNGIBLE_CACHE"]);
    assert_eq!(fs::read(sandbox.cache()).unwrap(), b"in the way");
}

/// The administrator may write everywhere but into the kernel's own folders.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_cannot_be_written_to() {
    let test = "a_cache_that_cannot_be_written_to";
    let sandbox = Sandbox::new();
    let Some(command) = sandbox.fungible_on_cpu(test) else { return };
    let mut command = score(command, &sandbox.model("llama"));
    let said = run(command.env("FUNGIBLE_CACHE", "/sys/fungible"));
    said.fails_with(&["no permission to write /sys/fungible", "FUNGIBLE_CACHE"]);
}

/// A limit on the size of files stands for a full disk: writing fails in the middle of a file.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up() {
    let sandbox = Sandbox::new();
    let Some(command) = sandbox.fungible_on_cpu("a_disk_that_fills_up") else { return };
    let command = score(command, &sandbox.model("llama"));
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let said = run(&mut limited);
    said.fails_with(&["cannot be written", "free some space", "FUNGIBLE_CACHE"]);
    sandbox.assert_clean();
    // Nothing that is half there is taken for whole when there is room again.
    let Some(command) = sandbox.fungible_on_cpu("a_disk_that_fills_up") else { return };
    run(&mut score(command, &sandbox.path("llama"))).success();
}

/// A disk that is full, in the form that every Linux has at hand.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written() {
    let test = "output_that_cannot_be_written";
    let sandbox = Sandbox::new();
    let Some(mut generate) = sandbox.fungible_on_cpu(test) else { return };
    generate.args(["generate", "x", "--max-tokens", "2", "--model"]).arg(sandbox.model("smollm2"));
    let mut list = sandbox.fungible();
    list.args(["plugin", "list"]);
    let mut doctor = sandbox.fungible();
    doctor.args(["doctor", "--json"]);
    for command in [&mut list, &mut doctor, &mut generate] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let said = run(command.stdin(Stdio::null()).stdout(full));
        said.fails_with(&["cannot write the output", "disk is full"]);
    }
    sandbox.assert_clean();
}

/// A reader that has seen enough, such as `head`.
#[cfg(unix)]
#[test]
fn a_pipe_that_was_closed() {
    let sandbox = Sandbox::new();
    for arguments in [&["plugin", "list"][..], &["doctor"], &["doctor", "--json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = run(sandbox.fungible().args(arguments).stdout(writer));
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
