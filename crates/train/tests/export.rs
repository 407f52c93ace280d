//! Checkpoints of runs as models and adapters: what comes out has the run's numbers and PyTorch's
//! losses, and what cannot be exported says why.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use graph::{DType, Role, Shape};
use llm::adapter::Adapter;
use llm::engine::Engine;
use llm::export::ExportOptions;
use llm::models::Layers;
use llm::programs::ProgramOptions;
use llm::{Checkpoint, FloatType, ModelFiles};
use runtime::{PluginKind, Runtime};
use serde_json::Value;
use support::{
    LENGTH, ROWS, Run, adapter_places, adapters, batches, golden, goldens, model, numbers, options,
    relative, shared, tensor,
};
use train::checkpoint::{Alone, Checkpoints, HostArray, Keep, Metadata, SaveArray, Saver};
use train::config::Config;
use train::export::{ExportError, find};
use train::saved::{SavedRun, sections};
use train::step::{Kept, StepOptions};

const ADAPTERS: &str = "[lora]\nrank = 4\nalpha = 8\ntargets = [\"q_proj\", \"v_proj\"]\n";

fn runtime(test: &str) -> Option<Runtime> {
    Some(support::open(&shared::cpu_plugin(test)?, 1))
}

fn config(rest: &str) -> Config {
    let text = format!("[model]\nfrom = \"the-base\"\n[[data.sources]]\npath = \"x\"\n{rest}");
    Config::parse(&text, &[], "test").unwrap()
}

fn metadata(config: &Config, files: &ModelFiles) -> Metadata {
    let companions = files.companions().unwrap();
    let sections = sections(config, &files.config, &companions);
    let sections = sections.into_iter().map(|(name, value)| (name.to_string(), value));
    Metadata { metric: None, sections: sections.collect() }
}

/// Saves what the run keeps and changes, as the trainer does.
fn save(run: &Run, config: &Config, files: &ModelFiles, place: &Path, step: u64) {
    let kept = run.loaded.program().kept.iter().zip(&run.kept);
    let arrays: Vec<SaveArray<'_>> = kept
        .filter(|(tensor, _)| tensor.changes())
        .map(|(tensor, array)| SaveArray {
            name: &tensor.name,
            role: match tensor.kept {
                Kept::Weight { .. } => Role::Parameter,
                Kept::State => Role::OptimizerState,
            },
            array,
        })
        .collect();
    let checkpoints = Checkpoints::open(place.to_str().unwrap()).unwrap();
    let mut saver = Saver::new(&checkpoints, Arc::new(Alone), Keep::ALL).unwrap();
    saver.save(step, &arrays, metadata(config, files)).unwrap().wait().unwrap();
}

/// A checkpoint without a device, with nothing but a name in it.
fn save_small(place: &Path, step: u64, metadata: Metadata) {
    let shape = Shape::new(DType::F32, &[("embed", 4)]);
    let array = HostArray::whole("model/w", Role::Parameter, &shape, vec![7; 16]);
    let checkpoints = Checkpoints::open(place.to_str().unwrap()).unwrap();
    let mut saver = Saver::new(&checkpoints, Arc::new(Alone), Keep::ALL).unwrap();
    saver.save_host(step, vec![array], metadata).unwrap().wait().unwrap();
}

fn open(place: &Path) -> SavedRun {
    SavedRun::of(find(place.to_str().unwrap(), None).unwrap().checkpoint).unwrap()
}

fn in_f32() -> ExportOptions {
    ExportOptions::new(FloatType::F32)
}

fn engine(files: &ModelFiles, runtime: &Runtime) -> Engine {
    let options = ProgramOptions::for_plugin(PluginKind::Cpu);
    Engine::new(files, runtime.clone(), options, None, Box::new(|_| {})).unwrap()
}

fn log_probs(engine: &Engine, tokens: &[u32]) -> Vec<f64> {
    let scores = engine.score(tokens, 1).unwrap();
    scores.iter().filter_map(|score| score.log_prob).map(f64::from).collect()
}

