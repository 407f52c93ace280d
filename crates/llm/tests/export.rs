//! What is exported is what was given: numbers, description, tokenizer; and when it cannot be,
//! nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use graph::DType;
use half::{bf16, f16};
use llm::export::{
    self, ExportError, ExportModel, ExportOptions, Exported, TensorSource, Unstacked,
};
use llm::files::Companions;
use llm::models::{CacheShape, Layers};
use llm::programs::{ProgramOptions, decode};
use llm::weights::ReadError;
use llm::{Checkpoint, FloatType, ModelConfig, ModelFiles, Tokenizer};
use runtime::PluginKind;
use serde_json::{Value, json};
use support::golden;

fn models() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(golden::models()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 15);
    folders
}

fn write(
    to: &Path,
    files: &ModelFiles,
    companions: &Companions,
    options: &ExportOptions,
) -> Result<Exported, ExportError> {
    let model = ExportModel { config: &files.config, companions };
    let mut source = Checkpoint::clone(&files.checkpoint);
    export::hugging_face(to, model, &mut source, options, &mut |_| {})
}

/// Exports as f32 with everything that the model's folder has.
fn write_f32(to: &Path, files: &ModelFiles) -> Exported {
    let options = ExportOptions::new(FloatType::F32);
    write(to, files, &files.companions().unwrap(), &options).unwrap()
}

fn assert_same_tensors(one: &Checkpoint, other: &Checkpoint) {
    assert_eq!(one.names().collect::<Vec<_>>(), other.names().collect::<Vec<_>>());
    for name in one.names() {
        assert_eq!(one.info(name).unwrap().shape, other.info(name).unwrap().shape, "{name}");
        let bits = |checkpoint: &Checkpoint| -> Vec<u32> {
            checkpoint.read_to_vec(name).unwrap().into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(one), bits(other), "{name}");
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The message and its causes, as a user sees them.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

#[test]
fn every_family_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    for path in models() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let files = ModelFiles::open(&path).unwrap();
        let expected = ModelConfig { dtype: Some(FloatType::F32), ..files.config.clone() };

        let to = folder.path().join(name);
        let exported = write_f32(&to, &files);
        let again = ModelFiles::open(&to).unwrap();
        assert_eq!(again.config, expected, "{name}");
        assert_same_tensors(&files.checkpoint, &again.checkpoint);
        let mut listed = exported.files.clone();
        listed.sort();
        assert_eq!(listed, names(&to), "{name}");
        assert_eq!(exported.bytes, again.checkpoint.stored_bytes());
        assert_eq!(exported.parameters * 4, exported.bytes);

        // Without the original's files the description is written from scratch.
        let bare = folder.path().join(format!("{name}-bare"));
        let options = ExportOptions::new(FloatType::F32);
        write(&bare, &files, &Companions::default(), &options).unwrap();
        assert_eq!(ModelFiles::open(&bare).unwrap().config, expected, "{name}");
    }
    // Nothing but the exported folders is left.
    assert_eq!(names(folder.path()).len(), 2 * models().len());
}

