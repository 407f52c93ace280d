//! What becomes of a compile worker that crashes, hangs or takes too much memory. The workers of
//! this file misbehave on request instead of compiling, so no plugin is needed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test's findings are printed")]

mod support;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use runtime::worker::{self, Job, JobDevice, WorkerError, WorkerLimits};
use runtime::{
    CacheFolder, CompileChoices, Compiler, PluginKind, PluginLocation, PluginSource, Target,
};
use support::{Folder, sum};

/// Says how a worker of this file is to misbehave.
const MISBEHAVE: &str = "FUNGIBLE_TEST_MISBEHAVE";

fn main() {
    if std::env::var_os("FUNGIBLE_COMPILE_WORKER").is_some()
        && let Ok(how) = std::env::var(MISBEHAVE)
    {
        misbehave(&how);
    }
    if std::env::args().nth(1).as_deref() == Some("start-a-worker-and-report-it") {
        start_a_worker_and_report_it();
    }
    worker::main_if_worker(|_| Ok(()));
    if std::env::args().nth(1).as_deref() == Some("compile-twice") {
        return compile_twice(&std::env::args().nth(2).unwrap());
    }
    let folder = Folder::new("worker");
    support::run_all(vec![
        ("a_crash_is_an_error_with_its_last_words", Box::new(|| crash(&folder))),
        ("a_crash_that_would_recur_is_kept", Box::new(|| crash_is_kept(&folder))),
        ("an_exit_is_an_error_with_its_code", Box::new(|| exit(&folder))),
        ("the_time_limit_holds", Box::new(|| time_limit(&folder))),
        ("a_worker_that_reads_nothing_is_stopped_too", Box::new(|| reads_nothing(&folder))),
        ("the_memory_limit_holds", Box::new(|| memory_limit(&folder))),
        ("a_worker_ends_with_its_parent", Box::new(ends_with_parent)),
        ("a_worker_that_cannot_write_says_so", Box::new(|| cannot_write(&folder))),
        ("an_answer_to_another_job_is_not_taken", Box::new(|| another_answer(&folder))),
        ("a_worker_that_has_its_outcome_ends_well", Box::new(|| ends_well(&folder))),
        ("a_plugin_that_is_not_there_is_a_refusal", Box::new(|| no_plugin(&folder))),
        ("nothing_is_left_behind", Box::new(|| nothing_left(&folder))),
    ]);
}

