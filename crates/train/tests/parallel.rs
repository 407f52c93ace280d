//! Over meshes of virtual CPU devices, in parts, with things computed again and with layers stacked, a
//! run's losses are what they are on one device; and weights and the optimizer's memory are split.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

mod support;

use std::collections::BTreeMap;

use graph::DType;
use graph::ops::Remat;
use llm::models::{Layers, Lora};
use runtime::environment::{required_environment, restart_with};
use runtime::{Runtime, worker};
use support::{Run, options, shared};
use train::data::{Batch, IGNORE};
use train::optimizer::Settings;
use train::step::{Kept, StepOptions};

const DEVICES: usize = 8;

/// The tiny model whose key/value heads eight devices can share.
const MODEL: &str = "llama_8_kv_heads";

/// The largest deviation of a loss from that of one device, absolute, in nats.
const TOLERANCE: f64 = 1e-4;

const STEPS: usize = 10;
/// Also half of them go evenly onto eight devices.
const ROWS: usize = 16;
const LENGTH: usize = 32;
const LEARNING_RATE: f64 = 5e-3;

fn main() {
    worker::main_if_worker(|_| Ok(()));
    let Some(location) = shared::cpu_plugin("parallel (all tests of this file)") else { return };
    if let Some(mut again) = restart_with(&required_environment(&location, DEVICES)) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let runtime = support::open(&location, DEVICES);
    shared::run_all(vec![
        ("adamw_takes_the_same_steps_over_every_mesh", Box::new(|| adamw(&runtime))),
        ("muon_takes_the_same_steps_over_every_mesh", Box::new(|| muon(&runtime))),
        ("adapters_take_the_same_steps_over_a_mesh", Box::new(|| adapters(&runtime))),
    ]);
}

