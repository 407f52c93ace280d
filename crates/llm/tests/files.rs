//! What is found in a folder, and what is said when something is missing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::error::Error;
use std::fs;
use std::path::Path;

use llm::{ModelFiles, RopeScaling};

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 5, "hidden_size": 4,
"intermediate_size": 4,
    "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1}"#;
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null,
"normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"<s>": 0, "</s>": 1, "rain": 2},
    "unk_token": "<s>"}}"#;

fn write(folder: &Path, name: &str, contents: impl AsRef<[u8]>) {
    fs::write(folder.join(name), contents).unwrap();
}

fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", CONFIG);
    let header = r#"{"lm_head.weight":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#;
    let contents = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 2]].concat();
    write(folder.path(), "model.safetensors", contents);
    folder
}

/// The message and its causes, as a user sees them.
fn failure(path: &Path) -> String {
    let error = ModelFiles::open(path).unwrap_err();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[test]
fn a_folder_without_a_tokenizer_still_opens() {
    let folder = model();
    let files = ModelFiles::open(folder.path()).unwrap();
    assert!(files.tokenizer().unwrap().is_none());
    assert!(files.chat_template().unwrap().is_none());
    assert_eq!(files.config.eos_token_ids, [1]);
    assert_eq!(files.checkpoint.read_to_vec("lm_head.weight").unwrap(), [0.0]);
}

#[test]
fn everything_in_a_folder_is_found() {
    let folder = model();
    write(folder.path(), "generation_config.json", r#"{"eos_token_id": [1, 4]}"#);
    write(folder.path(), "tokenizer.json", TOKENIZER);
    write(
        folder.path(),
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "chat_template": "{{ bos_token }}old"}"#,
    );
    let files = ModelFiles::open(folder.path()).unwrap();
    assert_eq!(files.config.eos_token_ids, [1, 4]);
    assert_eq!(files.tokenizer().unwrap().unwrap().bos_token_id(), Some(0));
    let render = |files: &ModelFiles| {
        files.chat_template().unwrap().unwrap().render(&Default::default()).unwrap()
    };
    assert_eq!(render(&files), "<s>old");
    write(folder.path(), "chat_template.jinja", "{{ bos_token }}new");
    assert_eq!(render(&files), "<s>new");
    write(folder.path(), "tokenizer.json", "{");
    assert!(files.tokenizer().unwrap_err().to_string().contains("the tokenizer of"));
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(failure(&path.join("nowhere")).contains("does not exist"));
    assert!(failure(path).contains("is an empty folder"));
    write(path, "notes.txt", "x");
    assert!(failure(&path.join("notes.txt")).contains("is neither a folder nor a `.gguf` file"));
    assert!(failure(path).contains("has no `config.json`: fetch the whole model folder"));
    write(path, "tiny.gguf", "x");
    let message = failure(path);
    assert!(
        message.contains("but a GGUF file: give ") && message.contains("tiny.gguf instead"),
        "{message}"
    );
    assert!(failure(&path.join("tiny.gguf")).contains("truncated"));
    write(path, "config.json", CONFIG);
    assert!(
        failure(path)
            .contains("has neither `model.safetensors` nor `model.safetensors.index.json`")
    );
    write(path, "pytorch_model.bin", "x");
    let message = failure(path);
    assert!(
        message.contains("`pytorch_model.bin`") && message.contains("convert them to safetensors"),
        "{message}"
    );
    write(path, "config.json", "{}");
    let message = failure(path);
    assert!(
        message.contains("config.json does not describe a model")
            && message.contains("`model_type`"),
        "{message}"
    );
}

/// A GGUF file of one F32 tensor, `rope_freqs.weight` with `factors`, that describes a tiny Llama.
fn gguf_with_rope_factors(factors: &[f32]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let sizes = [
        ("block_count", 1u32),
        ("context_length", 8),
        ("embedding_length", 8),
        ("feed_forward_length", 8),
        ("attention.head_count", 2),
        ("vocab_size", 8),
    ];
    file.extend(3u32.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend((sizes.len() as u64 + 2).to_le_bytes());
    file.extend(
        [string("general.architecture"), 8u32.to_le_bytes().to_vec(), string("llama")].concat(),
    );
    let epsilon = string("llama.attention.layer_norm_rms_epsilon");
    file.extend([epsilon, 6u32.to_le_bytes().to_vec(), 1e-5f32.to_le_bytes().to_vec()].concat());
    for (key, size) in sizes {
        file.extend(
            [
                string(&format!("llama.{key}")),
                4u32.to_le_bytes().to_vec(),
                size.to_le_bytes().to_vec(),
            ]
            .concat(),
        );
    }
    file.extend([string("rope_freqs.weight"), 1u32.to_le_bytes().to_vec()].concat());
    file.extend((factors.len() as u64).to_le_bytes());
    file.extend([0u32.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
    file
}

#[test]
fn rotary_factors_of_a_gguf_file_become_scaling() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.gguf", gguf_with_rope_factors(&[1.0, 8.0]));
    let files = ModelFiles::open(&folder.path().join("a.gguf")).unwrap();
    assert_eq!(files.config.rope_scaling, RopeScaling::Factors(vec![1.0, 8.0]));
    assert!(
        files
            .tokenizer()
            .unwrap_err()
            .source()
            .unwrap()
            .to_string()
            .contains("`tokenizer.ggml.tokens`")
    );
    assert!(files.chat_template().unwrap().is_none());
    write(folder.path(), "a.gguf", gguf_with_rope_factors(&[1.0, 8.0, 8.0]));
    assert!(failure(&folder.path().join("a.gguf")).contains("has shape [3] in"));
    write(folder.path(), "a.gguf", gguf_with_rope_factors(&[1.0, -8.0]));
    assert!(failure(&folder.path().join("a.gguf")).contains("`rotary factor` is -8"));
}
