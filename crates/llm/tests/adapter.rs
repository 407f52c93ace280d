//! LoRA adapters in PEFT's layout: written, read back, merged; and what is refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::fs;
use std::ops::Range;

use llm::adapter::{AdaptedModule, Adapter, AdapterConfig};
use llm::export::{self, ExportModel, ExportOptions, Merged, TensorSource};
use llm::files::Companions;
use llm::weights::ReadError;
use llm::{Checkpoint, FloatType, ModelFiles};
use proptest::prelude::*;
use support::{golden, shared};

const RANK: usize = 4;

fn config() -> AdapterConfig {
    AdapterConfig {
        rank: RANK,
        alpha: 6.0,
        rank_stabilized: false,
        dropout: 0.05,
        target_modules: Vec::new(),
        base_model: Some("somebody/llama".to_owned()),
    }
}

/// Matrices of numbers that follow from their names and places.
struct Matrices(Vec<AdaptedModule>);

impl Matrices {
    /// Of every layer's `q_proj` and `down_proj`.
    fn of(checkpoint: &Checkpoint) -> Matrices {
        let adapted = |name: &&str| name.contains(".q_proj.") || name.contains(".down_proj.");
        let module = |name: &str| {
            let shape = &checkpoint.info(name).unwrap().shape;
            let name = name.strip_suffix(".weight").unwrap().to_owned();
            AdaptedModule { name, rank: RANK, inputs: shape[1], outputs: shape[0] }
        };
        let names = checkpoint.names().filter(|name| name.ends_with(".weight"));
        Matrices(names.filter(adapted).map(module).collect())
    }
}

impl TensorSource for Matrices {
    fn shape(&self, name: &str) -> Result<Vec<usize>, ReadError> {
        let shape = |module: &AdaptedModule| match name {
            name if name == module.a() => Some(vec![module.rank, module.inputs]),
            name if name == module.b() => Some(vec![module.outputs, module.rank]),
            _ => None,
        };
        self.0.iter().find_map(shape).ok_or_else(|| format!("no `{name}`").into())
    }