/// The message and its causes, as a user sees them.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// Trained a few steps, exported, read by the engine: the next batch has the loss that PyTorch has
/// there.
#[test]
fn an_exported_model_goes_on_where_the_run_was() {
    let Some(runtime) = runtime("an_exported_model_goes_on_where_the_run_was") else { return };
    let (golden, files) = golden("adamw");
    let (rates, losses) = (numbers(&golden["learning_rate"]), numbers(&golden["cross_entropy"]));
    let (batches, steps) = (batches(), 5);
    for layers in [Layers::Unrolled, Layers::Scanned] {
        let folder = tempfile::tempdir().unwrap();
        let (place, out) = (folder.path().join("run"), folder.path().join("out"));
        let mut run = Run::new(&runtime, &files, &StepOptions { layers, ..options(ROWS, LENGTH) });
        for step in 0..steps {
            run.step(&batches[step], rates[step]);
        }
        save(&run, &config(""), &files, &place, steps as u64);
        let saved = open(&place);
        assert_eq!((saved.base(), saved.float_type()), (None, FloatType::F32));
        let exported = saved.export_model(&out, None, &in_f32(), &mut |_| {}).unwrap();
        assert_eq!(exported.parameters, files.checkpoint.stored_bytes() / 4);

        let again = ModelFiles::open(&out).unwrap();
        assert_eq!(again.config, files.config);
        for kept in &run.loaded.program().kept {
            let Kept::Weight { spec, .. } = &kept.kept else { continue };
            let numbers = run.kept(&kept.name);
            let count = spec.layers.unwrap_or(1);
            for (layer, own) in numbers.chunks(numbers.len() / count).enumerate() {
                let name = spec.name.replace(".*.", &format!(".{layer}."));
                assert_eq!(again.checkpoint.read_to_vec(&name).unwrap(), own, "{name}");
            }
        }
        let engine = engine(&again, &runtime);
        let batch = &batches[steps];
        let rows = batch.tokens.chunks(LENGTH).zip(batch.targets.chunks(LENGTH));
        let found: Vec<f64> = rows
            .flat_map(|(tokens, targets)| {
                let all = tokens.iter().chain(targets.last()).map(|&token| token as u32);
                let scores = log_probs(&engine, &all.collect::<Vec<u32>>());
                // The goldens mask some places.
                let counts = move |(score, &target): (f64, &i32)| (target >= 0).then_some(score);
                scores.into_iter().zip(targets).filter_map(counts).collect::<Vec<f64>>()
            })
            .collect();
        let loss = -found.iter().sum::<f64>() / found.len() as f64;
        let off = (loss - losses[steps]).abs();
        assert!(off < 1e-3, "{layers:?}: {loss} for {}", losses[steps]);
        println!("{layers:?}: the loss is off by {off:.2e}");
    }
}

