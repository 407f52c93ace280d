//! Over meshes of virtual CPU devices a model gives what it gives on one device, and its weights are
//! split, not copied.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::path::Path;

use graph::Mesh;
use llm::ModelFiles;
use llm::engine::{Engine, Sampling};
use llm::models::{CacheShape, Layers};
use llm::programs::{self, ProgramOptions};
use runtime::environment::{required_environment, restart_with};
use runtime::{Runtime, worker};
use support::by_hand::{ByHand, greedy, integers};
use support::device::{TOLERANCE, engine};
use support::{device, golden, shared};

const DEVICES: usize = 8;

/// The tiny model whose key/value heads eight devices can share.
const TINY: &str = "llama_8_kv_heads";

/// Meshes of up to eight devices for it; the first is what the others are compared with.
const MESHES: [&str; 9] = [
    "",
    "data=8",
    "tensor=8",
    "data=2,tensor=4",
    "data=4,tensor=2",
    "fsdp=8",
    "fsdp=2,tensor=4",
    "data=2,fsdp=2,tensor=2",
    "tensor=4",
];

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let Some(location) = shared::cpu_plugin("spmd (all tests of this file)") else { return };
    if let Some(mut again) = restart_with(&required_environment(&location, DEVICES)) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let runtime = device::open(&location, DEVICES);
    shared::run_all(vec![
        ("the_engine_gives_the_same_over_every_mesh", Box::new(|| engines(&runtime))),
        ("batches_score_the_same_over_every_mesh", Box::new(|| scores(&runtime))),
        ("batches_decode_the_same_over_every_mesh", Box::new(|| decodes(&runtime))),
        ("weights_are_split", Box::new(|| weights_are_split(&runtime))),
        ("smollm2_over_tensor_3", Box::new(|| real_model_by_tensor(&runtime))),
        ("smollm2_over_data_8", Box::new(|| real_model_by_data(&runtime))),
    ]);
}

fn over(mesh: &str) -> ProgramOptions {
    ProgramOptions { mesh: runtime::parse_mesh(mesh).unwrap(), ..device::options() }
}

fn assert_close(found: &[f64], expected: &[f64], what: &str) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut worst: f64 = 0.0;
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let deviation = (found - expected).abs();
        assert!(deviation <= TOLERANCE, "{what}, place {place}: {found}, not {expected}");
        worst = worst.max(deviation);
    }
    worst
}

fn log_probs(engine: &Engine, tokens: &[u32]) -> Vec<f64> {
    let scores = engine.score(tokens, 1).unwrap();
    scores.iter().filter_map(|score| score.log_prob).map(f64::from).collect()
}

fn generate(engine: &Engine, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    let keep = |generated: llm::engine::Generated| {
        tokens.push(generated.token);
        true
    };
    engine.session().generate(prompt, count, &Sampling::default(), &[], keep).unwrap();
    tokens
}

/// One sequence at a time: `data` has nothing to split, `tensor` and `fsdp` have.
fn engines(runtime: &Runtime) {
    let expected = golden::expected(TINY);
    for mesh in MESHES {
        for layers in [Layers::Unrolled, Layers::Scanned] {
            let options = ProgramOptions { layers, ..over(mesh) };
            let engine = engine(&golden::model(TINY), runtime, &options);
            let what = format!("{mesh}, {layers:?}");
            for (tokens, expected) in expected.token_ids.iter().zip(&expected.log_probs) {
                assert_close(&log_probs(&engine, tokens), expected, &what);
            }
            let greedy = &expected.greedy;
            let tokens = generate(&engine, &greedy.prompt, greedy.token_ids.len());
            assert_eq!(tokens, greedy.token_ids, "{what}");
        }
    }
}

