//! A tiny run of `fungible train`: its text, its config, its process, and what it leaves behind. Steps
//! take milliseconds, and what it starts from and learns is the same each time.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use train::checkpoint::{Checkpoint, Checkpoints};

use super::binary::{Sandbox, fungible_with_kept_cache};

/// Steps of a whole run.
pub const STEPS: usize = 40;
/// Steps between its checkpoints.
pub const EVERY: usize = 20;

/// The learning rate does not depend on how many steps there are to be, so that a run may end anywhere.
const CONFIG: &str = r#"
[model]
architecture = "llama"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
vocabulary_size = 300

[data]
sequence_length = 32
validation_fraction = 0.1

[[data.sources]]
path = "TEXT"

[training]
steps = 40
batch_size = 8
eval_every = 20
eval_batches = 2

[optimizer]
learning_rate = 1e-2

[schedule]
kind = "constant"
warmup_steps = 5

[checkpoint]
every = 20
"#;

/// Words in an order that looks like nothing but is always the same.
pub fn words(count: usize) -> String {
    const WORDS: [&str; 24] = [
        "rain", "falls", "on", "the", "hill", "and", "a", "river", "carries", "it", "to", "sea",
        "where", "wind", "lifts", "water", "into", "clouds", "that", "wander", "back", "over",
        "old", "stones",
    ];
    let mut text = String::new();
    let mut state = 1_u64;
    for place in 1..=count {
        // Knuth's MMIX.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += WORDS[(state >> 33) as usize % WORDS.len()];
        text += if place % 12 == 0 { ".\n" } else { " " };
    }
    text
}

/// A place with a config and a text.
pub struct TinyRun {
    pub sandbox: Sandbox,
    test: String,
}

impl TinyRun {
    /// `None` after saying that `test` is skipped.
    pub fn new(test: &str) -> Option<TinyRun> {
        fungible_with_kept_cache(test)?;
        let run = TinyRun { sandbox: Sandbox::new(), test: test.to_string() };
        fs::write(run.sandbox.path("text.txt"), words(6000)).unwrap();
        let text = run.sandbox.path("text.txt").to_str().unwrap().to_string();
        fs::write(run.config(), CONFIG.replace("TEXT", &text)).unwrap();
        Some(run)
    }

    pub fn config(&self) -> PathBuf {
        self.sandbox.path("run.toml")
    }

    pub fn change_config(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), change(text)).unwrap();
    }

    /// Trains into the folder `output`.
    pub fn train(&self, output: &str, arguments: &[&str]) -> Command {
        let mut command = fungible_with_kept_cache(&self.test).unwrap();
        self.arguments(&mut command, output, arguments);
        command
    }

    /// The same with an empty cache of its own.
    pub fn train_anew(&self, output: &str, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.fungible_on_cpu(&self.test).unwrap();
        self.arguments(&mut command, output, arguments);
        command
    }

    fn arguments(&self, command: &mut Command, output: &str, arguments: &[&str]) {
        let folder = format!("output.folder={}", self.sandbox.path(output).display());
        command.args(["train", "--device", "cpu", "--set", &folder]).args(arguments);
        command.arg(self.config()).current_dir(self.sandbox.path(""));
    }

    pub fn left(&self, output: &str) -> Left {
        Left { folder: self.sandbox.path(output) }
    }

    /// What is left after the run was started and ended well.
    pub fn finish(&self, output: &str, arguments: &[&str]) -> (Left, super::binary::Said) {
        let said = super::binary::run(&mut self.train(output, arguments));
        assert_eq!(said.code, Some(0), "{said:?}");
        (self.left(output), said)
    }
}

/// What a run leaves behind.
#[derive(Clone)]
pub struct Left {
    pub folder: PathBuf,
}

