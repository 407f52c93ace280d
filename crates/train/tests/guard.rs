//! A step that would do harm changes nothing: one whose loss is above the limit, or not a number.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use runtime::Array;
use support::{Run, model, options, shared, texts};
use train::data::Batch;
use train::device::{Scalars, StepResult};

const ROWS: usize = 2;
const LENGTH: usize = 16;

fn batch() -> Batch {
    let each = ROWS * LENGTH;
    Batch {
        rows: ROWS,
        sequence_length: LENGTH,
        tokens: (0..each).map(|place| (place * 7 % 256) as i32).collect(),
        targets: (0..each).map(|place| ((place + 1) * 7 % 256) as i32).collect(),
        segments: vec![1; each],
        positions: (0..each).map(|place| (place % LENGTH) as i32).collect(),
    }
}

fn run(test: &str) -> Option<Run> {
    let runtime = support::open(&shared::cpu_plugin(test)?, 1);
    Some(Run::new(&runtime, &model("llama"), &options(ROWS, LENGTH)))
}

fn step(run: &mut Run, loss_limit: f64) -> StepResult {
    let scalars =
        Scalars { learning_rate: 1e-2, adamw_learning_rate: 1e-2, loss_limit, seed: 0, step: 1 };
    let texts = texts(&run.loaded, &batch());
    run.loaded.step(&texts, &scalars, &mut run.kept).unwrap().read().unwrap()
}

/// Weights, the optimizer's memory, and its count of updates.
fn everything(run: &Run) -> Vec<Vec<u8>> {
    run.kept.iter().map(|array| array.to_host().unwrap()).collect()
}

#[test]
fn a_loss_above_the_limit_changes_nothing() {
    let Some(mut run) = run("a_loss_above_the_limit_changes_nothing") else { return };
    let first = step(&mut run, f64::INFINITY);
    assert!(!first.skipped);
    let before = everything(&run);
    let spike = step(&mut run, first.loss / 2.0);
    assert!(spike.skipped);
    assert!(spike.loss > first.loss / 2.0 && spike.loss < first.loss, "{spike:?}");
    assert!(everything(&run) == before, "a skipped step changed something");
    // The same step with a limit that its loss keeps to, as if nothing had been.
    let good = step(&mut run, spike.loss + 1e-3);
    assert!(!good.skipped);
    assert_eq!(good.loss, spike.loss);
    assert!(everything(&run) != before, "a step changed nothing");
}

#[test]
fn a_loss_that_is_not_a_number_changes_nothing() {
    let Some(mut run) = run("a_loss_that_is_not_a_number_changes_nothing") else { return };
    step(&mut run, f64::INFINITY);
    let name = "model/model.layers.1.mlp.down_proj.weight";
    let kept = &run.loaded.program().kept;
    let place = kept.iter().position(|tensor| tensor.name == name).unwrap();
    let input = &train::state::kept_inputs(run.loaded.program())[place];
    let mut bytes = run.kept[place].to_host().unwrap();
    bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    let poisoned =
        Array::from_host(run.loaded.mesh(), &input.shape, &input.sharding, &bytes).unwrap();
    run.kept[place] = Arc::new(poisoned);
    let before = everything(&run);
    let result = step(&mut run, f64::INFINITY);
    assert!(result.skipped && result.loss.is_nan(), "{result:?}");
    assert!(everything(&run) == before, "a skipped step changed something");
}
