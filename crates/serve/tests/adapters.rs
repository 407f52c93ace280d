//! Adapters on a real device: as PEFT says, as their merged models say, and base rows as if there were
//! none; what does not suit is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "../../../tests/support/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm::adapter::Adapter;
use llm::export::{ExportModel, ExportOptions, Merged, hugging_face};
use llm::files::Companions;
use llm::models::LoraSlots;
use llm::programs::ProgramOptions;
use llm::weights::Quantization;
use llm::{Checkpoint, FloatType, ModelFiles};
use runtime::{CacheFolder, Discovery, PluginKind, Runtime, RuntimeOptions};
use serde::Deserialize;
use serve::engine::{Answer, Answering, Engine, EngineSettings, Ladder, Policy, Programs, Request};

const BASE: &str = "llama_8_kv_heads";
const ROOM: LoraSlots = LoraSlots { slots: 3, rank: 7 };
/// The largest deviation of a log-probability that rounding explains, absolute (natural logarithm).
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    base: String,
    prompts: Vec<Vec<u32>>,
    greedy: BTreeMap<String, Vec<Greedy>>,
}

#[derive(Deserialize)]
struct Greedy {
    token_ids: Vec<u32>,
    log_probs: Vec<f64>,
    margins: Vec<f64>,
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

fn adapter(name: &str) -> PathBuf {
    goldens().join("adapters").join(name)
}

fn expected() -> Expected {
    let text = fs::read(goldens().join("adapters/expected.json")).unwrap();
    let all: Vec<Expected> = serde_json::from_slice(&text).unwrap();
    all.into_iter().find(|one| one.base == BASE).unwrap()
}

fn start(test: &str, model: &Path, native: bool, adapters: Option<LoraSlots>) -> Option<Engine> {
    let location = shared::cpu_plugin(test)?;
    let files = ModelFiles::open(model).unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible");
    let discovery =
        Discovery::new(CacheFolder::at(cache)).with_plugin(PluginKind::Cpu, &location.path);
    let mut runtime_options = RuntimeOptions::new(PluginKind::Cpu);
    runtime_options.register = kernels::register;
    let runtime = Runtime::open(&discovery, &runtime_options).unwrap();
    let mut options = ProgramOptions::for_plugin(PluginKind::Cpu);
    if native {
        options.kernels.native = true;
        let packings = files.checkpoint.packings(Quantization::None).unwrap();
        options.panels = Some(Arc::new(packings));
    }
    let ladder = Ladder {
        context: 64,
        vocab_size: files.config.vocab_size,
        hidden_size: files.config.hidden_size,
        page: 8,
        pages: 200,
        slots: 16,
        // One shape of each kind: what XLA makes of another shape may differ in the last bit.
        batches: vec![16],
        chunks: vec![8],
        guesses: 0,
        looks_ahead: !native,
        adapters,
    };
    let none = Box::new(|_: llm::engine::Progress<'_>| {});
    let engine = llm::engine::Engine::new(&files, runtime, options, None, none).unwrap();
    let programs = Programs::prepare(engine, ladder, vec![8], 2, &|_, _| {}).unwrap();
    let policy = Policy { batched_tokens: 24, prefix_cache: true };
    Some(Engine::start(programs, EngineSettings { policy, waiting_max: 100 }).unwrap())
}

fn request(adapter: &str, prompt: &[u32], max_tokens: usize) -> Request {
    let adapter = (!adapter.is_empty()).then(|| adapter.to_owned());
    Request { adapter, ..asking::request(prompt, max_tokens) }
}

/// Tokens and their log-probabilities.
type Given = (Vec<u32>, Vec<f32>);

fn finish(answer: Answer) -> Given {
    let (drawn, _) = asking::read(answer).unwrap();
    drawn.iter().map(|drawn| (drawn.token, drawn.log_prob)).unzip()
}

fn ask(engine: &Engine, adapter: &str, prompt: &[u32], count: usize) -> Given {
    finish(engine.submit(request(adapter, prompt, count)).unwrap())
}

/// Every prompt with every adapter, all at once, in an order in which rows of a kind are apart.
fn together(engine: &Engine, expected: &Expected) -> Vec<(String, usize, Given)> {
    let mut answers = Vec::new();
    for (place, prompt) in expected.prompts.iter().enumerate() {
        for (name, greedy) in &expected.greedy {
            let count = greedy[place].token_ids.len();
            let answer = engine.submit(request(name, prompt, count)).unwrap();
            answers.push((name.clone(), place, answer));
        }
    }
    answers.into_iter().map(|(name, place, answer)| (name, place, finish(answer))).collect()
}

#[test]
fn rows_of_one_batch_say_what_peft_says() {
    let test = "rows_of_one_batch_say_what_peft_says";
    let expected = expected();
    let model = goldens().join("models").join(BASE);
    for native in [true, false] {
        let Some(engine) = start(test, &model, native, Some(ROOM)) else { return };
        // Not in the order of the slots' numbers, and not in all of them.
        engine.load_adapter("gone", &adapter("plain")).unwrap();
        engine.load_adapter("stabilized", &adapter("stabilized")).unwrap();
        engine.load_adapter("plain", &adapter("plain")).unwrap();
        engine.unload_adapter("gone").unwrap();
        let first = together(&engine, &expected);
        for (name, place, (tokens, log_probs)) in &first {
            let wanted = &expected.greedy[name][*place];
            let least = wanted.margins.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(least > TOLERANCE, "the golden cannot tell");
            assert_eq!(*tokens, wanted.token_ids, "{name}, prompt {place}, native {native}");
            for (one, other) in log_probs.iter().zip(&wanted.log_probs) {
                assert!((f64::from(*one) - other).abs() < TOLERANCE, "{name}: {one} {other}");
            }
        }
        // Again, behind what the prefix cache knows of each of them.
        let hits = engine.stats().prefix_hits;
        let second = together(&engine, &expected);
        assert!(engine.stats().prefix_hits > hits);
        assert_eq!(engine.stats().compiled_after_ready, 0);
        for ((name, place, one), (_, _, other)) in first.iter().zip(&second) {
            assert_eq!(one.0, other.0, "{name}, prompt {place}");
            if native {
                assert_eq!(one.1, other.1, "{name}, prompt {place}");
                let alone = ask(&engine, name, &expected.prompts[*place], one.0.len());
                assert_eq!(*one, alone, "{name}, prompt {place}, alone");
            }
        }
        // To the last bit what a server without adapters says.
        let Some(plain) = start(test, &model, native, None) else { return };
        for (_, place, given) in first.iter().filter(|(name, ..)| name.is_empty()) {
            let (tokens, log_probs) = ask(&plain, "", &expected.prompts[*place], given.0.len());
            assert_eq!(tokens, given.0);
            if native {
                assert_eq!(log_probs, given.1);
            }
        }
    }
}

#[test]
fn an_adapter_says_what_its_merged_model_says() {
    let test = "an_adapter_says_what_its_merged_model_says";
    let expected = expected();
    let model = goldens().join("models").join(BASE);
    let Some(engine) = start(test, &model, true, Some(ROOM)) else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["plain", "stabilized"] {
        engine.load_adapter(name, &adapter(name)).unwrap();
        let files = ModelFiles::open(&model).unwrap();
        let opened = Adapter::open(&adapter(name)).unwrap();
        let (config, modules) = (opened.config.clone(), opened.modules.clone());
        let base = Checkpoint::clone(&files.checkpoint);
        let mut merged = Merged::new(base, opened, &config, &modules).unwrap();
        let exported = ExportModel { config: &files.config, companions: &Companions::default() };
        let options = ExportOptions::new(FloatType::F32);
        let to = folder.path().join(name);
        hugging_face(&to, exported, &mut merged, &options, &mut |_| {}).unwrap();
        let Some(merged) = start(test, &to, true, None) else { return };
        for prompt in &expected.prompts {
            let (one, other) = (ask(&engine, name, prompt, 24), ask(&merged, "", prompt, 24));
            assert_eq!(one.0, other.0, "{name}");
            for (one, other) in one.1.iter().zip(&other.1) {
                assert!(f64::from(one - other).abs() < TOLERANCE, "{name}: {one} {other}");
            }
        }
    }
}

#[test]
fn a_slot_that_is_used_again_has_nothing_of_what_was_there() {
    let test = "a_slot_that_is_used_again_has_nothing_of_what_was_there";
    let expected = expected();
    let model = goldens().join("models").join(BASE);
    let room = LoraSlots { slots: 1, rank: 6 };
    let Some(engine) = start(test, &model, true, Some(room)) else { return };
    for name in ["plain", "stabilized", "plain"] {
        engine.load_adapter("it", &adapter(name)).unwrap();
        for (prompt, wanted) in expected.prompts.iter().zip(&expected.greedy[name]) {
            assert_eq!(ask(&engine, "it", prompt, 24).0, wanted.token_ids, "{name}");
        }
        engine.unload_adapter("it").unwrap();
        // The answer's end is told a moment before the slot is free.
        while engine.stats().running > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_does_not_suit_is_refused_and_harms_nobody() {
    let test = "what_does_not_suit_is_refused_and_harms_nobody";
    let expected = expected();
    let model = goldens().join("models").join(BASE);
    let room = LoraSlots { slots: 2, rank: 4 };
    let Some(engine) = start(test, &model, true, Some(room)) else { return };
    engine.load_adapter("plain", &adapter("plain")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // A copy of an adapter with something changed.
    let changed = |name: &str, change: &dyn Fn(&mut String, &mut Vec<u8>)| {
        let (from, to) = (adapter("plain"), folder.path().join(name));
        let mut config = fs::read_to_string(from.join("adapter_config.json")).unwrap();
        let mut weights = fs::read(from.join("adapter_model.safetensors")).unwrap();
        change(&mut config, &mut weights);
        fs::create_dir(&to).unwrap();
        fs::write(to.join("adapter_config.json"), config).unwrap();
        fs::write(to.join("adapter_model.safetensors"), weights).unwrap();
        to
    };
    let replace = |weights: &mut Vec<u8>, from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let place = weights.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        weights[place..place + to.len()].copy_from_slice(to.as_bytes());
    };
    let q_proj = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let cases: Vec<(PathBuf, &[&str])> = vec![
        (folder.path().join("nowhere"), &["adapter_config.json could not be read"]),
        (adapter("stabilized"), &["rank 6", "room for rank 4", "--max-lora-rank 6"]),
        (adapter("smollm2"), &["another base", "lora_A.weight", "[4, 36]", "[4, 32]"]),
        (
            changed("no_json", &|config, _| config.truncate(9)),
            &["does not describe a LoRA adapter"],
        ),
        (
            changed("dora", &|config, _| {
                *config = config.replace("\"use_dora\": false", "\"use_dora\": true");
            }),
            &["uses `use_dora`, which is not supported", "merge"],
        ),
        (
            changed("saved", &|config, _| {
                *config = config
                    .replace("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]");
            }),
            &["uses `modules_to_save`"],
        ),
        (
            changed("bias", &|config, _| {
                *config = config.replace("\"bias\": \"none\"", "\"bias\": \"all\"");
            }),
            &["has trained biases"],
        ),
        (changed("cut", &|_, weights| weights.truncate(2000)), &["cannot be used"]),
        (
            changed("layer", &|_, weights| {
                replace(weights, q_proj, &q_proj.replace("layers.0", "layers.7"));
                let b = q_proj.replace("lora_A", "lora_B");
                replace(weights, &b, &b.replace("layers.0", "layers.7"));
            }),
            &["changes `model.layers.7.self_attn.q_proj`, which this model does not have"],
        ),
        (
            changed("unpaired", &|_, weights| {
                replace(weights, q_proj, &q_proj.replace("lora_A", "lora_C"));
            }),
            &["neither `lora_A` nor `lora_B`"],
        ),
        (
            changed("infinite", &|_, weights| {
                let end = weights.len();
                weights[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
            }),
            &["holds inf"],
        ),
        (
            changed("overflow", &|config, weights| {
                *config = config.replace("\"lora_alpha\": 8", "\"lora_alpha\": 1e9");
                let end = weights.len();
                weights[end - 4..].copy_from_slice(&1e38f32.to_le_bytes());
            }),
            &["not finite"],
        ),
    ];
    for (path, parts) in cases {
        let refused = engine.load_adapter("other", &path).unwrap_err();
        for part in parts {
            assert!(refused.contains(part), "{}: {refused}", path.display());
        }
    }
    assert_eq!(engine.adapters(), ["plain"]);
    let wanted = &expected.greedy["plain"][1];
    assert_eq!(ask(&engine, "plain", &expected.prompts[1], 24).0, wanted.token_ids);
    engine.load_adapter("other", &adapter("plain")).unwrap();
}