/// Log-probabilities of every token that follows another, for eight rows of text.
fn score_rows(runtime: &Runtime, model: &Path, mesh: &str, rows: &[Vec<u32>]) -> Vec<f64> {
    let files = ModelFiles::open(model).unwrap();
    let chunk = rows[0].len() - 1;
    let shape = CacheShape { batch: rows.len(), capacity: chunk };
    let traced = programs::score(&files.config, &over(mesh), shape, chunk, 1).unwrap();
    let program = ByHand::new(runtime, &files, traced);
    let tokens: Vec<u32> = rows.iter().flat_map(|row| &row[..chunk]).copied().collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| &row[1..]).copied().collect();
    let start = vec![0; rows.len()];
    let data = [integers(&tokens), integers(&targets), integers(&start)];
    program.run(&data, &program.empty_cache()).numbers(0)
}

fn eight_rows(length: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    (0..DEVICES as u64).map(|row| golden::tokens(length, row, vocab_size)).collect()
}

fn scores(runtime: &Runtime) {
    let rows = eight_rows(25, 256);
    let one_by_one = engine(&golden::model(TINY), runtime, &over(""));
    let expected: Vec<f64> = rows.iter().flat_map(|row| log_probs(&one_by_one, row)).collect();
    for mesh in MESHES {
        let found = score_rows(runtime, &golden::model(TINY), mesh, &rows);
        let worst = assert_close(&found, &expected, mesh);
        println!("  {mesh:24} deviates by {worst:.2e} at most");
    }
}

/// Eight sequences at positions of their own, through prefill and decode.
fn decodes(runtime: &Runtime) {
    const STEPS: usize = 12;
    let files = ModelFiles::open(&golden::model(TINY)).unwrap();
    let (capacity, chunk, vocab) = (48, 16, files.config.vocab_size);
    let lengths: Vec<u32> = (0..DEVICES as u32).map(|row| 2 * row + 1).collect();
    let rows = eight_rows(chunk, vocab).concat();
    let mut expected: Option<(Vec<Vec<u32>>, Vec<f64>)> = None;
    for mesh in MESHES {
        let shape = CacheShape { batch: DEVICES, capacity };
        let prefill = programs::prefill(&files.config, &over(mesh), shape, chunk).unwrap();
        let decode = programs::decode(&files.config, &over(mesh), shape).unwrap();
        let prefill = ByHand::new(runtime, &files, prefill);
        let decode = ByHand::new(runtime, &files, decode);
        let mut data = vec![integers(&rows), integers(&[0; DEVICES]), integers(&lengths)];
        data.extend(greedy(DEVICES, vocab));
        let mut step = prefill.run(&data, &prefill.empty_cache());
        let (mut tokens, mut log_probs) = (vec![step.integers(0)], step.numbers(2));
        for _ in 0..STEPS {
            let mut data = vec![step.bytes(0), step.bytes(1)];
            data.extend(greedy(DEVICES, vocab));
            step = decode.run(&data, &step.cache);
            tokens.push(step.integers(0));
            log_probs.extend(step.numbers(2));
        }
        let (expected_tokens, expected) =
            expected.get_or_insert_with(|| (tokens.clone(), log_probs.clone()));
        assert_eq!(&tokens, expected_tokens, "{mesh}");
        assert_close(&log_probs, expected, mesh);
    }
}

