//! What can be wrong with a config.

use std::io;
use std::path::PathBuf;

/// Why a config cannot be used. Places are ` (line 3)` or ` (--set a=b)`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the config {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot read the config {path}: {what}; give a TOML file, such as examples/shakespeare.toml"
    )]
    NotAConfig { path: PathBuf, what: &'static str },
    #[error("cannot use the config {path}")]
    File {
        path: PathBuf,
        #[source]
        source: Box<ConfigError>,
    },
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error("{what}{origin}")]
    Value { origin: String, what: String },
    #[error("cannot apply --set {flag}: {reason}")]
    Set { flag: String, reason: String },
    #[error("unknown key `{key}` in {section}{origin}: {hint}")]
    UnknownKey { key: String, section: String, origin: String, hint: String },
    #[error("`{key}` is {found}{origin}: it must be {expected}")]
    Wrong { key: String, found: String, origin: String, expected: String },
    /// Values that are fine alone and not together; the sentence names the keys.
    #[error("{0}")]
    Contradiction(String),
    #[error("the model that [model] describes cannot be made")]
    Model {
        #[source]
        source: llm::config::ConfigError,
    },
    #[error(
        "the run was started with `{key}` = {before}, and it is {now} now: a run cannot change that when it is resumed; set it back, or start a new run in another folder"
    )]
    Resume { key: String, before: String, now: String },
}
