//! What the README and the guides tell a reader to type exists: commands, flags, files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/binary.rs"]
mod binary;
#[path = "support/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use binary::{Sandbox, root, run};

fn guides() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let mut guides: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    guides.sort();
    guides.push(root().join("README.md"));
    guides.push(root().join("CONTRIBUTING.md"));
    guides
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of all fenced blocks, continued lines joined.
fn typed_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let (mut inside, mut continues) = (false, false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            continue;
        }
        if !inside {
            continue;
        }
        let end = line.trim_end().strip_suffix('\\');
        let part = end.unwrap_or(line).trim();
        match lines.last_mut() {
            Some(last) if continues => *last = format!("{last} {part}"),
            _ => lines.push(part.to_string()),
        }
        continues = end.is_some();
    }
    lines
}

/// The arguments of `fungible` in a line, without a comment behind them.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let line = line.split(" #").next().unwrap_or(line);
    // What pipes into it or is set for it stands before.
    let place = ["cargo run --release -- ", "fungible "].iter().find_map(|start| {
        let at = line.find(start)?;
        let before = &line[..at];
        let begins = before.is_empty()
            || before.ends_with("| ")
            || before.contains('=')
            || before.ends_with("./");
        begins.then_some(at + start.len())
    })?;
    Some(line[place..].split_whitespace().map(str::to_string).collect())
}

#[test]
fn the_readme_opens_with_the_two_commands() {
    let lines = typed_lines(&read(&root().join("README.md")));
    let first = &lines[..2.min(lines.len())];
    assert_eq!(first, ["cargo run --release -- quickstart", "cargo test"]);
}

#[test]
fn every_command_and_flag_exists() {
    let sandbox = Sandbox::new();
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut checked = 0;
    for guide in guides() {
        for line in typed_lines(&read(&guide)) {
            let Some(words) = arguments(&line) else { continue };
            let here = format!("{}: {line}", guide.display());
            let is_name = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase());
            let mut path: Vec<String> = words.iter().take(1).filter(is_name).cloned().collect();
            if ["bench", "gateway", "plan", "plugin", "tenants"].contains(&words[0].as_str()) {
                path.extend(words.get(1).filter(is_name).cloned());
            }
            let help = helps.entry(path.join(" ")).or_insert_with(|| {
                let said = run(sandbox.fungible().args(&path).arg("--help"));
                assert_eq!(said.code, Some(0), "{here}\n{}", said.stderr);
                said.stdout
            });
            for flag in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let flag = flag.split('=').next().unwrap();
                assert!(
                    help.contains(flag),
                    "{here}: {flag} is not a flag of `{}`",
                    path.join(" ")
                );
            }
            checked += 1;
        }
    }
    assert!(checked >= 5, "only {checked} commands were found");
}

/// Links to files of the repository.
#[test]
fn every_linked_file_exists() {
    for guide in guides() {
        let text = read(&guide);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = guide.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {target}, which is not there", guide.display());
        }
    }
}
