//! The gradients of every parameter of small models against PyTorch's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use graph::ops::Remat;
use graph::{AttentionKernel, Blocks, Kernels, VocabularyBlocks};
use llm::Checkpoint;
use llm::models::Layers;
use support::{floats, goldens, json, model, options, relative, shared, start, tensor, texts};
use train::data::Batch;
use train::device::{Loaded, scalar};
use train::step::{self, StepOptions};

/// The norm of a gradient's difference by its norm.
const TOLERANCE: f64 = 1e-4;

fn batch(value: &serde_json::Value) -> Batch {
    let rows = |name: &str| -> Vec<i32> {
        let rows = value[name].as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().unwrap()).map(|v| v.as_i64().unwrap() as i32).collect()
    };
    let count = value["tokens"].as_array().unwrap().len();
    Batch {
        rows: count,
        sequence_length: rows("tokens").len() / count,
        tokens: rows("tokens"),
        targets: rows("targets"),
        segments: rows("segments"),
        positions: rows("positions"),
    }
}

/// Ways to trace the same: layers, what is kept for the way back, blocks.
fn ways(batch: &Batch) -> Vec<(&'static str, StepOptions)> {
    let plain = options(batch.rows, batch.sequence_length);
    let small = Kernels {
        attention: AttentionKernel::Portable(Blocks { queries: 7, keys: 7 }),
        vocabulary: VocabularyBlocks { size: 100, scanned: true, logits_max: 64 << 10 },
        ..Kernels::default()
    };
    let scanned = StepOptions { layers: Layers::Scanned, ..plain.clone() };
    vec![
        ("plain", plain.clone()),
        ("small blocks", StepOptions { kernels: small, ..plain.clone() }),
        ("full remat", StepOptions { remat: Remat::Full, ..plain.clone() }),
        ("remat but dots", StepOptions { remat: Remat::Dots, ..plain }),
        ("scanned", scanned.clone()),
        ("scanned, full remat", StepOptions { remat: Remat::Full, ..scanned.clone() }),
        ("scanned, remat but dots", StepOptions { remat: Remat::Dots, ..scanned }),
    ]
}

#[test]
fn gradients_are_pytorchs() {
    let Some(location) = shared::cpu_plugin("gradients_are_pytorchs") else { return };
    let runtime = support::open(&location, 1);
    let golden = json("gradients.json");
    let mut worst: f64 = 0.0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let files = model(name);
        let batch = batch(&golden["batches"][case["batch"].as_str().unwrap()]);
        let path = goldens().join("training").join(case["file"].as_str().unwrap());
        let expected = Checkpoint::open_safetensors(&path).unwrap();
        for (way, options) in ways(&batch) {
            let program = step::gradients(&files.config, &options).unwrap();
            let loaded = Loaded::new(&runtime, program).unwrap();
            let kept = start(&loaded, &files);
            let results = loaded.run(&texts(&loaded, &batch), &kept).unwrap();
            let loss = scalar(&results[0]).unwrap();
            assert!((loss - case["loss"].as_f64().unwrap()).abs() < 1e-4, "{name}, {way}: {loss}");
            let outputs = &loaded.program().program.outputs;
            let mut compared = 0;
            for (output, gradient) in outputs.iter().zip(&results).skip(1) {
                let parameter = output.name.strip_prefix("model/").unwrap();
                let found = floats(gradient);
                let layers = if parameter.contains(".*.") { output.shape.axes[0].1 } else { 1 };
                for layer in 0..layers {
                    let each = found.len() / layers;
                    let own = &found[layer * each..(layer + 1) * each];
                    let parameter = parameter.replace(".*.", &format!(".{layer}."));
                    let off = relative(own, &tensor(&expected, &parameter, each));
                    assert!(off < TOLERANCE, "{name}, {way}: {parameter} is off by {off:.2e}");
                    worst = worst.max(off);
                    compared += 1;
                }
            }
            assert_eq!(compared, expected.names().count(), "{name}, {way}");
        }
    }
    println!("worst relative deviation of a gradient: {worst:.2e}");
}
