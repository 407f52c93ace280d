//! Runs of training against PyTorch's, loss by loss: optimizers, accumulation, z-loss, adapters.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use llm::Checkpoint;
use runtime::Runtime;
use support::{
    LENGTH, ROWS, Run, adamw, adapter_places, adapters, batches, golden, goldens, numbers, options,
    relative, shared, tensor,
};
use train::optimizer::Settings;
use train::step::StepOptions;

/// The largest deviation of a loss, absolute, in nats.
const TOLERANCE: f64 = 1e-3;

/// Takes the run's steps; the greatest deviation of loss and norm.
fn compare(run: &mut Run, name: &str, golden: &serde_json::Value) -> f64 {
    let (losses, norms) = (numbers(&golden["cross_entropy"]), numbers(&golden["gradient_norm"]));
    let rates = numbers(&golden["learning_rate"]);
    let mut worst: f64 = 0.0;
    for (step, batch) in batches().iter().take(losses.len()).enumerate() {
        let result = run.step(batch, rates[step]);
        let off = (result.loss - losses[step]).abs();
        assert!(off < TOLERANCE, "{name}, step {step}: {} for {}", result.loss, losses[step]);
        let norm = (result.gradient_norm - norms[step]).abs() / norms[step];
        assert!(norm < 1e-2, "{name}, step {step}: norm {}", result.gradient_norm);
        worst = worst.max(off);
    }
    println!("{name}: worst deviation of a loss {worst:.2e}");
    worst
}

fn runtime(test: &str) -> Option<Runtime> {
    Some(support::open(&shared::cpu_plugin(test)?, 1))
}

/// Trains as the golden run `name` did, with the options changed as given.
fn check(name: &str, change: impl FnOnce(StepOptions) -> StepOptions) {
    let Some(runtime) = runtime(name) else { return };
    let (golden, files) = golden(name);
    let optimizer = Settings { clip_norm: golden["clip_norm"].as_f64(), ..adamw() };
    let options = change(StepOptions { optimizer, ..options(ROWS, LENGTH) });
    compare(&mut Run::new(&runtime, &files, &options), name, &golden);
}

#[test]
fn adamw_takes_pytorchs_steps() {
    check("adamw", |options| options);
}

#[test]
fn parts_of_a_batch_add_up_to_the_batch() {
    check("adamw", |options| StepOptions { accumulation: 2, ..options });
}

#[test]
fn tied_embeddings_and_norms_below_the_limit() {
    check("adamw_tied", |options| options);
}

#[test]
fn muon_takes_the_references_steps() {
    check("muon", |options| StepOptions {
        optimizer: Settings { muon: true, ..options.optimizer },
        ..options
    });
}

#[test]
fn muon_over_stacked_layers() {
    check("muon", |options| StepOptions {
        optimizer: Settings { muon: true, ..options.optimizer },
        layers: llm::models::Layers::Scanned,
        ..options
    });
}

#[test]
fn z_loss() {
    check("z_loss", |options| StepOptions { z_loss: 1e-4, ..options });
    check("z_loss_strong", |options| StepOptions { z_loss: 1e-2, ..options });
}

#[test]
fn adapters_learn_as_pefts_do() {
    let Some(runtime) = runtime("adapters_learn_as_pefts_do") else { return };
    let (golden, files) = golden("lora");
    let mut run = adapters(&runtime, &golden, &files);
    let frozen = run.kept("model/model.layers.0.self_attn.q_proj.weight");
    compare(&mut run, "lora", &golden);
    assert_eq!(run.kept("model/model.layers.0.self_attn.q_proj.weight"), frozen);
    let last = goldens().join("training/lora/adapter_model.safetensors");
    let last = Checkpoint::open_safetensors(&last).unwrap();
    for (_, name) in &adapter_places(&run) {
        let found = run.kept(&format!("model/{name}"));
        let expected = tensor(&last, &format!("base_model.model.{name}"), found.len());
        let off = relative(&found, &expected);
        assert!(off < 1e-3, "{name} is off by {off:.2e}");
    }
}
