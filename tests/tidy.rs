//! The house rules that no compiler checks: which crate may know which, where `unsafe` and printing
//! are, how files begin and how long they may be, and words that must not be in committed text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 700;

/// Which crates of ours a crate may depend on (docs/ARCHITECTURE.md). `cli` stands on all of them.
const ARROWS: [(&str, &[&str]); 10] = [
    ("pjrt", &[]),
    ("graph", &[]),
    ("kernels", &["pjrt"]),
    ("runtime", &["graph", "pjrt"]),
    ("llm", &["graph", "runtime"]),
    // `kernels` for its tests only: who serves registers them, not the engine.
    ("serve", &["graph", "kernels", "llm", "runtime", "web"]),
    ("train", &["graph", "llm", "runtime"]),
    // What it compiles are the programs of these two.
    ("plan", &["graph", "kernels", "llm", "runtime", "serve", "train"]),
    ("web", &[]),
    // It speaks HTTP with servers of any make, so it knows none of ours.
    ("gateway", &["web"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file that is committed, as a path from the root and its bytes.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    assert!(found.len() > 100, "only {} files", found.len());
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    const LEFT_OUT: [&str; 6] = ["target", "runs", ".git", ".venv", "__pycache__", "Cargo.lock"];
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), bytes));
        }
    }
}

/// The Rust files with their text.
fn rust() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.map(|(path, bytes)| (path, String::from_utf8(bytes).unwrap())).collect()
}

/// The lines that are not comments, with their numbers from 1; what follows `//` is cut off.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line.split("//").next().unwrap_or_default()));
    lines.filter(|(_, line)| !line.trim().is_empty())
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part =
        |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        !is_part(line[..at].chars().next_back()) && !is_part(after)
    })
}

fn fail_if_any(wrong: Vec<String>, rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
fn crates_know_only_what_lies_below_them() {
    let mut crates: Vec<String> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    crates.sort();
    let mut wrong = Vec::new();
    for name in &crates {
        let manifest =
            fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| of == name) else {
            assert_eq!(name, "cli", "say in ARROWS what the crate `{name}` may depend on");
            continue;
        };
        let mut inside = false;
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                // `dependencies`, `dev-dependencies`, those of a target, and a table for each.
                inside = line.contains("dependencies");
            }
            let key = line.trim_start_matches('[').trim_start_matches("dependencies.");
            let key: &str = key.split(['.', '=', ' ', ']']).next().unwrap_or_default();
            let key = key.strip_prefix("fungible-").unwrap_or(key);
            if inside && crates.iter().any(|other| other == key) && !allowed.contains(&key) {
                wrong.push(format!("crates/{name}/Cargo.toml: {line}"));
            }
        }
    }
    fail_if_any(wrong, "these dependencies point the wrong way");
}

/// `graph` is pure: whatever it needs of the world comes in through its arguments.
#[test]
fn the_graph_does_no_input_or_output() {
    let worldly = ["fs", "net", "env", "process", "io", "thread", "time"];
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        if path.starts_with("crates/graph/src") {
            for (number, line) in code(&text) {
                if worldly.iter().any(|module| has_word(line, &format!("std::{module}"))) {
                    wrong.push(format!("{path}:{number}: {}", line.trim()));
                }
            }
        }
    }
    fail_if_any(wrong, "crates/graph must not reach into the world");
}

