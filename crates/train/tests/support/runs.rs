//! The golden runs (`tests/goldens/training/runs.json`): their batches, and the one with adapters.

use llm::models::Lora;
use llm::{Checkpoint, ModelFiles};
use runtime::{Array, Runtime};
use serde_json::Value;
use train::data::Batch;
use train::optimizer::Settings;
use train::step::{Kept, StepOptions};

use super::{Run, adamw, goldens, json, model, numbers, options, tensor};

pub const STEPS: usize = 50;
pub const ROWS: usize = 4;
pub const LENGTH: usize = 32;

/// A run and the files of its model.
pub fn golden(name: &str) -> (Value, ModelFiles) {
    let run = json("runs.json")["runs"][name].clone();
    let files = model(run["model"].as_str().unwrap());
    (run, files)
}

/// The goldens' batches: one document per row.
pub fn batches() -> Vec<Batch> {
    let path = goldens().join("training/batches.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let integers = |name: &str| -> Vec<i32> {
        let offsets = numbers(&table[name]["data_offsets"]);
        let data = &bytes[8 + header + offsets[0] as usize..8 + header + offsets[1] as usize];
        data.as_chunks::<4>().0.iter().map(|chunk| i32::from_le_bytes(*chunk)).collect()
    };
    let (tokens, targets) = (integers("tokens"), integers("targets"));
    let each = ROWS * LENGTH;
    let batch = |step: usize| Batch {
        rows: ROWS,
        sequence_length: LENGTH,
        tokens: tokens[step * each..(step + 1) * each].to_vec(),
        targets: targets[step * each..(step + 1) * each].to_vec(),
        segments: vec![1; each],
        positions: (0..each).map(|place| (place % LENGTH) as i32).collect(),
    };
    (0..STEPS).map(batch).collect()
}

/// The run with adapters, before its first step.
pub fn adapters(runtime: &Runtime, golden: &Value, files: &ModelFiles) -> Run {
    let initial = goldens().join("training/lora/initial.safetensors");
    let initial = Checkpoint::open_safetensors(&initial).unwrap();
    let targets = ["q_proj", "v_proj"].map(str::to_string).to_vec();
    let lora = Some(Lora { rank: 4, alpha: 8.0, targets, dropout: 0.0 });
    let optimizer = Settings { clip_norm: golden["clip_norm"].as_f64(), ..adamw() };
    let options = StepOptions { lora, optimizer, ..options(ROWS, LENGTH) };
    let mut run = Run::new(runtime, files, &options);
    let places = adapter_places(&run);
    assert_eq!(places.len(), initial.names().count());
    let inputs = train::state::kept_inputs(run.loaded.program()).to_vec();
    for (place, name) in &places {
        let (shape, sharding) = (&inputs[*place].shape, &inputs[*place].sharding);
        let values = tensor(&initial, &format!("base_model.model.{name}"), shape.elements());
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let array = Array::from_host(run.loaded.mesh(), shape, sharding, &bytes).unwrap();
        run.kept[*place] = array.into();
    }
    run
}

/// Where adapters are among what is kept, and their names.
pub fn adapter_places(run: &Run) -> Vec<(usize, String)> {
    let kept = run.loaded.program().kept.iter().enumerate();
    kept.filter_map(|(place, kept)| match &kept.kept {
        Kept::Weight { spec, trained: true } => Some((place, spec.name.clone())),
        _ => None,
    })
    .collect()
}
