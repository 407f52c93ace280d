//! Checkpoints of arrays on devices: saved on one mesh and restored on another, bit for bit; arrays that
//! are donated while they are written; processes that are killed; a disk that is really full.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

#[path = "../../runtime/tests/support/mod.rs"]
mod programs;
#[path = "support/checkpoint.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use graph::{DType, Mesh, Role, Shape, Sharding};
use programs::{Folder, add, bytes, floats};
use runtime::environment::{required_environment, restart_with};
use runtime::{Argument, Array, CompileChoices, Discovery, PluginKind, Runtime, RuntimeOptions};
use runtime::{parse_mesh, worker};
use support::{assert_is_state, assert_only, metadata, state};
use train::checkpoint::{
    Alone, Checkpoint, Checkpoints, HostArray, Keep, Metadata, SaveArray, Saver,
};

const DEVICES: usize = 8;

/// Tells a process to save checkpoints here until it is killed.
const SAVE: &str = "FUNGIBLE_TEST_SAVE";
/// Tells a process to make a small disk here and fill it.
const FILL: &str = "FUNGIBLE_TEST_FILL";

fn main() {
    if let Some(place) = std::env::var_os(SAVE) {
        return save_for_ever(Path::new(&place));
    }
    if let Some(place) = std::env::var_os(FILL) {
        return fill(Path::new(&place));
    }
    worker::main_if_worker(|_| Ok(()));
    let location = programs::shared::cpu_plugin("checkpoint (its tests of arrays on devices)");
    let Some(location) = location else { programs::run_all(without_devices()) };
    if let Some(mut again) = restart_with(&required_environment(&location, DEVICES)) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let folder = Folder::new("checkpoint");
    let discovery = Discovery::new(folder.cache()).with_plugin(PluginKind::Cpu, &location.path);
    let options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(DEVICES);
    let runtime = Runtime::open(&discovery, &options).unwrap();
    let mut tests = without_devices();
    tests.push(("any_mesh_restores_what_any_mesh_saved", Box::new(|| meshes(&runtime))));
    tests.push(("replicas_are_saved_once", Box::new(|| replicas(&runtime))));
    tests.push(("what_is_donated_after_a_save_was_saved", Box::new(|| donation(&runtime))));
    tests.push(("another_models_checkpoint_is_refused", Box::new(|| refusal(&runtime))));
    programs::run_all(tests)
}

fn without_devices<'a>() -> Vec<programs::Test<'a>> {
    vec![
        ("kills_cost_nothing_but_unfinished_saves", Box::new(kills)),
        ("a_full_disk_costs_only_the_new_checkpoint", Box::new(full_disk)),
    ]
}

fn saver(place: &Path) -> (Checkpoints, Saver) {
    let checkpoints = Checkpoints::open(place.to_str().unwrap()).unwrap();
    let saver = Saver::new(&checkpoints, Arc::new(Alone), Keep::ALL).unwrap();
    (checkpoints, saver)
}

/// A name, a shape, and the mesh axes that each dimension is split over.
type Layout = (&'static str, Shape, Vec<Vec<&'static str>>);

/// Arrays whose dimensions are split in every way that is possible on meshes of these axes.
fn layouts() -> Vec<Layout> {
    let matrix = |dtype| Shape::new(dtype, &[("mlp", 16), ("embed", 24)]);
    let cube = Shape::new(DType::F32, &[("kv_heads", 8), ("head_dim", 6), ("embed", 8)]);
    vec![
        ("model/up", matrix(DType::F32), vec![vec!["tensor"], vec!["fsdp"]]),
        ("model/down", matrix(DType::Bf16), vec![vec![], vec!["tensor"]]),
        ("adam.m/up", matrix(DType::F32), vec![vec!["fsdp", "tensor"], vec![]]),
        ("model/q", cube, vec![vec!["tensor"], vec![], vec!["data", "fsdp"]]),
        ("model/norm", Shape::new(DType::F32, &[("embed", 24)]), vec![vec![]]),
        ("step", Shape::scalar(DType::S32), vec![]),
    ]
}

/// The layout as far as the mesh has its axes.
fn sharding(mesh: &Mesh, over: &[Vec<&str>]) -> Sharding {
    let known = |axes: &Vec<&str>| {
        let axes = axes.iter().filter(|axis| mesh.size(axis).is_some());
        axes.map(ToString::to_string).collect()
    };
    Sharding { dimensions: over.iter().map(known).collect() }
}

fn arrays(runtime: &Runtime, mesh: &str) -> Vec<(&'static str, Array)> {
    let mesh = parse_mesh(mesh).unwrap();
    let on = runtime.mesh(mesh.clone()).unwrap();
    let array = |(name, shape, over): Layout| {
        let data = support::contents(name, 40, shape.bytes());
        (name, Array::from_host(&on, &shape, &sharding(&mesh, &over), &data).unwrap())
    };
    layouts().into_iter().map(array).collect()
}