/// In `train` everything above the trait `Store` blocks; serving is another matter.
#[test]
fn few_files_know_an_async_runtime_and_http() {
    let crates = ["tokio", "object_store", "reqwest", "rustls"];
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        let may = [
            "crates/train/src/checkpoint/store/object.rs",
            "crates/serve/src/",
            "crates/web/src/",
            "crates/gateway/src/",
            "crates/cli/src/commands/bench/backend.rs",
            "crates/cli/src/commands/gateway",
            "crates/cli/src/commands/serve.rs",
            "crates/cli/src/commands/tenants.rs",
        ];
        let is_one = may.iter().any(|start| path.starts_with(start));
        if is_one || !path.starts_with("crates/") || !path.contains("/src/") {
            continue;
        }
        for (number, line) in code(&text) {
            if crates.iter().any(|name| line.contains(&format!("{name}::"))) {
                wrong.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    fail_if_any(
        wrong,
        "only serving and crates/train/src/checkpoint/store/object.rs may use these",
    );
}

#[test]
fn only_pjrt_and_kernels_are_unsafe() {
    let allowed = ["pjrt", "kernels"];
    let word = concat!("un", "safe");
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        if allowed.iter().any(|name| path.starts_with(&format!("crates/{name}/"))) {
            continue;
        }
        for (number, line) in code(&text).filter(|(_, line)| has_word(line, word)) {
            wrong.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    fail_if_any(wrong, "only crates/pjrt and crates/kernels may use it");
    // The compiler forbids it wherever the workspace's lints apply.
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        let inherits = manifest.contains("[lints]\nworkspace = true");
        let is_allowed = allowed.iter().any(|name| path.ends_with(name));
        assert_eq!(inherits, !is_allowed, "{}", path.display());
    }
}

#[test]
fn only_the_console_prints() {
    let macros = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        // The console writes without these macros, which panic when they cannot.
        if !path.starts_with("crates/") || !path.contains("/src/") {
            continue;
        }
        // Unit tests stand at the end of a file.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code(text) {
            if macros.iter().any(|name| has_word(line, name)) {
                wrong.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    fail_if_any(wrong, "only crates/cli/src/console.rs prints");
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        if !text.starts_with("//! ") {
            wrong.push(path);
        }
    }
    fail_if_any(wrong, "these files do not open with `//!`");
}

#[test]
fn modules_are_named_after_what_they_do() {
    let empty_names = ["utils", "util", "common", "helpers", "helper", "misc"];
    let mut wrong = Vec::new();
    for (path, text) in rust() {
        let mut parts = path.trim_end_matches(".rs").split('/');
        let file = parts.any(|part| empty_names.contains(&part));
        let is_inline = |line: &str| {
            let name = line.trim().trim_start_matches("pub ").strip_prefix("mod ");
            let name = name.and_then(|rest| rest.split([' ', ';']).next());
            name.is_some_and(|name| empty_names.contains(&name))
        };
        if file || code(&text).any(|(_, line)| is_inline(line)) {
            wrong.push(path);
        }
    }
    fail_if_any(wrong, "these modules have names that say nothing");
}

#[test]
fn files_are_short() {
    let sources = [".rs", ".py", ".md", ".toml", ".c", ".sh"];
    let mut wrong = Vec::new();
    for (path, bytes) in files() {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let script = bytes.starts_with(b"#!");
        if (script || sources.iter().any(|end| path.ends_with(end))) && lines > LINES_MAX {
            wrong.push(format!("{path}: {lines} lines"));
        }
    }
    fail_if_any(wrong, &format!("these files have more than {LINES_MAX} lines"));
}

/// Places of one machine, and hosts that a mirror stands in for elsewhere: pip knows where to go.
#[test]
fn no_text_names_machines_or_registries() {
    let forbidden = [
        concat!("/", "work/"),
        concat!("/", "root/"),
        concat!("/tmp/", "scratch"),
        concat!("/", "home/"),
        concat!("py", "pi.org"),
        concat!("python", "hosted.org"),
        concat!("crates", ".io"),
        concat!("npm", "js."),
        concat!("anaconda", ".org"),
    ];
    let mut wrong = Vec::new();
    for (path, bytes) in files() {
        // Weights and other data are no text.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            for word in forbidden.iter().filter(|word| line.contains(**word)) {
                let line: String = line.trim().chars().take(120).collect();
                wrong.push(format!("{path}:{number}: {word} in {line}"));
            }
        }
    }
    fail_if_any(wrong, "these lines name a machine or a package registry");
}
