//! Adapters on a base that is held as int8: the same steps as on a base in f32 whose weights are the
//! numbers that int8 stands for, in a quarter of the memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use graph::DType;
use graph::ops::Remat;
use llm::models::{Layers, Lora, ParameterSpec};
use llm::weights::{TensorShape, write_checkpoint};
use llm::{FloatType, ModelFiles};
use runtime::Runtime;
use support::{LENGTH, ROWS, Run, batches, floats, goldens, model, options, relative, shared};
use train::step::{StepOptions, UPDATES, train_step, weights};

const STEPS: usize = 8;
const LEARNING_RATE: f64 = 1e-2;

/// Without biases and with.
const MODELS: [&str; 2] = ["llama", "qwen2"];

fn runtime(test: &str) -> Option<Runtime> {
    Some(support::open(&shared::cpu_plugin(test)?, 1))
}

fn adapted(frozen: DType) -> StepOptions {
    let targets = Lora::MATRICES.map(str::to_string).to_vec();
    let lora = Some(Lora { rank: 4, alpha: 8.0, targets, dropout: 0.0 });
    StepOptions { lora, frozen, ..options(ROWS, LENGTH) }
}

fn run(runtime: &Runtime, files: &ModelFiles, options: &StepOptions) -> Run {
    let mut run = Run::new(runtime, files, options);
    for batch in batches().iter().take(STEPS) {
        assert!(!run.step(batch, LEARNING_RATE).skipped);
    }
    run
}

fn losses(run: &Run) -> Vec<f64> {
    run.steps.iter().map(|step| step.loss).collect()
}

/// Every weight of the model, and those of layers as the numbers that int8 and scale stand for.
fn dequantized(files: &ModelFiles) -> BTreeMap<String, Vec<f32>> {
    let checkpoint = &files.checkpoint;
    let widened = |name: &str| {
        let mut values = checkpoint.read_to_vec(name).unwrap();
        let shape = &checkpoint.info(name).unwrap().shape;
        if shape.len() == 2 && name.contains(".layers.") {
            for row in values.chunks_mut(shape[1]) {
                let scale = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
                row.iter_mut()
                    .for_each(|value| *value = (*value / scale).round_ties_even() * scale);
            }
        }
        values
    };
    checkpoint.names().map(|name| (name.to_string(), widened(name))).collect()
}

/// The model's folder with other weights.
fn with_weights(
    name: &str,
    files: &ModelFiles,
    values: &BTreeMap<String, Vec<f32>>,
    folder: &Path,
) -> ModelFiles {
    let shape = |name: &String| &files.checkpoint.info(name).unwrap().shape;
    let tensors: Vec<_> =
        values.keys().map(|name| TensorShape::new(name.as_str(), shape(name))).collect();
    let config = goldens().join("models").join(name).join("config.json");
    std::fs::copy(config, folder.join("config.json")).unwrap();
    let mut read = |name: &str, rows: std::ops::Range<usize>, out: &mut [f32]| {
        let columns = values[name].len() / shape(&name.to_string())[0];
        out.copy_from_slice(&values[name][rows.start * columns..rows.end * columns]);
        Ok(())
    };
    let one = u64::MAX;
    write_checkpoint(folder, &tensors, FloatType::F32, one, &mut read, &mut |_| {}).unwrap();
    ModelFiles::open(folder).unwrap()
}

#[test]
fn steps_are_those_of_the_numbers_that_int8_stands_for() {
    let Some(runtime) = runtime("steps_are_those_of_the_numbers_that_int8_stands_for") else {
        return;
    };
    for name in MODELS {
        let files = model(name);
        let folder = tempfile::tempdir().unwrap();
        let widened = with_weights(name, &files, &dequantized(&files), folder.path());
        let expected = run(&runtime, &widened, &adapted(DType::F32));
        let exact = losses(&expected);
        assert!(exact[STEPS - 1] < exact[0] - 0.05, "{name} learns nothing: {exact:?}");
        // The difference that is looked for is not lost in the tolerance.
        let unrounded = losses(&run(&runtime, &files, &adapted(DType::F32)));
        let rounding = (unrounded[0] - exact[0]).abs();
        let mut worst: f64 = 0.0;
        for (layers, remat, accumulation) in [
            (Layers::Unrolled, Remat::None, 1),
            (Layers::Unrolled, Remat::Full, 2),
            (Layers::Scanned, Remat::None, 1),
            (Layers::Scanned, Remat::Dots, 1),
        ] {
            let way = StepOptions { layers, remat, accumulation, ..adapted(DType::S8) };
            let found = run(&runtime, &files, &way);
            let what = format!("{name}, {layers:?}, {remat:?}, {accumulation}");
            for (found, expected) in found.steps.iter().zip(&expected.steps) {
                let off = (found.loss - expected.loss).abs();
                assert!(off < 2e-6, "{what}: {} for {}", found.loss, expected.loss);
                let norm = (found.gradient_norm / expected.gradient_norm - 1.0).abs();
                assert!(norm < 1e-4, "{what}: a norm is off by {norm:.1e}");
                worst = worst.max(off);
            }
            assert!(rounding > 5.0 * worst, "{what}: rounding changes {rounding:.1e} only");
        }
        println!("{name}: off by {worst:.1e}, rounding to int8 changes {rounding:.1e}");
    }
}