/// Adapters of a run are PEFT's, and merged into the base they are the model that PEFT has.
#[test]
fn adapters_come_out_alone_or_merged() {
    let Some(runtime) = runtime("adapters_come_out_alone_or_merged") else { return };
    let (golden, files) = golden("lora");
    let rates = numbers(&golden["learning_rate"]);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut run = adapters(&runtime, &golden, &files);
    for (batch, rate) in batches().iter().zip(rates) {
        run.step(batch, rate);
    }
    save(&run, &config(ADAPTERS), &files, &at("run"), 20);
    let saved = open(&at("run"));
    assert_eq!(saved.base(), Some("the-base"));

    saved.export_adapter(&at("adapter"), &in_f32(), &mut |_| {}).unwrap();
    let adapter = Adapter::open(&at("adapter")).unwrap();
    assert_eq!((adapter.config.rank, adapter.config.alpha), (4, 8.0));
    assert_eq!(adapter.config.target_modules, ["q_proj", "v_proj"]);
    assert_eq!(adapter.config.base_model.as_deref(), Some("the-base"));
    let open = |path: &Path| Checkpoint::open_safetensors(path).unwrap();
    let file = "adapter_model.safetensors";
    let (ours, pefts) =
        (open(&at("adapter").join(file)), open(&goldens().join("training/lora").join(file)));
    assert_eq!(ours.names().collect::<Vec<_>>(), pefts.names().collect::<Vec<_>>());
    for (_, name) in adapter_places(&run) {
        let name = format!("base_model.model.{name}");
        let found = ours.read_to_vec(&name).unwrap();
        let off = relative(&found, &tensor(&pefts, &name, found.len()));
        assert!(off < 1e-3, "{name} is off by {off:.2e}");
    }

    saved.export_model(&at("merged"), Some(&files), &in_f32(), &mut |_| {}).unwrap();
    let engine = engine(&ModelFiles::open(&at("merged")).unwrap(), &runtime);
    let integers = |ids: &Value| numbers(ids).iter().map(|&id| id as u32).collect::<Vec<u32>>();
    let after = &golden["after"];
    let mut worst: f64 = 0.0;
    let prompts = after["token_ids"].as_array().unwrap().iter();
    for (ids, expected) in prompts.zip(after["log_probs"].as_array().unwrap()) {
        let found = log_probs(&engine, &integers(ids));
        for (found, expected) in found.iter().zip(numbers(expected)) {
            worst = worst.max((found - expected).abs());
        }
        assert_eq!(found.len(), expected.as_array().unwrap().len());
    }
    assert!(worst < 1e-3, "a log-probability is off by {worst:.2e}");
    println!("merged: worst deviation of a log-probability {worst:.2e}");

    // A base that was held as int8 is not what is exported: the weights are those of the files.
    save(&run, &config(&format!("{ADAPTERS}base = \"int8\"\n")), &files, &at("run8"), 20);
    let held_as_int8 = SavedRun::of(find(at("run8").to_str().unwrap(), None).unwrap().checkpoint);
    held_as_int8.unwrap().export_model(&at("8"), Some(&files), &in_f32(), &mut |_| {}).unwrap();
    let weights = |folder: &str| fs::read(at(folder).join("model.safetensors")).unwrap();
    assert!(weights("8") == weights("merged"));

    let refused = saved.export_model(&at("none"), None, &in_f32(), &mut |_| {}).unwrap_err();
    assert!(
        matches!(&refused, ExportError::NoBase { base, .. } if base == "the-base"),
        "{refused}"
    );
    let other = model("qwen3");
    let refused = saved.export_model(&at("none"), Some(&other), &in_f32(), &mut |_| {});
    let refused = chain(&refused.unwrap_err());
    assert!(refused.contains("is not the model that the adapters of"), "{refused}");
    assert!(!at("none").exists());
}

/// A tokenizer goes through the checkpoint, since nobody else may have it.
#[test]
fn what_stands_beside_the_weights_comes_along() {
    let Some(runtime) = runtime("what_stands_beside_the_weights_comes_along") else { return };
    let folder = tempfile::tempdir().unwrap();
    let [from, place, out] = ["from", "run", "out"].map(|name| folder.path().join(name));
    fs::create_dir(&from).unwrap();
    for file in fs::read_dir(goldens().join("models/smollm2")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), from.join(file.file_name())).unwrap();
    }
    // SentencePiece's file is no text.
    fs::write(from.join("tokenizer.model"), [0x0a, 0xff, 0xfe, 0x00, 0x80]).unwrap();
    let files = ModelFiles::open(&from).unwrap();
    let run = Run::new(&runtime, &files, &options(ROWS, LENGTH));
    let bf16 = config("[training]\ndtype = \"bf16\"\n");
    save(&run, &bf16, &files, &place, 1);
    let saved = open(&place);
    assert_eq!(saved.float_type(), FloatType::Bf16);
    saved.export_model(&out, None, &in_f32(), &mut |_| {}).unwrap();
    let again = ModelFiles::open(&out).unwrap();
    // The config is written anew, the others are the same bytes.
    for (name, contents) in
        files.companions().unwrap().iter().filter(|file| file.0 != "config.json")
    {
        assert!(again.companions().unwrap().get(name) == Some(contents), "{name}");
    }
    assert_eq!(fs::read(out.join("tokenizer.model")).unwrap(), [0x0a, 0xff, 0xfe, 0x00, 0x80]);
    let text = "The quick brown fox.";
    let ids = |files: &ModelFiles| files.tokenizer().unwrap().unwrap().encode(text, true).unwrap();
    assert_eq!(ids(&again), ids(&files));
    assert!(again.chat_template().unwrap().is_some());

    // The folder is taken now.
    let refused = saved.export_model(&out, None, &in_f32(), &mut |_| {}).unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
    let over = ExportOptions { overwrite: true, ..in_f32() };
    saved.export_model(&out, None, &over, &mut |_| {}).unwrap();
    let refused = saved.export_adapter(&out, &over, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, ExportError::NoAdapter { .. }), "{refused}");
}

