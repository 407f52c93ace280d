//! Exported folders in transformers and PEFT (`goldens/check_export.py`). Needs a Python that has
//! transformers and PyTorch: the one in `FUNGIBLE_PYTHON`, or `python3`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use llm::adapter::{AdaptedModule, AdapterConfig};
use llm::export::{self, ExportModel, ExportOptions, Merged, TensorSource};
use llm::files::Companions;
use llm::gguf::{Array, Metadata, Numbers, Value as GgufValue};
use llm::weights::ReadError;
use llm::{Checkpoint, FloatType, ModelFiles, Tokenizer};
use serde_json::{Value, json};
use support::golden;

/// The largest difference that the order of additions explains.
const TOLERANCE: f64 = 1e-4;

fn python() -> Command {
    let name = std::env::var_os("FUNGIBLE_PYTHON").filter(|name| !name.is_empty());
    let mut command = Command::new(name.unwrap_or_else(|| "python3".into()));
    command.env("HF_HUB_OFFLINE", "1").env("PYTHONWARNINGS", "ignore");
    command
}

fn write(to: &Path, files: &ModelFiles, companions: &Companions, source: &mut dyn TensorSource) {
    let model = ExportModel { config: &files.config, companions };
    let options = ExportOptions::new(FloatType::F32);
    export::hugging_face(to, model, source, &options, &mut |_| {}).unwrap();
}

/// The base model's numbers, small, in the shapes of an adapter.
struct Matrices(Vec<AdaptedModule>);

impl TensorSource for Matrices {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        let module = self.0.iter().find(|module| name.starts_with(&format!("{}.", module.name)));
        let module = module.ok_or("no such module")?;
        Ok(match name.ends_with("lora_A.weight") {
            true => vec![module.rank, module.inputs],
            false => vec![module.outputs, module.rank],
        })
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        let start = rows.start * self.shape(name)?[1];
        for (value, place) in out.iter_mut().zip(start..) {
            *value = ((name.len() + place * 37) % 101) as f32 / 101.0 - 0.5;
        }
        Ok(())
    }
}

fn texts() -> Vec<String> {
    let golden: Value = serde_json::from_str(include_str!("goldens/tokenizer.json")).unwrap();
    let mut texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    assert!(texts.len() >= 30);
    let special = ["<|im_start|>user\nhi<|im_end|>", "a<|endoftext|> b", "<s> x </s>y", "ünï<unk>"];
    texts.extend(special.map(str::to_owned));
    texts
}

/// A folder with nothing but a description and this tokenizer, and the ids that we get.
fn tokenizer(folder: &Path, model_type: &str, tokenizer: &Tokenizer) -> Value {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("config.json"), json!({"model_type": model_type}).to_string()).unwrap();
    for (name, contents) in Companions::of_tokenizer(tokenizer, None, 2048).unwrap().iter() {
        fs::write(folder.join(name), contents).unwrap();
    }
    json!({"folder": folder, "cases": cases(tokenizer)})
}

fn cases(tokenizer: &Tokenizer) -> Value {
    let case = |text: String| {
        let [plain, framed] =
            [false, true].map(|special| tokenizer.encode(&text, special).unwrap());
        json!({"text": text, "plain": plain, "framed": framed})
    };
    texts().into_iter().map(case).collect()
}

fn sentence_piece() -> Tokenizer {
    let golden: Value = serde_json::from_str(include_str!("goldens/tokenizer.json")).unwrap();
    let golden = &golden["sentence_piece"];
    let scores: Vec<f32> = serde_json::from_value(golden["scores"].clone()).unwrap();
    let types: Vec<i32> = serde_json::from_value(golden["types"].clone()).unwrap();
    let tokens = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    set("model", GgufValue::String("llama".to_owned()));
    set("tokens", GgufValue::Array(Array::Strings(tokens)));
    set("scores", GgufValue::Array(Array::Numbers(Numbers::from(scores.as_slice()))));
    set("token_type", GgufValue::Array(Array::Numbers(Numbers::from(types.as_slice()))));
    set("bos_token_id", GgufValue::Unsigned(1));
    set("eos_token_id", GgufValue::Unsigned(2));
    set("add_eos_token", GgufValue::Bool(true));
    Tokenizer::from_gguf(&metadata).unwrap()
}