fn save(saver: &mut Saver, step: u64, arrays: &[(&'static str, Array)]) {
    let saved: Vec<SaveArray<'_>> = arrays
        .iter()
        .map(|(name, array)| SaveArray { name, role: Role::Parameter, array })
        .collect();
    let ticket = saver.save(step, &saved, Metadata::default()).unwrap();
    assert!(ticket.stall_seconds > 0.0 && ticket.bytes > 0);
    ticket.wait().unwrap();
}

/// Restores everything on a mesh and compares it with what was saved.
fn assert_restores(checkpoint: &Checkpoint, runtime: &Runtime, mesh: &str) {
    let axes = parse_mesh(mesh).unwrap();
    let on = runtime.mesh(axes.clone()).unwrap();
    for (name, shape, over) in layouts() {
        let sharding = sharding(&axes, &over);
        let array = checkpoint.restore(name, &on, &shape, &sharding).unwrap();
        let expected = support::contents(name, 40, shape.bytes());
        assert!(array.to_host().unwrap() == expected, "{name} on {mesh}");
        // Each device has its own part of it.
        for shard in array.shards() {
            let mut part = vec![
                0;
                shard.ranges.iter().map(ExactSizeIterator::len).product::<usize>()
                    * shape.dtype.bytes()
            ];
            runtime::layout::cut(
                &expected,
                &shape.sizes(),
                shape.dtype.bytes(),
                &shard.ranges,
                &mut part,
            );
            assert!(shard.buffer.to_vec().unwrap() == part, "{name} on {mesh}");
        }
    }
}

fn meshes(runtime: &Runtime) {
    const MESHES: [&str; 6] =
        ["", "data=2,fsdp=2,tensor=2", "fsdp=8", "tensor=4", "data=8", "tensor=2,fsdp=4"];
    for from in MESHES {
        let place = tempfile::tempdir().unwrap();
        let (checkpoints, mut saver) = saver(place.path());
        save(&mut saver, 40, &arrays(runtime, from));
        let checkpoint = checkpoints.latest().unwrap().unwrap().checkpoint;
        for to in MESHES {
            assert_restores(&checkpoint, runtime, to);
        }
    }
}

fn replicas(runtime: &Runtime) {
    let place = tempfile::tempdir().unwrap();
    let (checkpoints, mut saver) = saver(place.path());
    let arrays = arrays(runtime, "data=2,fsdp=2,tensor=2");
    save(&mut saver, 40, &arrays);
    let checkpoint = checkpoints.latest().unwrap().unwrap().checkpoint;
    let chunks = |name| {
        let array = checkpoint.array(name).unwrap();
        (array.chunks.len(), array.extent.clone())
    };
    assert_eq!(chunks("model/up"), (4, vec![8, 12]));
    assert_eq!(chunks("model/down"), (2, vec![16, 12]));
    assert_eq!(chunks("model/q"), (8, vec![4, 6, 2]));
    assert_eq!(chunks("model/norm"), (1, vec![24]));
    let bytes: usize = arrays.iter().map(|(_, array)| array.shape().bytes()).sum();
    let held: usize =
        checkpoint.arrays().iter().map(|array| array.chunk_bytes() * array.chunks.len()).sum();
    assert_eq!(held, bytes);
}

/// `x` goes into a program as a donation as soon as `save` has returned; what was restored can be
/// donated as well.
fn donation(runtime: &Runtime) {
    let place = tempfile::tempdir().unwrap();
    let (checkpoints, mut saver) = saver(place.path());
    let program = add(1 << 20);
    let executable = runtime.compile(&program, &CompileChoices::default()).unwrap();
    let mesh = runtime.mesh(Mesh::single()).unwrap();
    let (shape, layout) = (&program.inputs[0].shape, &program.inputs[0].sharding);
    let values = |value: f32| bytes(&vec![value; 1 << 20]);
    let one = Array::from_host(&mesh, shape, layout, &values(1.0)).unwrap();
    let mut x = Array::from_host(&mesh, shape, layout, &values(0.0)).unwrap();
    for step in 1..=5u64 {
        // The array that is saved is still being computed.
        let run = executable.run(vec![x.into(), Argument::Borrowed(&one)]).unwrap();
        let saved = SaveArray { name: "x", role: Role::Parameter, array: &run.outputs[0] };
        let ticket = saver.save(step, &[saved], Metadata::default()).unwrap();
        let sum = run.wait().unwrap().remove(0);
        let run = executable.run(vec![sum.into(), Argument::Borrowed(&one)]).unwrap();
        x = run.wait().unwrap().remove(0);
        ticket.wait().unwrap();
    }
    for step in 1..=5 {
        let checkpoint = checkpoints.at(step).unwrap();
        let restored = checkpoint.restore("x", &mesh, shape, layout).unwrap();
        let expected = 2.0 * step as f32 - 1.0;
        assert_eq!(floats(&restored.to_host().unwrap()), vec![expected; 1 << 20]);
        let run = executable.run(vec![restored.into(), Argument::Borrowed(&one)]).unwrap();
        let sum = run.wait().unwrap().remove(0);
        assert_eq!(floats(&sum.to_host().unwrap()), vec![expected + 1.0; 1 << 20]);
    }
}

fn refusal(runtime: &Runtime) {
    let place = tempfile::tempdir().unwrap();
    let (checkpoints, mut saver) = saver(place.path());
    save(&mut saver, 40, &arrays(runtime, ""));
    let checkpoint = checkpoints.at(40).unwrap();
    let mesh = runtime.mesh(Mesh::single()).unwrap();
    let shape = Shape::new(DType::F32, &[("embed", 48)]);
    let restore = |name: &str| {
        let restored = checkpoint.restore(name, &mesh, &shape, &Sharding::replicated(1));
        restored.unwrap_err().to_string()
    };
    let other = restore("model/norm");
    assert!(other.contains("`model/norm` is f32[embed 24], here it is f32[embed 48]"), "{other}");
    let missing = restore("model/bias");
    assert!(missing.contains("it has no `model/bias`"), "{missing}");
}

/// Saves steps 1, 2, 3, ... and says which are complete; some of them over steps that are there.
fn save_for_ever(place: &Path) {
    let checkpoints = Checkpoints::open(place.to_str().unwrap()).unwrap();
    let keep = Keep { last: 2, best: 0 };
    let mut saver = Saver::new(&checkpoints, Arc::new(Alone), keep).unwrap();
    let first = checkpoints.latest().unwrap().map_or(1, |latest| latest.checkpoint.step());
    for step in first.. {
        let ticket = saver.save_host(step, state(step), metadata(step)).unwrap();
        println!("{}", ticket.wait().unwrap().step);
    }
}

/// `kill -9` at moments that come as they may.
fn kills() {
    let place = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(place.path().to_str().unwrap()).unwrap();
    let mut complete = 0;
    for kill in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SAVE, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some are complete before the kill, which then hits another part of a save each time.
        for _ in 0..1 + kill % 3 {
            complete = lines.next().unwrap().unwrap().parse().unwrap();
        }
        std::thread::sleep(Duration::from_micros(kill * 1370));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            complete = complete.max(line.unwrap().parse().unwrap());
        }
        let latest = checkpoints.latest().unwrap().unwrap();
        assert!(latest.damaged.is_empty(), "{:?}", latest.damaged);
        assert!(latest.checkpoint.step() >= complete, "{} of {complete}", latest.checkpoint.step());
        assert_is_state(&latest.checkpoint, latest.checkpoint.step());
        // The killed process's claim is gone with it.
        let keep = Keep { last: 2, best: 0 };
        drop(Saver::new(&checkpoints, Arc::new(Alone), keep).unwrap());
        assert_only(place.path(), &checkpoints.list().unwrap());
    }
    println!("  {complete} checkpoints were complete over 12 kills");
}