#[test]
fn a_checkpoint_is_found_in_all_the_ways_that_people_say_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let place = run.join("checkpoints");
    for step in [10, 20] {
        save_small(&place, step, Metadata::default());
    }
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let step = |path: &Path, step| find(&text(path), step).map(|found| found.checkpoint.step());
    assert_eq!(step(&run, None).unwrap(), 20);
    assert_eq!(step(&place, None).unwrap(), 20);
    assert_eq!(step(&place, Some(10)).unwrap(), 10);
    assert_eq!(step(&run, Some(10)).unwrap(), 10);
    assert_eq!(step(&place.join("step-00000010"), None).unwrap(), 10);
    assert_eq!(step(&place.join("step-00000010/"), Some(10)).unwrap(), 10);
    let other = step(&place.join("step-00000010"), Some(20)).unwrap_err();
    assert!(matches!(other, ExportError::OtherStep { step: 10, asked: 20, .. }), "{other}");
    let none = step(&run, Some(30)).unwrap_err().to_string();
    assert!(none.contains("has no checkpoint of step 30; it has 10, 20"), "{none}");

    // A run that keeps its checkpoints elsewhere.
    let away = folder.path().join("away");
    fs::create_dir(&away).unwrap();
    let moved = config(&format!("[checkpoint]\nfolder = {:?}\n", text(&place)));
    fs::write(away.join("config.toml"), moved.to_toml()).unwrap();
    assert_eq!(step(&away, None).unwrap(), 20);

    // The newest is damaged: the one before, and the user hears of it.
    let newest = place.join("step-00000020");
    let file = fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().unwrap() == "safetensors").unwrap();
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let found = find(&text(&run), None).unwrap();
    assert_eq!((found.checkpoint.step(), found.damaged[0].step), (10, 20));
    for asked in [step(&run, Some(20)), step(&newest, None)] {
        let damaged = asked.unwrap_err().to_string();
        assert!(damaged.contains("is damaged: the checksum of"), "{damaged}");
    }
}

#[test]
fn what_is_no_checkpoint_of_a_run_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let hint = |path: &Path| find(path.to_str().unwrap(), None).unwrap_err().to_string();
    let says = |path: &Path, part: &str| {
        let said = hint(path);
        assert!(said.starts_with("there is no checkpoint in "), "{said}");
        assert!(said.contains(part), "{said}");
    };
    says(&folder.path().join("nowhere"), "does not exist");
    says(folder.path(), "`step-…`");
    says(&goldens().join("models/llama"), "it is a model already");
    says(&goldens().join("training/lora"), "it is an exported adapter");
    says(&folder.path().join("step-00000010"), "does not exist");

    // Arrays of some other program, saved with the same library.
    save_small(folder.path(), 10, Metadata::default());
    let found = find(folder.path().to_str().unwrap(), None).unwrap();
    let unsaid = SavedRun::of(found.checkpoint).unwrap_err().to_string();
    assert!(unsaid.contains("does not say what model it holds (its section `config`)"), "{unsaid}");

    // A run's checkpoint that lacks a weight of its model.
    save_small(folder.path(), 20, metadata(&config(""), &model("llama")));
    let out = folder.path().join("out");
    let lacking = open(folder.path()).export_model(&out, None, &in_f32(), &mut |_| {});
    let lacking = chain(&lacking.unwrap_err());
    assert!(lacking.contains("has no `model/"), "{lacking}");
    assert!(!out.exists());
}

#[test]
fn a_model_without_special_tokens_stays_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = model("llama");
    files.config.bos_token_id = None;
    files.config.eos_token_ids.clear();
    save_small(folder.path(), 1, metadata(&config(""), &files));
    assert_eq!(open(folder.path()).model, files.config);
}