#[test]
fn transformers_and_peft_load_what_is_exported() {
    let test = "transformers_and_peft_load_what_is_exported";
    let found = python().args(["-c", "import transformers, torch"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        support::skip(test, "no Python with transformers and torch: set FUNGIBLE_PYTHON");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);

    let mut models = Vec::new();
    for entry in fs::read_dir(golden::models()).unwrap() {
        let original = entry.unwrap().path();
        let files = ModelFiles::open(&original).unwrap();
        let name = original.file_name().unwrap().to_str().unwrap().to_owned();
        for (bare, companions) in
            [(false, files.companions().unwrap()), (true, Companions::default())]
        {
            let exported = path(&if bare { format!("{name}-bare") } else { name.clone() });
            write(&exported, &files, &companions, &mut Checkpoint::clone(&files.checkpoint));
            models.push(json!({"original": original, "exported": exported}));
        }
    }

    let (mut gguf, mut tokenizers) = (Vec::new(), Vec::new());
    tokenizers.push(tokenizer(&path("sentence_piece"), "llama", &sentence_piece()));
    if let Some(file) = support::smollm2(test) {
        let files = ModelFiles::open(&file).unwrap();
        let exported = path("smollm2-gguf");
        let companions = files.companions().unwrap();
        write(&exported, &files, &companions, &mut Checkpoint::clone(&files.checkpoint));
        let template = files.chat_template().unwrap().unwrap();
        let messages = vec![llm::chat::Message::new("user", "Grüße")];
        tokenizers.push(json!({
            "folder": exported,
            "cases": cases(&files.tokenizer().unwrap().unwrap()),
            "chat": template.render(&llm::chat::ChatInput::new(messages)).unwrap(),
        }));
        // The same vocabulary cut by the rules of other families.
        let (_, parsed) = Checkpoint::open_gguf(&file).unwrap();
        for (pre, model_type) in
            [("llama-bpe", "llama"), ("qwen2", "qwen2"), ("qwen2", "qwen3"), ("tekken", "mistral")]
        {
            let mut metadata = parsed.metadata.clone();
            metadata.insert("tokenizer.ggml.pre", GgufValue::String(pre.to_owned()));
            metadata.insert("tokenizer.ggml.add_bos_token", GgufValue::Bool(pre == "llama-bpe"));
            let own = Tokenizer::from_gguf(&metadata).unwrap();
            tokenizers.push(tokenizer(&path(&format!("{pre}-{model_type}")), model_type, &own));
        }
        gguf.push(json!({"file": file, "exported": exported}));
    }

    let base = golden::model("qwen3");
    let files = ModelFiles::open(&base).unwrap();
    let checkpoint = Checkpoint::clone(&files.checkpoint);
    let adapted = ["q_proj.weight", "v_proj.weight", "up_proj.weight", "down_proj.weight"];
    let names = checkpoint.names().filter(|name| adapted.iter().any(|end| name.ends_with(end)));
    let module = |name: &str| {
        let shape = &checkpoint.info(name).unwrap().shape;
        let name = name.strip_suffix(".weight").unwrap().to_owned();
        AdaptedModule { name, rank: 4, inputs: shape[1], outputs: shape[0] }
    };
    let modules: Vec<AdaptedModule> = names.map(module).collect();
    let mut adapters = Vec::new();
    for (rank_stabilized, name) in [(false, "plain"), (true, "stabilized")] {
        let config = AdapterConfig {
            rank: 4,
            alpha: 1.5,
            rank_stabilized,
            dropout: 0.1,
            target_modules: Vec::new(),
            base_model: None,
        };
        let (adapter, merged) = (path(&format!("{name}-adapter")), path(&format!("{name}-merged")));
        let options = ExportOptions::new(FloatType::F32);
        let mut source = Matrices(modules.clone());
        export::adapter(&adapter, &config, &modules, &mut source, &options, &mut |_| {}).unwrap();
        let mut both = Merged::new(checkpoint.clone(), source, &config, &modules).unwrap();
        write(&merged, &files, &files.companions().unwrap(), &mut both);
        adapters.push(json!({"base": base, "adapter": adapter, "merged": merged}));
    }

    let manifest = path("manifest.json");
    let wanted =
        json!({"models": models, "gguf": gguf, "tokenizers": tokenizers, "adapters": adapters});
    fs::write(&manifest, wanted.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/check_export.py");
    let output = python().arg(script).arg(&manifest).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    println!("{said:#}");

    // The same numbers through the same program: not the last bit may differ.
    assert_eq!(said["models"].as_object().unwrap().len(), models.len());
    for (name, difference) in said["models"].as_object().unwrap() {
        assert_eq!(difference, 0.0, "{name}: {said}");
    }
    for difference in said["gguf"].as_object().unwrap().values() {
        assert!(difference.as_f64().unwrap() <= TOLERANCE, "{said}");
    }
    assert_eq!(said["encodings"], 2 * texts().len() * tokenizers.len());
    if said["no_peft"] == true {
        support::skip(test, "no PEFT, so adapters were not looked at");
        return;
    }
    assert_eq!(said["adapters"].as_array().unwrap().len(), adapters.len());
    for adapter in said["adapters"].as_array().unwrap() {
        assert!(adapter["moved_by"].as_f64().unwrap() > 0.1, "{said}");
        assert!(adapter["merged"].as_f64().unwrap() <= TOLERANCE, "{said}");
    }
}
