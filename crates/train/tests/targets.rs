//! What a training step's compiled program holds on chips that are not here: each its part of the
//! batch, and never all logits. Compiled by the TPU's own compiler, not run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::path::Path;

use graph::{Role, VocabularyBlocks};
use llm::ModelConfig;
use runtime::environment::{compile_only_environment, required_environment, restart_with};
use runtime::profile::{Temporary, profile};
use runtime::{
    CacheFolder, CompileChoices, Compiler, Discovery, Fit, PluginKind, PluginLocation, Purpose,
    Target, worker,
};
use support::shared;
use train::config::Config;
use train::setup::step_options;
use train::step::{StepOptions, train_step};

/// Sizes at which what must not be there is larger than everything that may be.
const CONFIG: &str = r#"
model = { architecture = "llama", hidden_size = 512, intermediate_size = 1024, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2, vocabulary_size = 65536 }
data = { sequence_length = 512, sources = [{ path = "text" }] }
training = { steps = 1, batch_size = 64, dtype = "bf16", remat = "full" }
"#;
const TARGET: &str = "v6e-16";
const CHIPS: u64 = 16;
const TOKENS: u64 = 64 * 512;

/// The smallest activation, states in bf16, if every chip had that of the whole batch.
const REPLICATED_BYTES: u64 = TOKENS * 512 * 2;
/// The logits of a chip's tokens and all words, in f32.
const LOGITS_BYTES: u64 = TOKENS / CHIPS * 65_536 * 4;

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let test = "targets (all tests of this file)";
    let location =
        match Discovery::new(CacheFolder::from_environment().unwrap()).find(PluginKind::Tpu) {
            Ok(location) => location,
            Err(error) => return shared::skip(test, &error.to_string()),
        };
    let mut environment = required_environment(&location, 1);
    environment.extend(compile_only_environment(&location));
    if let Some(mut again) = restart_with(&environment) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    shared::run_all(vec![
        ("fsdp_holds_parts", Box::new(|| holds_parts(&location, "fsdp=16"))),
        ("fsdp_and_tensor_hold_parts", Box::new(|| holds_parts(&location, "fsdp=8,tensor=2"))),
        ("what_must_not_be_there_is_seen", Box::new(|| wholes_are_seen(&location))),
    ]);
}

fn options(mesh: &str) -> (ModelConfig, StepOptions) {
    let config = Config::parse(CONFIG, &[], "targets").unwrap();
    let length = config.data.sequence_length;
    let model = config.model.from_scratch(None, length).unwrap().unwrap();
    let mesh = runtime::parse_mesh(mesh).unwrap();
    let options = step_options(&config, &model, PluginKind::Tpu, mesh).unwrap();
    (model, options)
}

fn temporaries(
    location: &PluginLocation,
    model: &ModelConfig,
    options: &StepOptions,
) -> Vec<Temporary> {
    let target: Target = TARGET.parse().unwrap();
    let program = train_step(model, options).unwrap().program;
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible");
    let compiler = Compiler::new(CacheFolder::at(cache)).unwrap();
    let choices = CompileChoices {
        purpose: Purpose::Training,
        optimized_program: true,
        ..CompileChoices::default()
    };
    let report = compiler.compile_for(&program, &target, location, &choices).unwrap();
    assert_eq!(report.fit, Fit::Fits);
    println!("  {} of {TARGET}: {:.0} s", options.mesh, report.compile_seconds);
    let temporaries =
        profile(&report.optimized_program.unwrap().code, &target).unwrap().largest_temporaries;
    for Temporary { padded_bytes, shape, name, path, .. } in temporaries.iter().take(5) {
        println!("  {:6.1} MiB {shape} {name} {path}", *padded_bytes as f64 / (1 << 20) as f64);
    }
    temporaries
}

/// Blocks of logits are there, and of the head's gathered rows; they belong to the loss.
fn is_of_loss(temporary: &Temporary) -> bool {
    temporary.path.contains("loss")
}

fn replicated(temporary: &&Temporary) -> bool {
    !is_of_loss(temporary) && temporary.bytes >= REPLICATED_BYTES
}

fn logits(temporary: &&Temporary) -> bool {
    temporary.bytes > LOGITS_BYTES / 2
}

fn holds_parts(location: &PluginLocation, mesh: &str) {
    let (model, options) = options(mesh);
    let temporaries = temporaries(location, &model, &options);
    assert!(!temporaries.is_empty());
    let wholes: Vec<&Temporary> =
        temporaries.iter().filter(|t| replicated(t) || logits(t)).collect();
    assert!(wholes.is_empty(), "{wholes:?}");
}

/// Without constraints on activations and blocks of the vocabulary, both are found.
fn wholes_are_seen(location: &PluginLocation) {
    let (model, mut options) = options("fsdp=16");
    options.rules.rules.retain(|(role, _)| *role != Role::Activation);
    options.kernels.vocabulary = VocabularyBlocks::WHOLE;
    let temporaries = temporaries(location, &model, &options);
    assert!(temporaries.iter().any(|temporary| replicated(&temporary)));
    assert!(temporaries.iter().any(|temporary| logits(&temporary)));
}
