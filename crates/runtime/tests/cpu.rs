//! Programs compiled in a worker, cached, and run on virtual CPU devices with the real plugin.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's findings are printed")]

mod support;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use graph::Mesh;
use runtime::environment::{required_environment, restart_with};
use runtime::worker::{self, Outcome, Report};
use runtime::{
    Argument, Array, CacheUse, CompileChoices, Discovery, Error, Fit, PluginKind, Runtime,
    RuntimeOptions, Target,
};
use support::{Folder, add, bytes, floats, matmul};

const DEVICES: usize = 8;

/// Tells a compile worker to write its process id to this file and then to take for ever.
const HANG: &str = "FUNGIBLE_TEST_HANG";

fn main() {
    worker::main_if_worker(|_| {
        if let Some(file) = std::env::var_os(HANG) {
            fs::write(file, std::process::id().to_string()).map_err(|error| error.to_string())?;
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Ok(())
    });
    let Some(location) = support::shared::cpu_plugin("cpu (all tests of this file)") else {
        return;
    };
    if let Some(mut again) = restart_with(&required_environment(&location, DEVICES)) {
        let status = again.status().unwrap();
        runtime::end_process(status.code().unwrap_or(1));
    }
    let open = |folder: &Folder, devices: usize| {
        let discovery = Discovery::new(folder.cache()).with_plugin(PluginKind::Cpu, &location.path);
        let options = RuntimeOptions::new(PluginKind::Cpu).with_cpu_devices(devices);
        Runtime::open(&discovery, &options).unwrap()
    };
    let folder = Folder::new("cpu");
    if std::env::var_os(HANG).is_some() {
        // The parent of a worker that hangs; it is killed.
        let _ = open(&folder, 1).compile(&add(3), &choices());
        unreachable!("the worker takes for ever");
    }
    let one = open(&folder, 1);
    let eight = open(&folder, DEVICES);
    support::run_all(vec![
        ("compiles_in_a_worker_and_runs", Box::new(|| compiles_and_runs(&one))),
        ("takes_memory_of_donated_arrays", Box::new(|| takes_donated_memory(&one))),
        ("uses_filled_memory_in_place", Box::new(|| uses_memory_in_place(&one))),
        ("comes_from_the_cache_next_time", Box::new(|| comes_from_cache(&one, &folder))),
        ("replaces_damaged_cache_entries", Box::new(|| replaces_damaged(&one, &folder))),
        ("replaces_entries_that_do_not_load", Box::new(|| replaces_useless(&one, &folder))),
        ("needs_no_cache_to_compile", Box::new(|| needs_no_cache(&open))),
        ("finds_donations_without_use_when_compiling", Box::new(|| unused_when_compiling(&one))),
        ("finds_donations_without_use_when_running", Box::new(|| unused_in_run(&one, &folder))),
        ("completes_without_blocking", Box::new(|| completes_without_blocking(&one))),
        ("compiles_for_a_number_of_cpu_devices", Box::new(|| compiles_for_cpu(&one))),
        ("shows_the_lines_of_today_in_optimized_programs", Box::new(|| shows_lines(&one))),
        ("a_worker_ends_with_its_parent", Box::new(|| ends_with_parent(&folder))),
        ("explains_refusals", Box::new(|| explains_refusals(&one))),
        ("checks_arguments", Box::new(|| checks_arguments(&one, &eight))),
        ("runs_over_a_mesh", Box::new(|| runs_over_a_mesh(&eight))),
        ("fills_each_shard_once", Box::new(|| fills_each_shard_once(&eight))),
    ]);
}

fn choices() -> CompileChoices {
    CompileChoices::default()
}

fn vector(runtime: &Runtime, program: &graph::Program, values: &[f32]) -> Array {
    let mesh = runtime.mesh(program.mesh.clone()).unwrap();
    let input = &program.inputs[0];
    Array::from_host(&mesh, &input.shape, &input.sharding, &bytes(values)).unwrap()
}

fn compiles_and_runs(runtime: &Runtime) {
    let program = add(3);
    let executable = runtime.compile(&program, &choices()).unwrap();
    assert_eq!(executable.info().cache, CacheUse::Miss);
    let x = vector(runtime, &program, &[1.0, 2.0, 3.0]);
    let y = vector(runtime, &program, &[10.0, 20.0, 30.0]);
    let run = executable.run(vec![Argument::Borrowed(&x), Argument::Borrowed(&y)]).unwrap();
    let outputs = run.wait().unwrap();
    assert_eq!(floats(&outputs[0].to_host().unwrap()), [11.0, 22.0, 33.0]);
    // Borrowed arrays are as they were, though the program could have written over one.
    assert_eq!(floats(&x.to_host().unwrap()), [1.0, 2.0, 3.0]);
}

fn takes_donated_memory(runtime: &Runtime) {
    let program = add(1 << 16);
    let executable = runtime.compile(&program, &choices()).unwrap();
    let memory = executable.info().memory.unwrap();
    assert_eq!(memory.alias_bytes, 4 << 16);
    let values = vec![1.5; 1 << 16];
    let y = vector(runtime, &program, &values);
    let mut sum = vector(runtime, &program, &values);
    let address = sum.shards()[0].buffer.address().unwrap();
    for _ in 0..3 {
        let run = executable.run(vec![sum.into(), (&y).into()]).unwrap();
        sum = run.wait().unwrap().remove(0);
        assert_eq!(sum.shards()[0].buffer.address().unwrap(), address);
    }
    assert_eq!(floats(&sum.to_host().unwrap()), vec![6.0; 1 << 16]);
}

fn uses_memory_in_place(runtime: &Runtime) {
    let program = add(1 << 16);
    let mesh = runtime.mesh(Mesh::single()).unwrap();
    let input = &program.inputs[1];
    let mut address = 0;
    let array = Array::fill(&mesh, &input.shape, &input.sharding, |ranges, memory| {
        assert_eq!(ranges, std::slice::from_ref(&(0..1 << 16)));
        address = memory.as_ptr() as usize;
        memory.copy_from_slice(&bytes(&vec![2.5; 1 << 16]));
        Ok::<(), String>(())
    })
    .unwrap();
    assert_eq!(array.shards()[0].buffer.address().unwrap(), address);
    assert_eq!(floats(&array.to_host().unwrap()), vec![2.5; 1 << 16]);
}

fn comes_from_cache(runtime: &Runtime, folder: &Folder) {
    let program = add(5);
    assert_eq!(runtime.compile(&program, &choices()).unwrap().info().cache, CacheUse::Miss);
    let executable = runtime.compile(&program, &choices()).unwrap();
    assert_eq!(executable.info().cache, CacheUse::Hit);
    let values = vector(runtime, &program, &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let run = executable.run(vec![(&values).into(), (&values).into()]).unwrap();
    assert_eq!(floats(&run.wait().unwrap()[0].to_host().unwrap()), [2.0, 4.0, 6.0, 8.0, 10.0]);
    let left: Vec<_> = fs::read_dir(folder.path().join("temporary")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

fn entries(folder: &Folder) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.path().join("compiled")).unwrap().flatten();
    let entry = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "bin");
    files.map(|file| file.path()).filter(entry).collect()
}

/// Compiles the program and answers the file that this put into the cache.
fn new_entry(runtime: &Runtime, program: &graph::Program, folder: &Folder) -> PathBuf {
    let before = entries(folder);
    runtime.compile(program, &choices()).unwrap();
    entries(folder).into_iter().find(|path| !before.contains(path)).unwrap()
}

fn replaces_damaged(runtime: &Runtime, folder: &Folder) {
    let program = add(7);
    let new = new_entry(runtime, &program, folder);
    let mut content = fs::read(&new).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&new, content).unwrap();
    let executable = runtime.compile(&program, &choices()).unwrap();
    assert!(matches!(executable.info().cache, CacheUse::Replaced(_)));
    assert_eq!(runtime.compile(&program, &choices()).unwrap().info().cache, CacheUse::Hit);
}