#[test]
fn shards_are_cut_between_tensors_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&golden::model("qwen3")).unwrap();
    let largest =
        files.checkpoint.names().map(|name| files.checkpoint.info(name).unwrap().elements()).max();
    let limit = 20_000;
    assert!(largest.unwrap() as u64 * 4 > limit, "one tensor is larger than a shard");
    let options = ExportOptions { shard_bytes_max: limit, ..ExportOptions::new(FloatType::F32) };
    let to = folder.path().join("out");
    let mut heard = Vec::new();
    let companions = files.companions().unwrap();
    let model = ExportModel { config: &files.config, companions: &companions };
    let mut source = Checkpoint::clone(&files.checkpoint);
    let mut on_progress = |progress| heard.push(progress);
    let exported =
        export::hugging_face(&to, model, &mut source, &options, &mut on_progress).unwrap();
    assert!(heard.is_sorted_by_key(|progress| progress.done_bytes));
    assert!(heard.iter().all(|progress| progress.total_bytes == exported.bytes));
    assert_eq!(heard.last().unwrap().done_bytes, exported.bytes);

    let shards: Vec<String> =
        names(&to).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
    assert!(shards.len() > 3, "{shards:?}");
    assert_eq!(shards[0], format!("model-00001-of-{:05}.safetensors", shards.len()));
    let index = json_of(&to.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], exported.bytes);
    assert_same_tensors(&files.checkpoint, &ModelFiles::open(&to).unwrap().checkpoint);
    for shard in shards {
        let one = Checkpoint::open_safetensors(&to.join(&shard)).unwrap();
        assert!(one.stored_bytes() <= limit || one.names().count() == 1, "{shard}");
        let head = fs::read(to.join(&shard)).unwrap();
        let header_bytes = u64::from_le_bytes(head[..8].try_into().unwrap());
        assert_eq!(header_bytes % 8, 0);
        let text = std::str::from_utf8(&head[8..8 + header_bytes as usize]).unwrap();
        assert!(text.starts_with(r#"{"__metadata__":{"format":"pt"},"#), "{text}");
    }
}

#[test]
fn sixteen_bits_are_rounded_to_nearest_even() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&golden::model("llama")).unwrap();
    for (float_type, key) in [(FloatType::Bf16, "bfloat16"), (FloatType::F16, "float16")] {
        let to = folder.path().join(key);
        let options = ExportOptions::new(float_type);
        write(&to, &files, &files.companions().unwrap(), &options).unwrap();
        assert_eq!(json_of(&to.join("config.json"))["torch_dtype"], key);
        let again = ModelFiles::open(&to).unwrap();
        assert_eq!(again.config.dtype, Some(float_type));
        for name in files.checkpoint.names() {
            let round = |value: f32| match float_type {
                FloatType::F16 => f16::from_f32(value).to_f32(),
                _ => bf16::from_f32(value).to_f32(),
            };
            let expected: Vec<f32> =
                files.checkpoint.read_to_vec(name).unwrap().into_iter().map(round).collect();
            assert_eq!(again.checkpoint.read_to_vec(name).unwrap(), expected, "{name}");
        }
    }
}

/// Everything in it is as it was but the weights' type, whatever its spelling; and what the model
/// changed is changed in both files.
#[test]
fn the_base_models_own_keys_stay() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    support::shared::copy_model(&golden::model("llama_rope_llama3"), &base);
    support::shared::change_config(&base, |config| {
        config.insert("my_key".to_owned(), json!({"kept": [1, 2]}));
        config.insert("transformers_version".to_owned(), "4.0.0".into());
        config.remove("head_dim");
        config.remove("attention_bias");
    });
    let generation = json!({"do_sample": true, "temperature": 0.5, "eos_token_id": [2, 3]});
    fs::write(base.join("generation_config.json"), generation.to_string()).unwrap();
    fs::write(base.join("LICENSE"), "as you like").unwrap();
    fs::write(base.join("expected.txt"), "not of the model").unwrap();

    let mut files = ModelFiles::open(&base).unwrap();
    let to = folder.path().join("same");
    let options = ExportOptions::new(FloatType::Bf16);
    write(&to, &files, &files.companions().unwrap(), &options).unwrap();
    let mut expected = json_of(&base.join("config.json"));
    expected["dtype"] = "bfloat16".into();
    assert_eq!(json_of(&to.join("config.json")), expected);
    assert_eq!(json_of(&to.join("generation_config.json")), generation);
    assert_eq!(fs::read(to.join("LICENSE")).unwrap(), b"as you like");
    assert!(!to.join("expected.txt").exists());

    files.config.eos_token_ids = vec![7];
    files.config.max_position_embeddings = 64;
    files.config.rope_theta = 900.0;
    let to = folder.path().join("changed");
    write(&to, &files, &files.companions().unwrap(), &options).unwrap();
    let config = json_of(&to.join("config.json"));
    assert_eq!(config["eos_token_id"], 7);
    assert_eq!(config["my_key"], json!({"kept": [1, 2]}));
    assert_eq!(config["rope_theta"], 900.0);
    assert!(config.get("rope_parameters").is_none() && config.get("head_dim").is_none());
    let changed = json!({"do_sample": true, "temperature": 0.5, "eos_token_id": 7});
    assert_eq!(json_of(&to.join("generation_config.json")), changed);
    let expected = ModelConfig { dtype: Some(FloatType::Bf16), ..files.config };
    assert_eq!(ModelFiles::open(&to).unwrap().config, expected);
}