/// Each device holds its share of every weight that has an axis to split, and the compiler agrees.
fn weights_are_split(runtime: &Runtime) {
    let files = ModelFiles::open(&golden::model(TINY)).unwrap();
    let shape = CacheShape { batch: DEVICES, capacity: 16 };
    for (mesh, vectors_over, matrices_over) in [
        ("", 1, 1),
        ("data=8", 1, 1),
        ("tensor=8", 1, 8),
        ("data=2,tensor=4", 1, 4),
        ("fsdp=8", 8, 8),
        ("fsdp=2,tensor=4", 2, 8),
    ] {
        let traced = programs::decode(&files.config, &over(mesh), shape).unwrap();
        let program = ByHand::new(runtime, &files, traced);
        let devices = program.executable.mesh().devices().len();
        let mut bytes_per_device = 0;
        for (spec, weight) in program.traced.parameters.iter().zip(&program.weights) {
            let pieces =
                if spec.checkpoint_shape.len() == 1 { vectors_over } else { matrices_over };
            let here = format!("{mesh}, {}", spec.name);
            assert_eq!(weight.shards().len(), devices, "{here}");
            for shard in weight.shards() {
                let sizes = shard.buffer.dimensions().unwrap();
                let elements = sizes.iter().product::<i64>() as usize;
                assert_eq!(elements * pieces, weight.shape().elements(), "{here}: {sizes:?}");
            }
            bytes_per_device += weight.shape().bytes() / pieces;
        }
        // What the compiled program takes on one device: its share of weights, cache and data.
        let inputs = &program.traced.program.inputs[..program.traced.data + program.traced.cache];
        let others: usize = inputs
            .iter()
            .map(|input| {
                let pieces = input.sharding.pieces(&program.traced.program.mesh);
                input.shape.bytes() / pieces.iter().product::<usize>()
            })
            .sum();
        let memory = program.executable.info().memory.unwrap();
        assert_eq!(memory.argument_bytes as usize, bytes_per_device + others, "{mesh}");
        println!("  {mesh:24} {bytes_per_device} bytes of weights on each device");
    }
}

/// Three key/value heads on three devices: the layout that suits SmolLM2.
fn real_model_by_tensor(runtime: &Runtime) {
    let Some(path) = shared::smollm2("smollm2_over_tensor_3") else { return };
    let tokens = text(&path, "The capital of France is Paris, and the capital of Italy is Rome.");
    let one = engine(&path, runtime, &over(""));
    let expected = log_probs(&one, &tokens);
    let three = engine(&path, runtime, &over("tensor=3"));
    let worst = assert_close(&log_probs(&three, &tokens), &expected, "tensor=3");
    println!("  deviates by {worst:.2e} at most");
    assert_eq!(generate(&three, &tokens[..5], 8), generate(&one, &tokens[..5], 8));
    // Its heads are split over the mesh, not left whole for want of a divisor.
    let mesh = Mesh::new(&[("tensor", 3)]);
    assert_eq!(programs::choose_mesh(one.config(), 3), mesh);
}

/// Eight texts on eight devices.
fn real_model_by_data(runtime: &Runtime) {
    let Some(path) = shared::smollm2("smollm2_over_data_8") else { return };
    const LENGTH: usize = 10;
    let whole = text(
        &path,
        "Rain is water that falls from clouds in drops. Snow falls when the air is cold enough for \
         the drops to freeze on their way down, and hail when strong winds carry frozen drops up \
         and down through a cloud until they are heavy. Fog is a cloud that touches the ground. \
         Dew forms at night when the ground is colder than the air above it, and frost is dew \
         that freezes as it forms on grass and stones.",
    );
    let rows: Vec<Vec<u32>> = whole.chunks_exact(LENGTH).take(DEVICES).map(<[_]>::to_vec).collect();
    assert_eq!(rows.len(), DEVICES);
    let one = engine(&path, runtime, &over(""));
    let expected: Vec<f64> = rows.iter().flat_map(|row| log_probs(&one, row)).collect();
    let found = score_rows(runtime, &path, "data=8", &rows);
    let worst = assert_close(&found, &expected, "data=8, eight rows");
    // One row cannot be split; it still has to run.
    let eight = engine(&path, runtime, &over("data=8"));
    assert_close(&log_probs(&eight, &rows[0]), &expected[..LENGTH - 1], "data=8, one row");
    println!("  deviates by {worst:.2e} at most");
}

fn text(model: &Path, text: &str) -> Vec<u32> {
    let files = ModelFiles::open(model).unwrap();
    files.tokenizer().unwrap().unwrap().encode(text, true).unwrap()
}