/// How a run differs from the plainest one: mesh, parts of a batch, what is computed again, layers.
type Way = (&'static str, usize, Remat, Layers);

use Layers::{Scanned, Unrolled};

fn adamw(runtime: &Runtime) {
    let options = over(("", 1, Remat::None, Unrolled));
    let expected = run(runtime, &options);
    let losses = losses(&expected);
    assert!(losses[STEPS - 1] < losses[0] - 0.1, "nothing is learned: {losses:?}");
    for way in [
        ("", 2, Remat::Full, Unrolled),
        ("", 1, Remat::Dots, Scanned),
        ("data=8", 1, Remat::None, Unrolled),
        ("data=8", 2, Remat::Full, Scanned),
        ("fsdp=8", 1, Remat::None, Scanned),
        ("fsdp=8", 2, Remat::Dots, Unrolled),
        ("tensor=8", 1, Remat::None, Unrolled),
        ("tensor=8", 2, Remat::Full, Scanned),
        ("data=2,fsdp=2,tensor=2", 1, Remat::Dots, Scanned),
        ("data=2,fsdp=2,tensor=2", 2, Remat::None, Unrolled),
    ] {
        let run = run(runtime, &over(way));
        compare(&run, &expected, "adamw", way);
        assert_split(&run, way.0);
    }
}

fn muon(runtime: &Runtime) {
    let with_muon = |way: Way| {
        let options = over(way);
        StepOptions { optimizer: Settings { muon: true, ..options.optimizer }, ..options }
    };
    let expected = run(runtime, &with_muon(("", 1, Remat::None, Unrolled)));
    for way in [
        ("data=8", 1, Remat::Full, Unrolled),
        ("fsdp=8", 2, Remat::None, Scanned),
        ("tensor=8", 1, Remat::Dots, Unrolled),
        ("data=2,fsdp=2,tensor=2", 1, Remat::None, Scanned),
    ] {
        let run = run(runtime, &with_muon(way));
        compare(&run, &expected, "muon", way);
        assert_split(&run, way.0);
    }
}

/// With dropout: which values are dropped must not depend on where they are computed.
fn adapters(runtime: &Runtime) {
    adapters_on(runtime, DType::F32);
    adapters_on(runtime, DType::S8);
}

fn adapters_on(runtime: &Runtime, frozen: DType) {
    let adapted = |way: Way| {
        let targets = ["q_proj", "v_proj", "down_proj"].map(str::to_string).to_vec();
        let lora = Some(Lora { rank: 4, alpha: 8.0, targets, dropout: 0.1 });
        StepOptions { lora, frozen, ..over(way) }
    };
    let expected = run(runtime, &adapted(("", 1, Remat::None, Unrolled)));
    for way in [
        ("", 2, Remat::Full, Scanned),
        ("fsdp=8", 1, Remat::None, Unrolled),
        ("data=2,fsdp=2,tensor=2", 1, Remat::Dots, Scanned),
        ("data=2,fsdp=2,tensor=2", 2, Remat::None, Unrolled),
    ] {
        let run = run(runtime, &adapted(way));
        compare(&run, &expected, &format!("adapters on {frozen}"), way);
        if frozen == DType::S8 && !way.0.is_empty() {
            assert_scales_lie_as_rows(&run, way.0);
        }
        for state in run.loaded.program().kept.iter().filter(|tensor| is_state(&tensor.kept)) {
            // Frozen weights have no place in the optimizer's memory.
            let name = &state.name;
            assert!(name.contains(".lora_") || name == train::step::UPDATES, "{name}");
        }
    }
}

/// A row's scale is where the row is: split over a mesh axis where the rows are.
fn assert_scales_lie_as_rows(run: &Run, mesh: &str) {
    let inputs = train::state::kept_inputs(run.loaded.program());
    let split = |name: &str| {
        let input = inputs.iter().find(|input| input.name == name);
        let input = input.unwrap_or_else(|| panic!("no {name}"));
        let axes = input.shape.names().into_iter().zip(&input.sharding.dimensions);
        axes.map(|(axis, over)| (axis, over.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut found = 0;
    for input in inputs {
        let Some(matrix) = input.name.strip_suffix(".scales") else { continue };
        let rows = split(matrix);
        for (axis, over) in split(&input.name) {
            assert_eq!(over, rows[axis], "{mesh}: `{axis}` of {}", input.name);
            found += usize::from(!over.is_empty());
        }
    }
    assert!(found > 0, "{mesh} splits no scales");
}

fn is_state(kept: &Kept) -> bool {
    matches!(kept, Kept::State)
}

fn over((mesh, accumulation, remat, layers): Way) -> StepOptions {
    let mesh = runtime::parse_mesh(mesh).unwrap();
    StepOptions { mesh, accumulation, remat, layers, ..options(ROWS, LENGTH) }
}

/// Two or three documents per row, of different lengths, and padding: no two rows, and no two parts of
/// a batch, have the same number of tokens that count.
fn batch(step: usize) -> Batch {
    let mut state = step as u64 + 1;
    let mut draw = |below: u64| {
        // Knuth's MMIX.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % below) as i32
    };
    let mut batch = Batch {
        rows: ROWS,
        sequence_length: LENGTH,
        tokens: Vec::new(),
        targets: Vec::new(),
        segments: Vec::new(),
        positions: Vec::new(),
    };
    for _ in 0..ROWS {
        let first = 5 + draw(10);
        let second = first + 4 + draw(8);
        let end = second + draw(10);
        // Texts that can be learned: each token says much of the next.
        let mut token = draw(256);
        for place in 0..LENGTH as i32 {
            let next = (token * 5 + 3 + draw(4)) % 256;
            let (segment, start, stop) = match place {
                _ if place >= end => (0, end, end),
                _ if place >= second => (3, second, end),
                _ if place >= first => (2, first, second),
                _ => (1, 0, first),
            };
            let is_padding = segment == 0;
            batch.tokens.push(if is_padding { 0 } else { token });
            batch.targets.push(if is_padding || place + 1 == stop { IGNORE } else { next });
            batch.segments.push(segment);
            batch.positions.push(if is_padding { 0 } else { place - start });
            token = next;
        }
    }
    batch
}

fn run(runtime: &Runtime, options: &StepOptions) -> Run {
    let mut run = Run::new(runtime, &support::model(MODEL), options);
    for step in 0..STEPS {
        run.step(&batch(step), LEARNING_RATE);
    }
    run
}

fn compare(found: &Run, expected: &Run, optimizer: &str, way: Way) {
    let (mesh, accumulation, remat, layers) = way;
    let what = format!("{optimizer}, {mesh:22} in {accumulation}, {remat:?}, {layers:?}");
    let mut worst: f64 = 0.0;
    for (step, (found, expected)) in found.steps.iter().zip(&expected.steps).enumerate() {
        let off = (found.loss - expected.loss).abs();
        assert!(off <= TOLERANCE, "{what}, step {step}: {} for {}", found.loss, expected.loss);
        let norm = (found.gradient_norm / expected.gradient_norm - 1.0).abs();
        assert!(norm < 1e-3, "{what}, step {step}: norm {}", found.gradient_norm);
        assert_eq!(found.tokens, expected.tokens, "{what}, step {step}");
        assert!(!found.skipped, "{what}, step {step}");
        worst = worst.max(off);
    }
    println!("  {what}: a loss deviates by {worst:.1e} at most");
}

fn losses(run: &Run) -> Vec<f64> {
    run.steps.iter().map(|step| step.loss).collect()
}

/// Each device holds its share of everything that has an axis to split, after steps as before.
fn assert_split(run: &Run, mesh: &str) {
    // Into how many pieces vectors and matrices are cut.
    let (of_vectors, of_matrices) = match mesh {
        "" | "data=8" => (1, 1),
        "fsdp=8" => (8, 8),
        "tensor=8" => (1, 8),
        "data=2,fsdp=2,tensor=2" => (2, 4),
        mesh => panic!("{mesh}"),
    };
    let kept = &run.loaded.program().kept;
    let ranks: BTreeMap<&str, usize> = kept
        .iter()
        .filter_map(|tensor| match &tensor.kept {
            Kept::Weight { spec, .. } => Some((spec.name.as_str(), spec.checkpoint_shape.len())),
            Kept::State => None,
        })
        .collect();
    let mut states = 0;
    for (tensor, array) in kept.iter().zip(&run.kept) {
        let here = format!("{mesh}, {}", tensor.name);
        // The name of a state ends in that of its weight; the count of updates has none.
        let (_, weight) = tensor.name.split_once('/').unwrap();
        let pieces = match ranks.get(weight) {
            Some(1) => of_vectors,
            Some(_) => of_matrices,
            None => {
                assert_eq!(tensor.name, train::step::UPDATES);
                1
            }
        };
        states += usize::from(is_state(&tensor.kept));
        for shard in array.shards() {
            let elements = shard.buffer.dimensions().unwrap().iter().product::<i64>() as usize;
            assert_eq!(elements * pieces, array.shape().elements(), "{here}");
        }
    }
    assert!(states > ranks.len(), "{mesh}: {states} states of {} weights", ranks.len());
}