#[test]
fn what_the_layout_has_no_words_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut ModelConfig)| {
        let mut files = ModelFiles::open(&golden::model(name)).unwrap();
        change(&mut files.config);
        let options = ExportOptions::new(FloatType::F32);
        let to = folder.path().join("out");
        let error = write(&to, &files, &Companions::default(), &options).unwrap_err();
        assert!(names(folder.path()).is_empty());
        error.to_string()
    };
    let windows = refused("mistral", &|config| config.sliding_windows[0] = Some(7));
    assert!(windows.contains("`sliding_window`"), "{windows}");
    let rope = refused("llama", &|config| {
        config.rope_scaling = llm::RopeScaling::Factors(vec![1.0, 2.0, 5.0, 3.0]);
    });
    assert!(rope.contains("`rope_scaling`"), "{rope}");
    let bias = refused("llama_biases", &|config| config.attention_output_bias = false);
    assert!(bias.contains("`attention_bias`"), "{bias}");
}

/// GGUF files call Mistral `llama`.
#[test]
fn a_llama_with_a_window_is_a_mistral() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = ModelFiles::open(&golden::model("llama")).unwrap();
    files.config.sliding_windows.fill(Some(12));
    let options = ExportOptions::new(FloatType::F32);
    let to = folder.path().join("out");
    write(&to, &files, &Companions::default(), &options).unwrap();
    let config = json_of(&to.join("config.json"));
    assert_eq!((&config["model_type"], &config["sliding_window"]), (&"mistral".into(), &12.into()));
    assert_eq!(ModelFiles::open(&to).unwrap().config.sliding_windows, files.config.sliding_windows);
}