#[test]
fn in_bf16_the_base_is_as_good_as_its_rounding() {
    let Some(runtime) = runtime("in_bf16_the_base_is_as_good_as_its_rounding") else { return };
    let files = model("llama");
    let folder = tempfile::tempdir().unwrap();
    let widened = with_weights("llama", &files, &dequantized(&files), folder.path());
    let expected = losses(&run(&runtime, &widened, &adapted(DType::F32)));
    for layers in [Layers::Unrolled, Layers::Scanned] {
        let options = StepOptions { dtype: DType::Bf16, layers, ..adapted(DType::S8) };
        let found = losses(&run(&runtime, &files, &options));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 2e-2, "{layers:?}: {found} for {expected}");
        }
    }
}

/// What is on the devices: int8 and scales by their definition, and nothing of it ever changes.
#[test]
fn the_base_stays_as_it_was_read() {
    let Some(runtime) = runtime("the_base_stays_as_it_was_read") else { return };
    let (files, matrix) = (model("llama"), "model.layers.1.mlp.down_proj.weight");
    let run = run(&runtime, &files, &adapted(DType::S8));
    let place = |name: &str| {
        let kept = &run.loaded.program().kept;
        kept.iter().position(|tensor| tensor.name == format!("model/{name}")).unwrap()
    };
    let integers = run.kept[place(matrix)].to_host().unwrap();
    let scales = floats(&run.kept[place(&format!("{matrix}.scales"))]);
    let expected = &dequantized(&files)[matrix];
    let columns = expected.len() / scales.len();
    let found: Vec<f32> = integers
        .iter()
        .enumerate()
        .map(|(place, byte)| f32::from(byte.cast_signed()) * scales[place / columns])
        .collect();
    assert_eq!(&found, expected);
    let off = relative(&found, &files.checkpoint.read_to_vec(matrix).unwrap());
    assert!(off > 1e-3 && off < 1e-2, "{off}");
    for tensor in run.loaded.program().kept.iter().filter(|tensor| tensor.changes()) {
        let name = &tensor.name;
        assert!(name.contains(".lora_") || name == UPDATES, "{name} would be in a checkpoint");
    }
}

#[test]
fn arguments_take_a_quarter_and_no_wide_copy_is_kept() {
    let Some(runtime) = runtime("arguments_take_a_quarter_and_no_wide_copy_is_kept") else {
        return;
    };
    // A model of which the layers are nearly all.
    const LAYERS: usize = 8;
    let files = model("llama");
    let config = llm::ModelConfig {
        hidden_size: 64,
        intermediate_size: 1024,
        num_hidden_layers: LAYERS,
        sliding_windows: vec![None; LAYERS],
        ..files.config.clone()
    };
    let is_of_layers = |spec: &ParameterSpec| {
        spec.checkpoint_shape.len() == 2 && spec.name.contains(".layers.") && !spec.is_adapter()
    };
    let of_matrices: usize = weights(&config, &adapted(DType::F32))
        .iter()
        .filter(|(spec, _)| is_of_layers(spec))
        .map(|(_, shape)| shape.bytes())
        .sum();
    for layers in [Layers::Unrolled, Layers::Scanned] {
        let memory = |frozen| {
            // So few tokens that activations are small beside the matrices.
            let few = StepOptions { batch_size: 1, sequence_length: 8, ..adapted(frozen) };
            let options = StepOptions { layers, ..few };
            let program = train_step(&config, &options).unwrap();
            let inputs = &program.program.inputs;
            let arguments: usize = inputs.iter().map(|input| input.shape.bytes()).sum();
            let loaded = train::device::Loaded::new(&runtime, program).unwrap();
            let used = loaded.info().memory.unwrap();
            (arguments, used.argument_bytes as usize, used.temporary_bytes as usize)
        };
        let ((wide, wide_used, wide_rest), (narrow, narrow_used, rest)) =
            (memory(DType::F32), memory(DType::S8));
        let spared = wide - narrow;
        let what =
            format!("{layers:?}: {spared} of {of_matrices} bytes, temporaries {rest}, {wide_rest}");
        // Three of four bytes, less the scales: four bytes for rows of 64 and more.
        assert!(spared < of_matrices * 3 / 4 && spared > of_matrices * 7 / 10, "{what}");
        // The compiler counts the alignment of small arguments too.
        assert!((wide_used - narrow_used).abs_diff(spared) < spared / 100, "{what}");
        // Widened copies of all matrices would be `of_matrices` more.
        assert!(rest < wide_rest + of_matrices / 4, "{what}");
        println!("{what}");
    }
}
