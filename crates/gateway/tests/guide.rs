//! The guide says what the program does: its configs are valid, and its table has every key.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use gateway::config::Config;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn guide() -> String {
    fs::read_to_string(root().join("docs/gateway.md")).unwrap()
}

#[test]
fn its_config_is_valid() {
    let guide = guide();
    let config = guide.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = Config::parse(Path::new("gateway.toml"), config).unwrap();
    assert_eq!((config.pools.len(), config.models.len()), (2, 1));
    assert_eq!(config.models[0].pools[0].model, "smollm2-135m");
}

#[test]
fn its_table_has_every_key() {
    let guide = guide();
    let table = guide.split("\n## Config\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let source = fs::read_to_string(root().join("crates/gateway/src/config/file.rs")).unwrap();
    let keys: Vec<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("    pub ")?.split_once(':'))
        .map(|(key, _)| key)
        .collect();
    assert!(keys.len() > 50, "{keys:?}");
    let is_told = |key: &str| {
        // As a key of its own, as a table, or within the table of another.
        [
            format!("`{key}`"),
            format!("[{key}]"),
            format!("[{key}.NAME]"),
            format!("{key} ="),
            format!("{key},"),
            format!("{key} }}"),
        ]
        .iter()
        .any(|form| table.contains(form.as_str()))
    };
    let missing: Vec<&&str> = keys.iter().filter(|key| !is_told(key)).collect();
    assert!(missing.is_empty(), "docs/gateway.md says nothing of {missing:?}");
}
