//! Over meshes of virtual CPU devices the engine gives what it gives on one device.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/asking.rs"]
mod asking;
#[path = "../../../tests/support/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use asking::request;
use graph::{AttentionKernel, Blocks};
use llm::ModelFiles;
use llm::models::{Layers, LoraSlots};
use llm::programs::ProgramOptions;
use runtime::environment::{required_environment, restart_with};
use runtime::{CacheFolder, Discovery, PluginKind, Runtime, RuntimeOptions, worker};
use serde::Deserialize;
use serve::engine::{Answering, Engine, EngineSettings, Ladder, Policy, Programs, Request};

const DEVICES: usize = 8;

/// The tiny model whose key/value heads eight devices can share.
const TINY: &str = "../../tests/goldens/models/llama_8_kv_heads";

/// The largest deviation of a log-probability that rounding explains, absolute (natural logarithm).
const TOLERANCE: f32 = 1e-4;

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let Some(location) = shared::cpu_plugin("spmd (all tests of this file)") else { return };
    if let Some(mut again) = restart_with(&required_environment(&location, DEVICES)) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible");
    let discovery =
        Discovery::new(CacheFolder::at(cache)).with_plugin(PluginKind::Cpu, &location.path);
    let options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(DEVICES);
    let runtime = Runtime::open(&discovery, &options).unwrap();
    shared::run_all(vec![
        ("greedy_answers_are_those_of_transformers", Box::new(|| greedy(&runtime))),
        ("answers_are_the_same_over_every_mesh", Box::new(|| meshes(&runtime))),
        ("adapters_say_what_peft_says_over_every_mesh", Box::new(|| adapters(&runtime))),
    ]);
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(TINY)
}

/// An engine over a mesh; pages are attended to in blocks of two.
fn start(runtime: &Runtime, mesh: &str, layers: Layers, adapters: Option<LoraSlots>) -> Engine {
    let files = ModelFiles::open(&model()).unwrap();
    let mut options = ProgramOptions::for_plugin(PluginKind::Cpu);
    options.mesh = runtime::parse_mesh(mesh).unwrap();
    options.layers = layers;
    options.kernels.attention = AttentionKernel::Portable(Blocks::of(16));
    let ladder = Ladder {
        context: 64,
        vocab_size: files.config.vocab_size,
        hidden_size: files.config.hidden_size,
        page: 8,
        pages: 40,
        slots: 8,
        batches: vec![8],
        chunks: vec![16],
        guesses: 0,
        looks_ahead: true,
        adapters,
    };
    let none = Box::new(|_: llm::engine::Progress<'_>| {});
    let engine = llm::engine::Engine::new(&files, runtime.clone(), options, None, none).unwrap();
    let programs = Programs::prepare(engine, ladder, vec![8], 2, &|_, _| {}).unwrap();
    let policy = Policy { batched_tokens: 24, prefix_cache: true };
    Engine::start(programs, EngineSettings { policy, waiting_max: 100 }).unwrap()
}

/// Tokens and their log-probabilities, for each of the requests, all at once.
fn together(engine: &Engine, requests: Vec<Request>) -> Vec<(Vec<u32>, Vec<f32>)> {
    let answers: Vec<_> = requests.into_iter().map(|one| engine.submit(one).unwrap()).collect();
    let finish = |answer| {
        let (drawn, _) = asking::read(answer).unwrap();
        drawn.iter().map(|drawn| (drawn.token, drawn.log_prob)).unzip()
    };
    answers.into_iter().map(finish).collect()
}

#[derive(Deserialize)]
struct Expected {
    greedy: Greedy,
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<u32>,
    token_ids: Vec<u32>,
}

fn greedy(runtime: &Runtime) {
    let text = std::fs::read(model().join("expected.json")).unwrap();
    let Greedy { prompt, token_ids } = serde_json::from_slice::<Expected>(&text).unwrap().greedy;
    let engine = start(runtime, "tensor=8", Layers::Unrolled, None);
    let given = together(&engine, vec![request(&prompt, token_ids.len())]);
    assert_eq!(given[0].0, token_ids);
}

/// More sequences than there are slots, of lengths around those of pages and chunks.
fn meshes(runtime: &Runtime) {
    let lengths = [1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 33];
    let prompt = |length: usize| (0..length).map(move |place| ((place * 37 + length) % 250) as u32);
    let requests = || lengths.map(|length| request(&prompt(length).collect::<Vec<_>>(), 20)).into();
    let mut expected = None;
    for mesh in ["", "tensor=8", "data=2,tensor=4", "data=8"] {
        for layers in [Layers::Unrolled, Layers::Scanned] {
            let given = together(&start(runtime, mesh, layers, None), requests());
            let expected: &Vec<(Vec<u32>, Vec<f32>)> =
                expected.get_or_insert_with(|| given.clone());
            for ((length, given), expected) in lengths.iter().zip(&given).zip(expected) {
                let what = format!("{mesh}, {layers:?}, a prompt of {length}");
                assert_eq!(given.0, expected.0, "{what}");
                for (one, other) in given.1.iter().zip(&expected.1) {
                    assert!((one - other).abs() <= TOLERANCE, "{what}: {one}, not {other}");
                }
            }
        }
    }
}

#[derive(Deserialize)]
struct Adapted {
    prompts: Vec<Vec<u32>>,
    greedy: BTreeMap<String, Vec<Text>>,
}

#[derive(Deserialize)]
struct Text {
    token_ids: Vec<u32>,
}

/// Rows of the base and of two adapters in one batch.
fn adapters(runtime: &Runtime) {
    let folder = model().join("../../adapters");
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let expected = serde_json::from_slice::<Vec<Adapted>>(&text).unwrap();
    let expected = expected.into_iter().find(|one| one.greedy.contains_key("plain")).unwrap();
    let room = Some(LoraSlots { slots: 2, rank: 6 });
    for mesh in ["tensor=8", "data=2,tensor=4"] {
        for layers in [Layers::Unrolled, Layers::Scanned] {
            let engine = start(runtime, mesh, layers, room);
            let names = ["plain", "stabilized"];
            names.iter().for_each(|name| engine.load_adapter(name, &folder.join(name)).unwrap());
            let (mut requests, mut wanted) = (Vec::new(), Vec::new());
            for (place, prompt) in expected.prompts.iter().enumerate() {
                for (name, texts) in &expected.greedy {
                    let adapter = (!name.is_empty()).then(|| name.clone());
                    wanted.push((name, &texts[place].token_ids));
                    requests.push(Request { adapter, ..request(prompt, 24) });
                }
            }
            for ((name, wanted), given) in wanted.iter().zip(together(&engine, requests)) {
                assert_eq!(given.0, **wanted, "{mesh}, {layers:?}, `{name}`");
            }
        }
    }
}
