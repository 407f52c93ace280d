//! What can keep a model from being exported.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::weights::{ReadError, WriteError, advice};

/// Why an export failed. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{} is not empty: choose another folder", .path.display())]
    NotEmpty { path: PathBuf },
    #[error("{} is a file, not a folder: choose another name", .path.display())]
    NotAFolder { path: PathBuf },
    #[error(
        "{} holds no exported model, so it is not overwritten: choose another folder",
        .path.display()
    )]
    NotAnExport { path: PathBuf },
    #[error("{} could not be written{}", .path.display(), advice(.source))]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Weights(#[from] WriteError),
    #[error("tensor `{name}` of the model is not to be had")]
    Missing {
        name: String,
        #[source]
        source: ReadError,
    },
    #[error(
        "tensor `{name}` has shape {found:?}, the model's config wants {expected:?}: they do not \
         belong together"
    )]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("the model cannot be described in Hugging Face's layout (`{key}`): {reason}")]
    Inexpressible { key: &'static str, reason: &'static str },
    #[error("the base model's description cannot be taken over")]
    Base {
        #[source]
        source: Box<ConfigError>,
    },
    #[error("the base model's `{name}` is not valid JSON: fetch the model again")]
    BaseJson {
        name: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the model's layers do not fit together")]
    Trace {
        #[source]
        source: graph::TraceError,
    },
    #[error("the adapter cannot be exported: {reason}")]
    Adapter { reason: String },
}