impl Left {
    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::open(self.folder.join("checkpoints").to_str().unwrap()).unwrap()
    }

    /// The steps of which there are checkpoints; none if the folder is not there yet.
    pub fn saved_steps(&self) -> Vec<u64> {
        self.checkpoints().list().unwrap()
    }

    /// The newest checkpoint, which must be intact.
    pub fn newest(&self) -> Option<Checkpoint> {
        let latest = self.checkpoints().latest().unwrap()?;
        assert!(latest.damaged.is_empty(), "{:?}", latest.damaged);
        Some(latest.checkpoint)
    }

    /// The bytes of everything in the checkpoint of a step: weights and the optimizer's memory.
    pub fn arrays(&self, step: usize) -> BTreeMap<String, Vec<u8>> {
        let checkpoint = self.checkpoints().at(step as u64).unwrap();
        let read = |entry: &train::checkpoint::ArrayEntry| {
            let sizes: Vec<usize> = entry.axes.iter().map(|&(_, size)| size).collect();
            let whole: Vec<std::ops::Range<usize>> = sizes.iter().map(|&size| 0..size).collect();
            let bytes = sizes.iter().product::<usize>() * entry.dtype.bytes();
            let mut bytes = vec![0; bytes];
            checkpoint.read(&entry.name, &whole, &mut bytes).unwrap();
            (entry.name.clone(), bytes)
        };
        checkpoint.arrays().iter().map(read).collect()
    }

    /// The lines of `metrics.jsonl`; a torn last line is left out.
    pub fn records(&self) -> Vec<Value> {
        let text = fs::read(self.folder.join("metrics.jsonl")).unwrap_or_default();
        let lines =
            text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    pub fn losses(&self) -> Vec<f64> {
        self.records().iter().map(|record| record["loss"].as_f64().unwrap()).collect()
    }

    /// A copy, as it is now.
    pub fn copy_to(&self, other: &Left) {
        copy(&self.folder, &other.folder);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Demands that two runs made the same steps: every line of metrics but for times, and every bit of
/// the checkpoint of a step.
pub fn assert_same(found: &Left, expected: &Left, step: usize, what: &str) {
    let timeless = |left: &Left| -> Vec<Value> {
        let mut records = left.records();
        for record in &mut records {
            let record = record.as_object_mut().unwrap();
            for key in ["seconds", "tokens_per_second", "mfu", "resumed"] {
                record.remove(key);
            }
        }
        records
    };
    let (found_records, expected_records) = (timeless(found), timeless(expected));
    for (found, expected) in found_records.iter().zip(&expected_records) {
        assert_eq!(found, expected, "{what}");
    }
    assert_eq!(found_records.len(), expected_records.len(), "{what}");
    let (found, expected) = (found.arrays(step), expected.arrays(step));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let has = |prefix: &str| expected.keys().any(|name| name.starts_with(prefix));
    assert!(has("model/") && has("adam.m/") && has("adam.v/"), "{:?}", expected.keys());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{what}: {name} differs");
    }
}

/// A process under way, whose output goes to files.
pub struct Running {
    pub child: Child,
    output: PathBuf,
}

impl Running {
    pub fn start(command: &mut Command, output: PathBuf) -> Running {
        command.stdin(Stdio::null());
        command.stdout(File::create(output.with_extension("out")).unwrap());
        command.stderr(File::create(output.with_extension("err")).unwrap());
        Running { child: command.spawn().unwrap(), output }
    }

    /// Waits until `condition` holds; false if the process ended before.
    pub fn wait_until(&mut self, mut condition: impl FnMut() -> bool) -> bool {
        loop {
            if condition() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return condition();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// `kill -9`; false if the process had ended already.
    pub fn kill(&mut self) -> bool {
        let runs = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        runs && status.code().is_none()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self) -> super::binary::Said {
        let process = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &process]).status().unwrap();
        assert!(sent.success(), "the process is gone: {}", self.text("err"));
        let code = self.child.wait().unwrap().code();
        super::binary::Said { code, stdout: self.text("out"), stderr: self.text("err") }
    }

    pub fn text(&self, extension: &str) -> String {
        fs::read_to_string(self.output.with_extension(extension)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails leaves no process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