/// Changes what a cache entry says, as if it had been written so.
fn rewrite_entry(path: &Path, change: impl FnOnce(&mut Report)) {
    use sha2::Digest;
    const HEADER_BYTES: usize = 8 + 4;
    const DIGEST_BYTES: usize = 64;
    let content = fs::read(path).unwrap();
    let outcome = Outcome::from_bytes(&content[HEADER_BYTES + DIGEST_BYTES..]).unwrap();
    let Outcome::Compiled(mut report) = outcome else { panic!("{outcome:?}") };
    change(&mut report);
    let body = Outcome::Compiled(report).to_bytes().unwrap();
    let digest = sha2::Sha256::digest(&body);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path, [&content[..HEADER_BYTES], digest.as_bytes(), &body].concat()).unwrap();
}

/// Code that the plugin refuses: another build's, say.
fn replaces_useless(runtime: &Runtime, folder: &Folder) {
    let program = add(9);
    let new = new_entry(runtime, &program, folder);
    rewrite_entry(&new, |report| report.executable = b"not an executable".to_vec());
    let executable = runtime.compile(&program, &choices()).unwrap();
    assert!(matches!(executable.info().cache, CacheUse::Replaced(_)));
    assert_eq!(runtime.compile(&program, &choices()).unwrap().info().cache, CacheUse::Hit);
}

