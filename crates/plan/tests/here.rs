//! The planner's side of a measurement, with a process of its own making that answers as it is told.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;

use llm::weights::Quantization;
use plan::here::{HereError, Measurer, Memory, ServingShape, held, serve_steps, train_step};
use runtime::{CacheFolder, PluginKind, PluginLocation, PluginSource};
use train::config::Config;

/// Answers every question in turn, `$seconds` for a run.
const ANSWERING: &str = r#"
read job
echo noise of a library
echo 'fungible-measured {"Compiled":{"memory":{"argument_bytes":100,"output_bytes":0,"alias_bytes":0,"temporary_bytes":50,"generated_code_bytes":0,"peak_bytes":null},"changing_bytes":10,"opened_bytes":5,"resident_bytes":9}}'
while read question; do
  case "$question" in
    *Load*) echo 'fungible-measured "Loaded"';;
    *Run*) echo x >> runs; echo 'fungible-measured {"Ran":{"seconds":[0.25]}}';;
    *Memory*) echo 'fungible-measured {"Memory":{"peak_bytes":400}}';;
  esac
done
"#;

struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plugin.so"), "a plugin").unwrap();
        Stage { folder }
    }

    fn measurer(&self, script: &str) -> Measurer {
        let script = format!("cd '{}'\n{script}", self.folder.path().display());
        Measurer {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_string(), script],
            cache: CacheFolder::at(self.folder.path().join("cache")),
            location: PluginLocation {
                kind: PluginKind::Cpu,
                path: self.folder.path().join("plugin.so"),
                source: PluginSource::Given,
                version: None,
                cuda_folder: None,
            },
        }
    }

    fn runs(&self) -> usize {
        let text = std::fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default();
        text.lines().count()
    }
}

fn config(layers: usize) -> Config {
    let text = format!(
        "[model]\narchitecture = 'llama'\nhidden_size = 32\nintermediate_size = 64\n\
         num_hidden_layers = {layers}\nnum_attention_heads = 2\nvocabulary_size = 512\n\
         [data]\nsequence_length = 8\n[[data.sources]]\npath = 'x.txt'\n[training]\nbatch_size = 2\n"
    );
    Config::parse(&text, &[], "test").unwrap()
}

fn model(config: &Config) -> llm::ModelConfig {
    config.model.from_scratch(None, 8).unwrap().unwrap()
}

#[test]
fn a_step_is_measured_once_and_remembered() {
    let stage = Stage::new();
    let measurer = stage.measurer(ANSWERING);
    let config = config(2);
    let step = |memory: Memory, config: &Config| {
        train_step(&measurer, config, &model(config), memory, &|_| {}).unwrap()
    };
    let first = step(Memory::Trusted, &config);
    assert_eq!(first.step.seconds, 0.25);
    assert_eq!((first.tokens_per_step, first.tokens_per_second()), (16, 64.0));
    assert_eq!((first.memory.peak_bytes, first.memory.beside_bytes), (400, 250));
    assert!(!first.how.remembered);
    let runs = stage.runs();
    assert!(runs >= 5);
    let again = step(Memory::Trusted, &config);
    assert!(again.how.remembered && again.step == first.step);
    assert_eq!(stage.runs(), runs);
    // Another program, or a wish for it, is measured.
    assert!(!step(Memory::Trusted, &self::config(3)).how.remembered);
    let before = stage.runs();
    assert!(before > runs);
    assert!(!step(Memory::Renewed, &config).how.remembered);
    assert!(stage.runs() > before);
}

#[test]
fn a_servers_steps_are_measured_and_remembered() {
    let stage = Stage::new();
    let measurer = stage.measurer(ANSWERING);
    let model = model(&config(2));
    let shape = ServingShape {
        model: &model,
        panels: held(&model, Quantization::AsStored).unwrap(),
        kv_dtype: None,
        slots: 2,
        page: 4,
        context: 8,
        batches: vec![1, 2],
        all_batches: vec![1, 2],
        chunks: vec![4],
        all_chunks: vec![4],
    };
    let steps = |shape: &ServingShape<'_>| serve_steps(&measurer, shape, Memory::Trusted, &|_| {});
    let speed = steps(&shape).unwrap();
    assert_eq!(speed.decode(1, 4).unwrap().seconds, 0.25);
    assert_eq!(speed.decode(2, 8).unwrap().seconds, 0.25);
    assert_eq!(speed.prefill(4, 0).unwrap().seconds, 0.25);
    let runs = stage.runs();
    assert!(steps(&shape).unwrap().how.remembered);
    assert_eq!(stage.runs(), runs);
    let wrong = ServingShape { batches: vec![2, 1], ..shape };
    assert!(matches!(steps(&wrong), Err(HereError::Sizes { .. })));
}

#[test]
fn a_process_that_fails_says_why() {
    let stage = Stage::new();
    let config = config(2);
    let message = |script: &str| {
        let measurer = stage.measurer(script);
        let failed = train_step(&measurer, &config, &model(&config), Memory::Renewed, &|_| {});
        failed.unwrap_err().to_string()
    };
    let refused = r#"read job; echo 'fungible-measured {"Failed":{"message":"no room"}}'; read on"#;
    assert!(message(refused).contains("no room"));
    let crashed = message("read job; echo 'check failed: x > 0' >&2; exit 9");
    assert!(crashed.contains("check failed: x > 0") && crashed.contains('9'), "{crashed}");
    assert!(message("exit 0").contains("ended"));
    let nowhere = Measurer { program: "/nowhere/fungible".into(), ..stage.measurer("") };
    let error = train_step(&nowhere, &config, &model(&config), Memory::Renewed, &|_| {});
    assert!(error.unwrap_err().to_string().contains("/nowhere/fungible"));
}

#[test]
fn what_does_not_fit_is_not_run() {
    let stage = Stage::new();
    let script =
        ANSWERING.replace(r#""argument_bytes":100"#, r#""argument_bytes":1000000000000000"#);
    let config = config(2);
    let measurer = stage.measurer(&script);
    let error = train_step(&measurer, &config, &model(&config), Memory::Renewed, &|_| {});
    assert!(matches!(error, Err(HereError::DoesNotFit { .. })), "{error:?}");
    assert_eq!(stage.runs(), 0);
}