fn misbehave(how: &str) {
    match how {
        "abort" => {
            eprintln!("check failed: the impossible happened");
            std::process::abort();
        }
        "abort-for-memory" => {
            eprintln!("terminate called after throwing an instance of 'std::bad_alloc'");
            std::process::abort();
        }
        "exit" => runtime::end_process(3),
        "hang" => hang(),
        // The worker itself goes on, with no place for its outcome.
        "lose-folder" => std::fs::remove_dir_all(result_path().parent().unwrap()).unwrap(),
        "answer-another" => {
            let outcome = worker::Outcome::Compiled(worker::Report::default());
            let answer = [&[b'0'; 32][..], &outcome.to_bytes().unwrap()].concat();
            let partial = result_path().with_extension("partial");
            std::fs::write(&partial, answer).unwrap();
            std::fs::rename(&partial, result_path()).unwrap();
            hang();
        }
        "grow" => {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            loop {
                // Written to, so that the memory is resident.
                blocks.push(vec![1; 16 << 20]);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        other => panic!("unknown misbehaviour {other}"),
    }
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn result_path() -> PathBuf {
    std::env::var_os("FUNGIBLE_COMPILE_RESULT").unwrap().into()
}

fn job(program: String) -> Job {
    Job {
        plugin: "no-such-plugin.so".into(),
        device: JobDevice::Client { options: Vec::new() },
        optimized_program: false,
        executable: false,
        options: Vec::new(),
        program,
    }
}

fn limits() -> WorkerLimits {
    WorkerLimits { timeout: Duration::from_secs(600), memory_bytes: None }
}

fn run(how: &str, limits: WorkerLimits, program: String, folder: &Folder) -> WorkerError {
    let environment = [(MISBEHAVE.to_string(), how.to_string())];
    worker::run(&job(program), &environment, limits, &folder.cache()).unwrap_err()
}

fn crash(folder: &Folder) {
    let message = run("abort", limits(), String::new(), folder).to_string();
    assert!(message.contains("check failed: the impossible happened"), "{message}");
    if cfg!(unix) {
        assert!(message.contains("SIGABRT"), "{message}");
    }
}

/// Has a compiler that misbehaves as this process's environment says compile the same twice, and prints
/// what becomes of it.
fn compile_twice(folder: &str) {
    let compiler = Compiler::new(CacheFolder::at(folder)).unwrap();
    let location = PluginLocation {
        kind: PluginKind::Cpu,
        // Any file: it is part of the key, and no worker gets as far as to load it.
        path: PathBuf::from(folder).join("plugin"),
        source: PluginSource::Given,
        version: None,
        cuda_folder: None,
    };
    std::fs::write(&location.path, "a plugin").unwrap();
    let target: Target = "cpu-2".parse().unwrap();
    let program = sum(&graph::Mesh::new(&[("data", 2)]), 4);
    for _ in 0..2 {
        let choices = CompileChoices::default();
        let report = compiler.compile_for(&program, &target, &location, &choices);
        println!("{}", report.unwrap_err());
    }
}

fn crash_is_kept(folder: &Folder) {
    let said = |how: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let cache = folder.path().join(how);
        std::fs::create_dir_all(&cache).unwrap();
        let output = command.arg("compile-twice").arg(cache).env(MISBEHAVE, how).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let recurs = said("abort");
    assert_eq!(recurs.matches("the compiler crashed").count(), 2, "{recurs}");
    assert_eq!(recurs.matches("the impossible happened").count(), 2, "{recurs}");
    assert_eq!(recurs.matches("less than a minute ago, and was not asked again").count(), 1);
    // The next time there may be enough of it.
    let memory = said("abort-for-memory");
    assert_eq!(memory.matches("the compiler crashed").count(), 2, "{memory}");
    assert_eq!(memory.matches("not asked again").count(), 0, "{memory}");
}

fn exit(folder: &Folder) {
    let message = run("exit", limits(), String::new(), folder).to_string();
    assert!(message.contains('3'), "{message}");
}

fn time_limit(folder: &Folder) {
    let limits = WorkerLimits { timeout: Duration::from_millis(300), ..limits() };
    let error = run("hang", limits, String::new(), folder);
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error}");
}

fn reads_nothing(folder: &Folder) {
    let limits = WorkerLimits { timeout: Duration::from_millis(300), ..limits() };
    // More than a pipe holds.
    let error = run("hang", limits, "x".repeat(1 << 20), folder);
    assert!(matches!(error, WorkerError::TimedOut { .. }), "{error}");
}

fn memory_limit(folder: &Folder) {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED the_memory_limit_holds: this system does not tell a process's memory");
        return;
    }
    let limit_bytes = 200 << 20;
    let limits = WorkerLimits { memory_bytes: Some(limit_bytes), ..limits() };
    match run("grow", limits, String::new(), folder) {
        WorkerError::OverMemory { used_bytes, .. } => assert!(used_bytes > limit_bytes),
        other => panic!("{other}"),
    }
}

/// As on a full disk.
fn cannot_write(folder: &Folder) {
    let error = run("lose-folder", limits(), String::new(), folder);
    assert!(matches!(error, WorkerError::CannotWrite { .. }), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
}

/// What a worker of another process left in the same place.
fn another_answer(folder: &Folder) {
    let error = run("answer-another", limits(), String::new(), folder);
    assert!(matches!(error, WorkerError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("another job"), "{error}");
}

/// The end of its input is for a worker that is still compiling.
fn ends_well(folder: &Folder) {
    let result = folder.path().join("result");
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .env("FUNGIBLE_COMPILE_WORKER", "1")
        .env("FUNGIBLE_COMPILE_RESULT", &result)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = worker.stdin.take().unwrap();
    let nonce = b"nonce";
    input.write_all(&(nonce.len() as u64).to_le_bytes()).unwrap();
    input.write_all(nonce).unwrap();
    job(String::new()).write(&mut input).unwrap();
    while !result.exists() {
        assert!(worker.try_wait().unwrap().is_none_or(|status| status.success()));
    }
    drop(input);
    assert!(worker.wait().unwrap().success());
    let answer = std::fs::read(&result).unwrap();
    let outcome = worker::Outcome::from_bytes(answer.strip_prefix(nonce).unwrap()).unwrap();
    assert!(matches!(outcome, worker::Outcome::Refused { .. }), "{outcome:?}");
}

fn no_plugin(folder: &Folder) {
    match worker::run(&job(String::new()), &[], limits(), &folder.cache()).unwrap() {
        worker::Outcome::Refused { message, .. } => {
            assert!(message.contains("no-such-plugin.so"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

/// A parent that is killed takes its worker with it: here, a real worker that waits for a job which
/// never comes, because the parent has sent half of it.
fn start_a_worker_and_report_it() -> ! {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .env("FUNGIBLE_COMPILE_WORKER", "1")
        .env("FUNGIBLE_COMPILE_RESULT", "never-written")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Taken out, since waiting would close it.
    let mut input = worker.stdin.take().unwrap();
    input.write_all(&[1, 0]).unwrap();
    println!("{}", worker.id());
    std::io::stdout().flush().unwrap();
    worker.wait().unwrap();
    drop(input);
    unreachable!("the worker waits for the rest of its job");
}

fn ends_with_parent() {
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED a_worker_ends_with_its_parent: this system does not list its processes");
        return;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .arg("start-a-worker-and-report-it")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    let stdout = parent.stdout.as_mut().unwrap();
    while !id.ends_with('\n') {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        id.push(char::from(byte[0]));
    }
    let worker = std::path::PathBuf::from(format!("/proc/{}/stat", id.trim()));
    // A process that has ended and that nobody has collected yet is listed as a zombie.
    let lives = || std::fs::read_to_string(&worker).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(lives());
    parent.kill().unwrap();
    parent.wait().unwrap();
    // Ends as soon as it notices; a worker that does not would hang here.
    while lives() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn nothing_left(folder: &Folder) {
    let left = std::fs::read_dir(folder.path().join("temporary")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
