//! What can be wrong with a catalog of chips. Knows no chip.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error(
        "cannot read the chip catalog {path}; correct --catalog or FUNGIBLE_CHIPS (see `fungible chips --help`)"
    )]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file}, line {line}: {problem}")]
    Wrong { file: String, line: usize, problem: Box<Problem> },
    /// What was read of it before would not change.
    #[error("the chip catalog is already in use, so {path} comes too late; name it at the start")]
    InUse { path: PathBuf },
}

/// What is wrong at one place of a catalog.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("{0}; write it as TOML")]
    Syntax(String),
    #[error("there is no key `{key}` in {section}; {hint}")]
    UnknownKey { key: String, section: String, hint: String },
    #[error("`{key}` is missing in {section}; {hint}")]
    Missing { key: &'static str, section: String, hint: String },
    #[error("`{key}` is {found}; it must be {expected}")]
    WrongType { key: String, found: String, expected: String },
    #[error(
        "`{key}` is {text}, which has no unit; write one of {units} after it, such as \"{example}\""
    )]
    NoUnit { key: String, text: String, units: String, example: &'static str },
    #[error("`{key}` has the unit `{unit}`; did you mean `{nearest}`? It is written in {units}")]
    UnknownUnit { key: String, unit: String, nearest: &'static str, units: String },
    #[error("there is no {kind} `{name}`; did you mean `{nearest}`? Known: {known}")]
    UnknownName { kind: &'static str, name: String, nearest: String, known: String },
    #[error(
        "there is no chip `{name}`; did you mean `{nearest}`? For a chip of your own add like = \"{nearest}\""
    )]
    UnknownChip { name: String, nearest: String },
    #[error("{0}")]
    Illegal(String),
}
