//! Runs the `fungible` binary the way a user's shell does, in a place of its own.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::shared;

/// An empty folder with an empty cache in it; both go away with the test.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The binary, with this cache and none of the user's own settings.
    pub fn fungible(&self) -> Command {
        let mut command = fungible(&self.cache());
        for variable in ["FUNGIBLE_CPU_PLUGIN", "FUNGIBLE_PYTHON", "PIP_FIND_LINKS"] {
            command.env_remove(variable);
        }
        command
    }

    /// The same, with the CPU plugin, or `None` after saying that `test` is skipped.
    pub fn fungible_on_cpu(&self, test: &str) -> Option<Command> {
        let plugin = shared::cpu_plugin(test)?;
        let mut command = self.fungible();
        command.env("FUNGIBLE_CPU_PLUGIN", plugin.path);
        Some(command)
    }

    /// A copy of one of the tiny checkpoints.
    pub fn model(&self, name: &str) -> PathBuf {
        let copy = self.path(name);
        shared::copy_model(&tiny_model(name), &copy);
        copy
    }

    /// Demands that nothing half-done is left in the cache: no work in progress, no downloads, no
    /// partial files.
    pub fn assert_clean(&self) {
        let left: Vec<PathBuf> = files(&self.cache())
            .into_iter()
            .filter(|path| {
                let inside = |name: &str| path.starts_with(self.cache().join(name));
                let partial = path.extension().is_some_and(|extension| extension == "tmp");
                partial
                    || inside("temporary")
                    || inside("downloads")
                    || inside("plugins")
                    || inside("models")
            })
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let below = |entry: std::fs::DirEntry| match entry.path() {
        path if path.is_dir() => files(&path),
        path => vec![path],
    };
    entries.flatten().flat_map(below).collect()
}

/// The binary with this cache folder.
pub fn fungible(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fungible"));
    command.env("FUNGIBLE_CACHE", cache).env("NO_COLOR", "1");
    command
}

/// The binary with the CPU plugin and a cache that is kept in the build folder, so that a second run
/// of the tests need not compile; `None` after saying that `test` is skipped.
pub fn fungible_with_kept_cache(test: &str) -> Option<Command> {
    let plugin = shared::cpu_plugin(test)?;
    let mut command = fungible(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("fungible"));
    command.env("FUNGIBLE_CPU_PLUGIN", plugin.path);
    Some(command)
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A tiny checkpoint under `tests/goldens`.
pub fn tiny_model(name: &str) -> PathBuf {
    root().join("tests/goldens/models").join(name)
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs to the end with nothing on standard input.
pub fn run(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).output().unwrap().into()
}

/// Runs to the end with `input` on standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A child that answers before it has read everything must not be waited for.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.into()
}

impl Said {
    /// What a command that succeeded printed.
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The one JSON value that a command that succeeded printed.
    pub fn json(self) -> serde_json::Value {
        let stdout = self.success();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// The one sentence with which a command failed, and its exit code.
    pub fn failure(&self) -> (String, i32) {
        let said = format!("{:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        let code = self.code.unwrap_or_else(|| panic!("ended by a signal: {said}"));
        assert!((1..=3).contains(&code), "{said}");
        assert!(!self.stderr.contains("panicked"), "{said}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let errors: Vec<&str> =
            lines.iter().filter_map(|line| line.strip_prefix("error: ")).collect();
        assert_eq!(errors.len(), 1, "not one error: {said}");
        assert!(lines.last().is_some_and(|line| line.starts_with("error: ")), "{said}");
        (errors[0].to_string(), code)
    }

    /// As [`Said::failure`], demanding that the sentence holds each of `parts`.
    pub fn fails_with(&self, parts: &[&str]) {
        let (message, _) = self.failure();
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
        assert!(!message.starts_with(char::is_uppercase), "not lower case: {message}");
    }
}