/// A disk of one mebibyte, made in a world of its own so that nobody else needs to allow it.
fn full_disk() {
    let place = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]).arg(script);
    command.arg(place.path()).arg(std::env::current_exe().unwrap()).env(FILL, place.path());
    let skip = |why: &str| programs::shared::skip("a_full_disk_costs_only_the_new_checkpoint", why);
    match command.output() {
        Err(error) => skip(&format!("no `unshare` here ({error})")),
        Ok(output) if output.status.success() => {
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "filled");
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("panicked"), "{said}");
            skip(&format!("no disk of its own can be mounted here: {}", said.trim()));
        }
    }
}

fn fill(place: &Path) {
    let (checkpoints, mut saver) = saver(place);
    let save = |saver: &mut Saver, step, mebibytes: usize| {
        let shape = Shape::new(DType::U8, &[("embed", mebibytes << 20)]);
        let mut arrays = state(step);
        let filling = vec![7; shape.bytes()];
        arrays.push(HostArray::whole("filling", Role::Parameter, &shape, filling));
        saver.save_host(step, arrays, metadata(step)).unwrap().wait()
    };
    save(&mut saver, 10, 0).unwrap();
    let before = support::files(place);
    let error = save(&mut saver, 20, 2).unwrap_err().to_string();
    assert!(error.starts_with("the disk is full while writing"), "{error}");
    assert_eq!(support::files(place), before);
    assert_eq!(checkpoints.latest().unwrap().unwrap().checkpoint.step(), 10);
    save(&mut saver, 30, 0).unwrap();
    assert_eq!(checkpoints.list().unwrap(), [10, 30]);
    println!("filled");
}