    fn read(&mut self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<(), ReadError> {
        let columns = self.shape(name)?[1];
        let seed = name.bytes().map(usize::from).sum::<usize>();
        for (value, place) in out.iter_mut().zip(rows.start * columns..) {
            *value = ((seed + place * 37) % 101) as f32 / 101.0 - 0.5;
        }
        Ok(())
    }
}

fn whole(source: &mut dyn TensorSource, name: &str) -> Vec<f64> {
    let shape = source.shape(name).unwrap();
    let mut values = vec![0.0; shape.iter().product()];
    source.read(name, 0..shape[0], &mut values).unwrap();
    values.into_iter().map(f64::from).collect()
}

#[test]
fn an_adapter_comes_back_as_it_was_and_merges_by_its_formula() {
    let folder = tempfile::tempdir().unwrap();
    let files = ModelFiles::open(&golden::model("llama_head_dim")).unwrap();
    let base = Checkpoint::clone(&files.checkpoint);
    let mut matrices = Matrices::of(&base);
    let modules = matrices.0.clone();
    let to = folder.path().join("adapter");
    let options = ExportOptions::new(FloatType::F32);
    let exported =
        export::adapter(&to, &config(), &modules, &mut matrices, &options, &mut |_| {}).unwrap();
    assert_eq!(exported.files, ["adapter_config.json", "adapter_model.safetensors"]);

    let adapter = Adapter::open(&to).unwrap();
    let targets = vec!["down_proj".to_owned(), "q_proj".to_owned()];
    assert_eq!(adapter.config, AdapterConfig { target_modules: targets, ..config() });
    let mut sorted = modules.clone();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(adapter.modules, sorted);
    let stored = Checkpoint::open_safetensors(&to.join("adapter_model.safetensors")).unwrap();
    let first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(stored.info(first).unwrap().shape[0], RANK);

    // Merged as it is exported: W + alpha / rank * B * A.
    let (config, modules) = (adapter.config.clone(), adapter.modules.clone());
    let mut merged = Merged::new(base.clone(), adapter, &config, &modules).unwrap();
    let model = ExportModel { config: &files.config, companions: &Companions::default() };
    let to = folder.path().join("merged");
    export::hugging_face(&to, model, &mut merged, &options, &mut |_| {}).unwrap();
    let mut merged = Checkpoint::clone(&ModelFiles::open(&to).unwrap().checkpoint);
    let mut base = base;
    for name in files.checkpoint.names() {
        let mut expected = whole(&mut base, name);
        if let Some(module) = modules.iter().find(|module| module.weight() == name) {
            let (a, b) = (whole(&mut matrices, &module.a()), whole(&mut matrices, &module.b()));
            for (place, value) in expected.iter_mut().enumerate() {
                let (row, column) = (place / module.inputs, place % module.inputs);
                let product = |k: usize| b[row * RANK + k] * a[k * module.inputs + column];
                *value += 6.0 / RANK as f64 * (0..RANK).map(product).sum::<f64>();
            }
        }
        for (found, expected) in whole(&mut merged, name).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{name}: {found} {expected}");
        }
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = ModelFiles::open(&golden::model("llama")).unwrap();
    let base = Checkpoint::clone(&base.checkpoint);
    let modules = Matrices::of(&base).0;
    let options = ExportOptions::new(FloatType::F32);
    let written = |config: &AdapterConfig, modules: &[AdaptedModule]| {
        let to = folder.path().join("out");
        let mut matrices = Matrices::of(&base);
        let written = export::adapter(&to, config, modules, &mut matrices, &options, &mut |_| {});
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        written.unwrap_err().to_string()
    };
    assert!(written(&config(), &[]).contains("it adapts nothing"));
    let twice = [modules[0].clone(), modules[0].clone()];
    assert!(written(&config(), &twice).contains("is adapted twice"));
    let message = written(&AdapterConfig { rank: 8, ..config() }, &modules);
    assert!(message.contains("has rank 4, the adapter has 8"), "{message}");
    let elsewhere =
        AdaptedModule { name: "model.layers.9.q_proj".to_owned(), ..modules[0].clone() };
    assert!(written(&config(), &[elsewhere]).contains("layers.9"));

    let other = ModelFiles::open(&golden::model("llama_head_dim")).unwrap();
    let other = Checkpoint::clone(&other.checkpoint);
    let merged = Merged::new(other, Matrices::of(&base), &config(), &modules);
    let message = merged.err().unwrap().to_string();
    assert!(message.contains("belong together"), "{message}");
}

#[test]
fn scales_of_both_kinds() {
    assert_eq!(config().scale(4), 1.5);
    assert_eq!(AdapterConfig { rank_stabilized: true, ..config() }.scale(4), 3.0);
}

#[test]
fn damaged_and_foreign_adapters_are_named() {
    let refused = |change: &str| {
        let mut text: serde_json::Value = serde_json::from_str(&config().to_json()).unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        text.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        AdapterConfig::from_json(&text.to_string()).map_err(|error| error.to_string())
    };
    refused(r#"{"use_dora": false, "alpha_pattern": {}, "loftq_config": {}}"#).unwrap();
    for (change, part) in [
        (r#"{"peft_type": "IA3"}"#, "is of the type `IA3`"),
        (r#"{"bias": "all"}"#, "trained biases"),
        (r#"{"use_dora": true}"#, "`use_dora`"),
        (r#"{"modules_to_save": ["lm_head"]}"#, "`modules_to_save`"),
        (r#"{"alpha_pattern": {"q_proj": 2}}"#, "`alpha_pattern`"),
        (r#"{"init_lora_weights": "pissa_niter_4"}"#, "changed base weights"),
        (r#"{"r": 0}"#, "rank 0"),
        (r#"{"r": "four"}"#, "does not describe a LoRA adapter"),
    ] {
        let message = refused(change).unwrap_err();
        assert!(message.contains(part), "{message}");
    }

    let folder = tempfile::tempdir().unwrap();
    let open = || Adapter::open(folder.path()).unwrap_err().to_string();
    assert!(open().contains("adapter_config.json could not be read"));
    fs::write(folder.path().join("adapter_config.json"), config().to_json()).unwrap();
    assert!(open().contains("matrices cannot be used"));
    let a = "base_model.model.x.lora_A.weight";
    let b = "base_model.model.x.lora_B.weight";
    for (tensors, part) in [
        (vec![(a, vec![2, 3])], "only one of its two matrices"),
        (vec![(a, vec![2, 3]), (b, vec![5, 3])], "has rank 2, its `lora_B` 3"),
        (vec![(a, vec![6])], "it is no matrix"),
        (vec![("base_model.model.x.lora_embedding_A", vec![2, 3])], "neither"),
        (Vec::new(), "holds no matrices"),
    ] {
        let zeros = |shape: &Vec<usize>| vec![0.0; shape.iter().product()];
        let tensors: Vec<_> =
            tensors.into_iter().map(|(name, shape)| (name, shape.clone(), zeros(&shape))).collect();
        shared::write_checkpoint(folder.path(), &tensors);
        fs::rename(
            folder.path().join("model.safetensors"),
            folder.path().join("adapter_model.safetensors"),
        )
        .unwrap();
        assert!(open().contains(part), "{}", open());
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        let _ = AdapterConfig::from_json(&text);
    }

    #[test]
    fn any_value_of_any_key_is_answered(
        key in prop::sample::select(vec!["r", "lora_alpha", "target_modules", "bias", "use_dora",
            "init_lora_weights", "base_model_name_or_path", "modules_to_save"]),
        value in prop::sample::select(vec!["null", "-1", "1e400", "\"x\"", "[]", "[1]", "{}", "true"]),
    ) {
        let text = format!(r#"{{"peft_type": "LORA", "r": 4, "{key}": {value}}}"#);
        let _ = AdapterConfig::from_json(&text);
    }
}
