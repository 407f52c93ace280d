//! A model's loss on text: the sum of what the engine says of each document, however the documents are
//! packed and cut into batches.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::fs;
use std::path::Path;

use graph::{DType, Mesh};
use llm::ModelFiles;
use llm::engine::Engine;
use llm::programs::ProgramOptions;
use runtime::{CacheFolder, PluginKind, Runtime};
use support::{model, shared};
use train::data::{DataConfig, SourceConfig};
use train::evaluate::{EvaluateError, EvaluateOptions, Evaluated, Progress, Sums, evaluate};

const LENGTH: usize = 128;

/// Documents, source by source. Those of a source fit into a row, so that none is cut.
const DOCUMENTS: [&[&str]; 3] = [
    &["The quick brown fox jumps over the lazy dog.", "One"],
    &["Not all that is gold glitters."],
    &["zwölf Boxkämpfer", "a b c d e f g", "To be, or not to be", "0123456789"],
];

fn runtime(test: &str) -> Option<Runtime> {
    Some(support::open(&shared::cpu_plugin(test)?, 1))
}

fn options(batch_size: usize) -> EvaluateOptions {
    EvaluateOptions { mesh: Mesh::single(), dtype: None, batch_size, max_batches: None }
}

fn data(path: &Path, sequence_length: usize) -> DataConfig {
    let sources = vec![SourceConfig::at(path.to_str().unwrap())];
    DataConfig { sources, sequence_length, ..DataConfig::default() }
}

/// The documents as files, one for each source.
fn write(folder: &Path) -> DataConfig {
    let line = |text: &&str| format!("{}\n", serde_json::json!({ "text": text }));
    let source = |(number, documents): (usize, &&[&str])| {
        let path = folder.join(format!("{number}.jsonl"));
        fs::write(&path, documents.iter().map(line).collect::<String>()).unwrap();
        SourceConfig::at(path.to_str().unwrap())
    };
    let sources = DOCUMENTS.iter().enumerate().map(source).collect();
    DataConfig { sources, sequence_length: LENGTH, ..DataConfig::default() }
}

fn measure(
    files: &ModelFiles,
    runtime: &Runtime,
    data: &DataConfig,
    options: &EvaluateOptions,
) -> Result<Evaluated, EvaluateError> {
    let folder = tempfile::tempdir().unwrap();
    let cache = CacheFolder::at(folder.path());
    evaluate(files, runtime, data, options, &cache, &mut |_| {})
}

/// What the engine makes of the documents, one by one.
fn expected(files: &ModelFiles, runtime: &Runtime) -> Sums {
    let options = ProgramOptions::for_plugin(PluginKind::Cpu);
    let engine = Engine::new(files, runtime.clone(), options, None, Box::new(|_| {})).unwrap();
    let tokenizer = files.tokenizer().unwrap().unwrap();
    let mut sums = Sums::default();
    for text in DOCUMENTS.concat() {
        let mut ids = tokenizer.encode(text, true).unwrap();
        if ids.last() != tokenizer.eos_token_id().as_ref() {
            ids.extend(tokenizer.eos_token_id());
        }
        for score in engine.score(&ids, 1).unwrap() {
            let Some(log_prob) = score.log_prob else { continue };
            sums.nats -= f64::from(log_prob);
            sums.tokens += 1.0;
        }
        // The first token is not predicted.
        sums.bytes += (text.len() - tokenizer.decode(&ids[..1], true).unwrap().len()) as f64;
    }
    sums
}

#[test]
fn the_loss_is_what_the_engine_says_of_each_document() {
    let Some(runtime) = runtime("the_loss_is_what_the_engine_says_of_each_document") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = write(folder.path());
    let files = model("smollm2");
    let expected = expected(&files, &runtime);
    for batch_size in [1, 2, 8] {
        let found = measure(&files, &runtime, &data, &options(batch_size)).unwrap();
        // Packed, and not cut.
        assert!(found.sources.iter().all(|source| source.rows == 1), "{:?}", found.sources);
        let found = found.sums;
        assert_eq!((found.tokens, found.bytes), (expected.tokens, expected.bytes));
        let off = (found.loss() - expected.loss()).abs();
        assert!(off < 1e-5, "{batch_size} rows: {} for {}", found.loss(), expected.loss());
        assert!((found.perplexity().ln() - found.loss()).abs() < 1e-12);
        let bits = expected.nats / std::f64::consts::LN_2 / expected.bytes;
        assert!((found.bits_per_byte() - bits).abs() < 1e-4);
        println!("{batch_size} rows: the loss is off by {off:.1e}");
    }
    let half = EvaluateOptions { dtype: Some(DType::Bf16), ..options(2) };
    let found = measure(&files, &runtime, &data, &half).unwrap().sums.loss();
    assert!((found - expected.loss()).abs() < 0.05, "{found} for {}", expected.loss());
    assert_ne!(found, expected.loss());
}

#[test]
fn every_token_counts_once_wherever_rows_and_batches_end() {
    let Some(runtime) = runtime("every_token_counts_once_wherever_rows_and_batches_end") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    let text = DOCUMENTS.concat().concat().repeat(5);
    fs::write(&path, &text).unwrap();
    let files = model("smollm2");
    let tokens = files.tokenizer().unwrap().unwrap().encode(&text, true).unwrap().len();
    for (length, batch_size) in [(16, 3), (33, 8), (128, 64)] {
        let mut batches = Vec::new();
        let cache = CacheFolder::at(folder.path().join("cache"));
        let data = data(&path, length);
        let heard = &mut |step: Progress<'_>| {
            if let Progress::Batch { done, total } = step {
                batches.push((done, total));
            }
        };
        let found = evaluate(&files, &runtime, &data, &options(batch_size), &cache, heard).unwrap();
        // With an end, and without the first.
        assert_eq!(found.sums.tokens, tokens as f64);
        let rows = found.sources[0].rows;
        let total = rows.div_ceil(batch_size as u64);
        assert_eq!(batches, (0..=total).map(|done| (done, total)).collect::<Vec<_>>());
        let one = EvaluateOptions { max_batches: Some(1), ..options(batch_size) };
        let part = measure(&files, &runtime, &data, &one).unwrap().sums.tokens;
        assert!(part <= (length * batch_size) as f64 && (total == 1 || part < tokens as f64));
    }
}

#[test]
fn what_does_not_fit_says_so() {
    let Some(runtime) = runtime("what_does_not_fit_says_so") else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = write(folder.path());
    let refused = |name: &str, data: &DataConfig, options: &EvaluateOptions| {
        measure(&model(name), &runtime, data, options).unwrap_err().to_string()
    };
    let said = refused("llama", &data, &options(1));
    assert!(said.contains("has no tokenizer"), "{said}");
    let said =
        refused("smollm2", &DataConfig { sequence_length: 129, ..data.clone() }, &options(1));
    assert!(said.contains("the model takes at most 128 positions"), "{said}");
    let mesh = Mesh::new(&[("data", 2)]);
    let said = refused("smollm2", &data, &EvaluateOptions { mesh, ..options(3) });
    assert!(said.contains("mesh axis `data` = 2 does not divide"), "{said}");
    let nothing = SourceConfig::at(folder.path().join("nothing").to_str().unwrap());
    let said = refused("smollm2", &DataConfig { sources: vec![nothing], ..data }, &options(1));
    assert!(said.contains("there is no data at"), "{said}");
}