/// A training run's arrays: layers stacked, heads apart from their dimensions.
#[test]
fn stacked_layers_become_tensors_again() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama_8_kv_heads", "llama_biases", "qwen2", "qwen3", "llama_tied"] {
        let files = ModelFiles::open(&golden::model(name)).unwrap();
        let options = ProgramOptions::for_plugin(PluginKind::Tpu);
        let options = ProgramOptions { dtype: DType::F32, layers: Layers::Scanned, ..options };
        let shape = CacheShape { batch: 1, capacity: 8 };
        let traced = decode(&files.config, &options, shape).unwrap();
        let inputs = &traced.program.inputs[traced.data + traced.cache..];
        let sizes = inputs.iter().map(|input| input.shape.sizes());
        let parameters: Vec<_> = traced.parameters.iter().cloned().zip(sizes).collect();
        assert!(parameters.iter().any(|(spec, _)| spec.layers.is_some()), "{name}");
        let arrays = parameters.clone();
        let checkpoint = files.checkpoint.clone();
        let read = move |name: &str, ranges: &[Range<usize>], out: &mut [f32]| {
            let (spec, sizes) = arrays.iter().find(|(spec, _)| spec.name == name).unwrap();
            let layer = |layer: usize| {
                let name = name.replace(llm::models::EVERY_LAYER, &layer.to_string());
                checkpoint.read_to_vec(&name).unwrap()
            };
            let whole: Vec<f32> = (0..spec.layers.unwrap_or(1)).flat_map(layer).collect();
            let out = bytemuck::cast_slice_mut(out);
            runtime::layout::cut(bytemuck::cast_slice(&whole), sizes, 4, ranges, out);
            Ok::<(), ReadError>(())
        };
        let mut source = Unstacked::new(parameters, read);
        let to = folder.path().join(name);
        let model = ExportModel { config: &files.config, companions: &Companions::default() };
        let options = ExportOptions::new(FloatType::F32);
        export::hugging_face(&to, model, &mut source, &options, &mut |_| {}).unwrap();
        assert_same_tensors(&files.checkpoint, &ModelFiles::open(&to).unwrap().checkpoint);
    }
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&golden::model("llama")).unwrap();
    let companions = files.companions().unwrap();
    let to = folder.path().join("out");
    let options = ExportOptions::new(FloatType::F32);
    let replacing = ExportOptions { overwrite: true, ..ExportOptions::new(FloatType::Bf16) };

    fs::create_dir(&to).unwrap();
    fs::write(to.join("thesis.txt"), "years of work").unwrap();
    let message = write(&to, &files, &companions, &options).unwrap_err().to_string();
    assert!(message.contains("is not empty: choose another folder"), "{message}");
    let message = write(&to, &files, &companions, &replacing).unwrap_err().to_string();
    assert!(message.contains("holds no exported model"), "{message}");
    assert_eq!(names(&to), ["thesis.txt"]);

    // An empty one is as good as none, and a model is replaced only on request.
    fs::remove_file(to.join("thesis.txt")).unwrap();
    write(&to, &files, &companions, &options).unwrap();
    fs::write(to.join("old.txt"), "goes with the model").unwrap();
    assert!(write(&to, &files, &companions, &options).is_err());
    assert_eq!(ModelFiles::open(&to).unwrap().config.dtype, Some(FloatType::F32));
    write(&to, &files, &companions, &replacing).unwrap();
    assert_eq!(ModelFiles::open(&to).unwrap().config.dtype, Some(FloatType::Bf16));
    assert!(!to.join("old.txt").exists());
    assert_eq!(names(folder.path()), ["out"]);

    // Over itself: what is read stays open until it has been replaced.
    let same = ModelFiles::open(&to).unwrap();
    write(&to, &same, &same.companions().unwrap(), &replacing).unwrap();
    assert_same_tensors(&same.checkpoint, &ModelFiles::open(&to).unwrap().checkpoint);

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let message = write(&file, &files, &companions, &replacing).unwrap_err().to_string();
    assert!(message.contains("is a file, not a folder"), "{message}");
    let error = write(&file.join("inside"), &files, &companions, &options).unwrap_err();
    assert!(chain(&error).contains("could not be written"), "{}", chain(&error));
    assert_eq!(names(folder.path()), ["file", "out"]);
}

/// A checkpoint with one number changed, or with a reader that stops.
struct Broken {
    checkpoint: Checkpoint,
    /// Stands at the end of the final norm.
    last: Result<f32, &'static str>,
}

impl TensorSource for Broken {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        self.checkpoint.shape(name)
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        self.checkpoint.read_f32(name, Some(rows), out)?;
        if name == "model.norm.weight" {
            *out.last_mut().unwrap() = self.last?;
        }
        Ok(())
    }
}