/// The folder for compiled programs is a file: nothing can be read from it or kept in it.
fn needs_no_cache(open: &dyn Fn(&Folder, usize) -> Runtime) {
    let folder = Folder::new("cpu-no-cache");
    fs::write(folder.path().join("compiled"), b"in the way").unwrap();
    let runtime = open(&folder, 1);
    let program = add(3);
    let executable = runtime.compile(&program, &choices()).unwrap();
    match &executable.info().cache {
        CacheUse::NotKept(reason) => assert!(reason.contains("compiled"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let x = vector(&runtime, &program, &[1.0, 2.0, 3.0]);
    let run = executable.run(vec![(&x).into(), (&x).into()]).unwrap();
    assert_eq!(floats(&run.wait().unwrap()[0].to_host().unwrap()), [2.0, 4.0, 6.0]);
}

/// `add` whose text does not say that an output takes the donated input's memory.
fn add_without_alias(elements: usize) -> graph::Program {
    let mut program = add(elements);
    program.text = program.text.replace(" {tf.aliasing_output = 0 : i32}", "");
    program.text_without_locations.clone_from(&program.text);
    program
}

fn unused_when_compiling(runtime: &Runtime) {
    let program = add_without_alias(11);
    for _ in 0..2 {
        match runtime.compile(&program, &choices()).unwrap_err() {
            Error::Plugin(pjrt::Error::Donation { donated_bytes, aliased_bytes }) => {
                assert_eq!((donated_bytes, aliased_bytes), (44, 0));
            }
            other => panic!("{other}"),
        }
    }
}

/// As with a plugin that has no figures of what it compiled.
fn unused_in_run(runtime: &Runtime, folder: &Folder) {
    let program = add_without_alias(13);
    let before = entries(folder);
    runtime.compile(&program, &choices()).unwrap_err();
    let new = entries(folder).into_iter().find(|path| !before.contains(path)).unwrap();
    rewrite_entry(&new, |report| report.memory = None);
    let executable = runtime.compile(&program, &choices()).unwrap();
    assert_eq!(executable.info().cache, CacheUse::Hit);
    let y = vector(runtime, &program, &[1.0; 13]);
    // What is only borrowed says nothing about donations.
    executable.run(vec![(&y).into(), (&y).into()]).unwrap().wait().unwrap();
    let x = vector(runtime, &program, &[1.0; 13]);
    match executable.run(vec![x.into(), (&y).into()]).unwrap_err() {
        Error::DonationUnused { program, argument } => {
            assert_eq!((program.as_str(), argument.as_str()), ("add", "x"));
        }
        other => panic!("{other}"),
    }
}

/// Runs a future on this thread, which sleeps until it is woken.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn completes_without_blocking(runtime: &Runtime) {
    let program = add(1 << 16);
    let executable = runtime.compile(&program, &choices()).unwrap();
    let y = vector(runtime, &program, &vec![1.0; 1 << 16]);
    let mut sum = vector(runtime, &program, &vec![0.0; 1 << 16]);
    let mut done = Vec::new();
    // Each run is given what the one before has not finished yet.
    for _ in 0..4 {
        let run = executable.run(vec![sum.into(), (&y).into()]).unwrap();
        done.extend(run.done);
        sum = run.outputs.into_iter().next().unwrap();
    }
    let bytes = block_on(async {
        let transfer = sum.to_host_async().unwrap();
        drop(sum);
        for event in done {
            event.await.unwrap();
        }
        transfer.await.unwrap()
    });
    assert_eq!(floats(&bytes), vec![4.0; 1 << 16]);
}

fn compiles_for_cpu(runtime: &Runtime) {
    let target: Target = "cpu-4".parse().unwrap();
    let program = matmul(&Mesh::new(&[("data", 2), ("tensor", 2)]), 8, 16, 32);
    let choices = CompileChoices { optimized_program: true, ..choices() };
    let compile =
        || runtime.compiler().compile_for(&program, &target, runtime.location(), &choices).unwrap();
    let report = compile();
    assert_eq!(report.fit, Fit::Fits);
    assert_eq!(report.memory.unwrap().argument_bytes, (4 * 16 + 16 * 16) * 4);
    assert!(!report.optimized_program.unwrap().code.is_empty());
    assert_eq!(compile().cache, CacheUse::Hit);
    let other = matmul(&Mesh::new(&[("data", 1), ("tensor", 1)]), 8, 16, 32);
    let compiler = runtime.compiler();
    assert!(compiler.compile_for(&other, &target, runtime.location(), &choices).is_err());
}

/// Code that only moved within its file compiles to the same program, so it comes from the cache; not
/// so where somebody wants to see which lines the program is from.
fn shows_lines(runtime: &Runtime) {
    let target: Target = "cpu-1".parse().unwrap();
    let at_line = |line: usize| {
        let mut program = add(19);
        let plain = ") -> tensor<19xf32>\n    \"func.return\"";
        assert!(program.text.contains(plain), "{}", program.text);
        let located = plain.replace('\n', &format!(" loc(\"src/somewhere.rs\":{line}:9)\n"));
        program.text = program.text.replace(plain, &located);
        program
    };
    let compile = |line: usize, optimized_program: bool| {
        let choices = CompileChoices { optimized_program, ..choices() };
        let program = at_line(line);
        let compiler = runtime.compiler();
        compiler.compile_for(&program, &target, runtime.location(), &choices).unwrap()
    };
    let shown = |line: usize| {
        let report = compile(line, true);
        let code = report.optimized_program.unwrap().code;
        assert!(code.windows(16).any(|bytes| bytes == b"src/somewhere.rs"));
        (code, report.cache)
    };
    assert_eq!(compile(40, false).cache, CacheUse::Miss);
    assert_eq!(compile(41, false).cache, CacheUse::Hit);
    let (before, cache) = shown(40);
    assert_eq!(cache, CacheUse::Miss);
    assert_eq!(shown(40), (before.clone(), CacheUse::Hit));
    let (after, cache) = shown(41);
    assert_eq!(cache, CacheUse::Miss);
    assert_ne!(after, before);
}

/// A worker whose parent is killed while it compiles does not go on compiling.
fn ends_with_parent(folder: &Folder) {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED a_worker_ends_with_its_parent: this system does not list its processes");
        return;
    }
    let file = folder.path().join("worker-id");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .env(HANG, &file)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = loop {
        match fs::read_to_string(&file) {
            Ok(id) if !id.is_empty() => break id,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
        assert!(parent.try_wait().unwrap().is_none(), "the parent ended by itself");
    };
    // A process that has ended and that nobody has collected yet is listed as a zombie.
    let stat = format!("/proc/{id}/stat");
    let lives = || fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(lives());
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Ends as soon as it notices; a worker that does not would hang here.
    while lives() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn explains_refusals(runtime: &Runtime) {
    let mut program = add(3);
    program.text = program.text.replace("stablehlo.add", "stablehlo.nonsense");
    program.text_without_locations = program.text.clone();
    match runtime.compile(&program, &choices()) {
        Err(Error::Refused { message, .. }) => assert!(message.contains("nonsense"), "{message}"),
        other => panic!("{other:?}"),
    }
}

fn checks_arguments(one: &Runtime, eight: &Runtime) {
    let program = add(3);
    let executable = one.compile(&program, &choices()).unwrap();
    let good = vector(one, &program, &[1.0, 2.0, 3.0]);
    let message = |arguments| executable.run(arguments).unwrap_err().to_string();
    let few = message(vec![(&good).into()]);
    assert_eq!(few, "`add` takes 2 arguments and was given 1");
    let longer = vector(one, &add(4), &[0.0; 4]);
    let wrong = message(vec![(&longer).into(), (&good).into()]);
    assert_eq!(wrong, "argument `x` of `add`: it is f32[embed 4], not f32[embed 3]");
    let foreign = vector(eight, &program, &[0.0; 3]);
    assert!(executable.run(vec![(&foreign).into(), (&good).into()]).is_err());
    let donated = message(vec![(&good).into(), vector(one, &program, &[0.0; 3]).into()]);
    assert!(donated.contains("argument `y`") && donated.contains("pass it by reference"));
}

fn runs_over_a_mesh(runtime: &Runtime) {
    for mesh in [
        Mesh::new(&[("data", 2), ("tensor", 4)]),
        Mesh::new(&[("data", 8), ("tensor", 1)]),
        Mesh::new(&[("tensor", 8), ("data", 1)]),
    ] {
        let (batch, embed, mlp) = (8, 3, 16);
        let program = matmul(&mesh, batch, embed, mlp);
        let executable = runtime.compile(&program, &choices()).unwrap();
        let x: Vec<f32> = (0..batch * embed).map(|index| index as f32).collect();
        let w: Vec<f32> = (0..mlp * embed).map(|index| (index % 7) as f32).collect();
        let devices = runtime.mesh(mesh.clone()).unwrap();
        let array = |position: usize, values: &[f32]| {
            let input = &program.inputs[position];
            Array::from_host(&devices, &input.shape, &input.sharding, &bytes(values)).unwrap()
        };
        let run = executable.run(vec![(&array(0, &x)).into(), (&array(1, &w)).into()]).unwrap();
        let outputs = run.wait().unwrap();
        assert_eq!(outputs[0].shards().len(), DEVICES);
        let mut expected = Vec::new();
        for row in x.chunks(embed) {
            for column in w.chunks(embed) {
                expected.push(row.iter().zip(column).map(|(a, b)| a * b).sum::<f32>());
            }
        }
        assert_eq!(floats(&outputs[0].to_host().unwrap()), expected, "mesh {mesh}");
    }
}

fn fills_each_shard_once(runtime: &Runtime) {
    let mesh = Mesh::new(&[("data", 2), ("tensor", 4)]);
    let program = matmul(&mesh, 8, 3, 16);
    let devices = runtime.mesh(mesh).unwrap();
    let input = &program.inputs[1];
    let mut filled = Vec::new();
    let array = Array::fill(&devices, &input.shape, &input.sharding, |ranges, memory| {
        filled.push(ranges[0].clone());
        let rows = ranges[0].clone().flat_map(|row| [row as f32; 3]);
        memory.copy_from_slice(&bytes(&rows.collect::<Vec<_>>()));
        Ok::<(), String>(())
    })
    .unwrap();
    assert_eq!(filled, [0..4, 4..8, 8..12, 12..16]);
    let expected: Vec<f32> = (0..16).flat_map(|row| [row as f32; 3]).collect();
    assert_eq!(floats(&array.to_host().unwrap()), expected);
    let failed = Array::fill(&devices, &input.shape, &input.sharding, |_, _| Err("no such file"));
    assert!(failed.unwrap_err().to_string().contains("no such file"));
}
