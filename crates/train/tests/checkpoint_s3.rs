//! Checkpoints in a bucket, against a server that speaks S3's protocol: moto, a Python package, which is
//! installed into the build folder the first time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test's findings are printed")]

#[path = "../../../tests/support/mod.rs"]
mod shared;
#[path = "support/checkpoint.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use graph::{DType, Role, Shape};
use support::{assert_is_state, metadata, state};
use train::checkpoint::{
    Alone, CheckpointError, Checkpoints, HostArray, Keep, Metadata, Saver, store,
};

/// Set in the process that runs the tests: what the store reads from the environment has to be there
/// before it starts.
const READY: &str = "FUNGIBLE_TEST_S3";

const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];

const BUCKET: &str = "checkpoints";

fn main() {
    if std::env::var_os(READY).is_some() {
        shared::run_all(vec![
            ("a_bucket_holds_checkpoints", Box::new(round_trip)),
            ("damaged_objects_fall_back", Box::new(damage)),
            ("leftovers_are_removed_from_a_bucket", Box::new(leftovers)),
            ("large_files_go_in_parts_and_are_read_in_ranges", Box::new(large)),
            ("what_is_wrong_with_a_bucket_is_said", Box::new(refusals)),
        ]);
    }
    let server = match server() {
        Ok(server) => server,
        Err(why) => return shared::skip("checkpoint_s3 (all tests of this file)", &why),
    };
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(std::env::args_os().skip(1)).env(READY, "1");
    // Nothing of the user's own accounts.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            tests.env_remove(name);
        }
    }
    tests
        .env("AWS_ENDPOINT", format!("http://{}", server.address))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1");
    let status = tests.status().unwrap();
    drop(server);
    runtime::end_process(status.code().unwrap_or(1));
}

struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Installs and starts the server and makes the bucket, or says why it cannot be had.
fn server() -> Result<Server, String> {
    let program = install()?;
    // Free a moment ago, which is as good as it gets.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("the S3 server does not start ({error})"))?;
    let server = Server { process, address: format!("127.0.0.1:{port}") };
    for _ in 0..600 {
        if let Ok(mut connection) = TcpStream::connect(&server.address) {
            let address = &server.address;
            let request = format!(
                "PUT /{BUCKET} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            connection.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            return Ok(server);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err("the S3 server does not answer".to_string())
}

/// A virtual environment in the build folder, complete once the file that says so is there.
fn install() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("s3-server");
    let program = folder.join("bin").join("moto_server");
    let complete = folder.join("installed");
    let packages = PACKAGES.join(" ");
    if std::fs::read_to_string(&complete).is_ok_and(|installed| installed == packages) {
        return Ok(program);
    }
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = folder.join("bin").join("pip");
    run(Command::new(pip)
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(PACKAGES))?;
    std::fs::write(complete, packages).unwrap();
    Ok(program)
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("no `{name}` here ({error})"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    if output.status.success() { Ok(()) } else { Err(format!("`{name}` failed: {last}")) }
}

fn open(name: &str) -> Checkpoints {
    Checkpoints::open(&format!("s3://{BUCKET}/runs/{name}/")).unwrap()
}

fn saver(checkpoints: &Checkpoints, keep: Keep) -> Saver {
    Saver::new(checkpoints, Arc::new(Alone), keep).unwrap()
}

fn save(saver: &mut Saver, step: u64) {
    saver.save_host(step, state(step), metadata(step)).unwrap().wait().unwrap();
}

fn round_trip() {
    let checkpoints = open("round-trip");
    assert!(checkpoints.latest().unwrap().is_none());
    let mut saver = saver(&checkpoints, Keep { last: 2, best: 0 });
    for step in [10, 20, 30] {
        save(&mut saver, step);
    }
    assert_eq!(checkpoints.list().unwrap(), [20, 30]);
    let latest = checkpoints.latest().unwrap().unwrap();
    assert_is_state(&latest.checkpoint, 30);
    assert_eq!(latest.checkpoint.location(), "s3://checkpoints/runs/round-trip/step-00000030");
    // Another run's place is another place.
    assert!(open("round").latest().unwrap().is_none());
}

fn damage() {
    let checkpoints = open("damage");
    save(&mut saver(&checkpoints, Keep::ALL), 10);
    let bucket = store::open(&checkpoints.location()).unwrap();
    let change = |change: &dyn Fn(&mut Vec<u8>), reason: &str| {
        save(&mut saver(&checkpoints, Keep::ALL), 20);
        let files = bucket.files("step-00000020").unwrap();
        let file = files.iter().find(|name| name.starts_with("data-")).unwrap();
        let path = format!("step-00000020/{file}");
        let mut bytes = vec![0; bucket.size_bytes(&path).unwrap().unwrap() as usize];
        bucket.read(&path, 0, &mut bytes).unwrap();
        change(&mut bytes);
        bucket.delete(&path).unwrap();
        if !bytes.is_empty() {
            bucket.put(&path, &bytes).unwrap();
        }
        let latest = checkpoints.latest().unwrap().unwrap();
        assert_is_state(&latest.checkpoint, 10);
        assert!(latest.damaged[0].reason.contains(reason), "{:?}", latest.damaged);
    };
    change(&|bytes| bytes[1500] ^= 1, "the checksum of");
    change(&|bytes| bytes.truncate(1000), "has 1000 bytes and was saved with");
    change(&Vec::clear, "does not exist");
}

fn leftovers() {
    let checkpoints = open("leftovers");
    save(&mut saver(&checkpoints, Keep::ALL), 10);
    let bucket = store::open(&checkpoints.location()).unwrap();
    bucket.put("step-00000020/data-00000-of-00001-0badcafe.safetensors", b"unfinished").unwrap();
    bucket.put("step-00000020/notes.txt", b"precious").unwrap();
    bucket.put("step-00000010/data-00000-of-00001-0badcafe.safetensors", b"unfinished").unwrap();
    drop(saver(&checkpoints, Keep::ALL));
    assert_eq!(bucket.files("step-00000020").unwrap(), ["notes.txt"]);
    assert_eq!(bucket.files("step-00000010").unwrap().len(), 2);
    assert_is_state(&checkpoints.latest().unwrap().unwrap().checkpoint, 10);
}

fn large() {
    let checkpoints = open("large");
    let shape = Shape::new(DType::F32, &[("vocab", 5000), ("embed", 2048)]);
    let bytes: Vec<u8> = (0..shape.bytes() / 4).flat_map(|at| (at as u32).to_le_bytes()).collect();
    let array = HostArray::whole("model/embed", Role::Parameter, &shape, bytes.clone());
    let mut saver = saver(&checkpoints, Keep::ALL);
    saver.save_host(1, vec![array], Metadata::default()).unwrap().wait().unwrap();
    let checkpoint = checkpoints.latest().unwrap().unwrap().checkpoint;
    for ranges in [[0..5000, 0..2048], [17..4321, 0..2048], [0..5000, 100..300], [4999..5000, 0..1]]
    {
        let length = ranges.iter().map(ExactSizeIterator::len).product::<usize>() * 4;
        let (mut found, mut expected) = (vec![0; length], vec![1; length]);
        checkpoint.read("model/embed", &ranges, &mut found).unwrap();
        runtime::layout::cut(&bytes, &shape.sizes(), 4, &ranges, &mut expected);
        assert!(found == expected, "{ranges:?}");
    }
}

fn refusals() {
    let elsewhere = Checkpoints::open("s3://no-such-bucket/runs").unwrap();
    let said = |error: CheckpointError| {
        let mut text = error.to_string();
        let mut error: &dyn std::error::Error = &error;
        while let Some(source) = error.source() {
            text = format!("{text}: {source}");
            error = source;
        }
        assert!(text.contains("s3://no-such-bucket/runs"), "{text}");
        assert!(text.contains("NoSuchBucket"), "{text}");
    };
    said(elsewhere.latest().unwrap_err());
    let saver = Saver::new(&elsewhere, Arc::new(Alone), Keep::ALL);
    said(saver.err().unwrap());
}