#[test]
fn a_failure_on_the_way_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&golden::model("llama")).unwrap();
    let companions = files.companions().unwrap();
    let to = folder.path().join("out");
    let failure = |last: Result<f32, &'static str>, float_type: FloatType| {
        let mut source = Broken { checkpoint: Checkpoint::clone(&files.checkpoint), last };
        let model = ExportModel { config: &files.config, companions: &companions };
        let options = ExportOptions::new(float_type);
        let written = export::hugging_face(&to, model, &mut source, &options, &mut |_| {});
        let message = chain(&written.unwrap_err());
        assert!(names(folder.path()).is_empty(), "{message}");
        message
    };
    let message = failure(Err("the disk is gone"), FloatType::F32);
    assert!(message.contains("`model.norm.weight`") && message.contains("is gone"), "{message}");
    let message = failure(Ok(f32::NAN), FloatType::Bf16);
    assert!(message.contains("`model.norm.weight` holds NaN at element 31"), "{message}");
    let message = failure(Ok(70_000.0), FloatType::F16);
    assert!(message.contains("beyond the range of f16: write bf16 or f32"), "{message}");

    // Found before anything is written.
    let mut other =
        Checkpoint::clone(&ModelFiles::open(&golden::model("llama_tied")).unwrap().checkpoint);
    let model = ExportModel { config: &files.config, companions: &companions };
    let options = ExportOptions::new(FloatType::F32);
    let written = export::hugging_face(&to, model, &mut other, &options, &mut |_| {});
    assert!(chain(&written.unwrap_err()).contains("`lm_head.weight`"));
    let mut other =
        Checkpoint::clone(&ModelFiles::open(&golden::model("llama_mha")).unwrap().checkpoint);
    let written = export::hugging_face(&to, model, &mut other, &options, &mut |_| {});
    let message = written.unwrap_err().to_string();
    assert!(message.contains("k_proj") && message.contains("belong together"), "{message}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn only_files_of_a_model_stand_beside_it() {
    let mut companions = Companions::default();
    companions.insert("tokenizer.json", b"{}".to_vec()).unwrap();
    for name in ["../tokenizer.json", "/etc/passwd", "model.safetensors", ""] {
        let error = companions.insert(name, Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("does not belong")
                || error.to_string().contains("not a file")
        );
    }
    assert_eq!(companions.iter().count(), 1);
}

/// A GGUF file becomes a folder with the same tokens, the same template and the same numbers.
#[test]
fn the_real_model_comes_out_of_its_gguf_file() {
    let Some(path) = support::smollm2("the_real_model_comes_out_of_its_gguf_file") else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&path).unwrap();
    let to = folder.path().join("smollm2");
    let options =
        ExportOptions { shard_bytes_max: 100 << 20, ..ExportOptions::new(FloatType::Bf16) };
    write(&to, &files, &files.companions().unwrap(), &options).unwrap();
    let again = ModelFiles::open(&to).unwrap();
    assert_eq!(again.config, ModelConfig { dtype: Some(FloatType::Bf16), ..files.config.clone() });
    // Rows of `q` are interleaved in the file.
    for name in ["model.layers.7.self_attn.q_proj.weight", "model.norm.weight"] {
        let expected = files.checkpoint.read_to_vec(name).unwrap();
        let expected: Vec<f32> =
            expected.into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(again.checkpoint.read_to_vec(name).unwrap(), expected, "{name}");
    }
    let (before, after) =
        (files.tokenizer().unwrap().unwrap(), again.tokenizer().unwrap().unwrap());
    assert_same_ids(&before, &after);
    assert_eq!(before.special_tokens(), after.special_tokens());
    let render = |files: &ModelFiles| {
        let messages = vec![llm::chat::Message::new("user", "Grüße 😀")];
        let template = files.chat_template().unwrap().unwrap();
        template.render(&llm::chat::ChatInput::new(messages)).unwrap()
    };
    assert_eq!(render(&files), render(&again));
}

fn assert_same_ids(one: &Tokenizer, other: &Tokenizer) {
    let golden: Value = serde_json::from_str(include_str!("goldens/tokenizer.json")).unwrap();
    let mut texts: Vec<&str> =
        golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.len() >= 30);
    texts.extend(["<|im_start|>user\nhi<|im_end|>", "<s>a</s>", "<|endoftext|> x"]);
    for text in texts {
        for special in [false, true] {
            let ids = one.encode(text, special).unwrap();
            assert_eq!(other.encode(text, special).unwrap(), ids, "{text:?}");
            assert_eq!(other.decode(&ids, true).unwrap(), one.decode(&ids, true).unwrap());
        }
    }
}
