//! What can be wrong with a model's description.

use super::Architecture;
use crate::gguf::GgufError;

/// Why a model's description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "the model's config is not valid JSON of the expected form: fetch the checkpoint again"
    )]
    Json {
        #[source]
        source: serde_json::Error,
    },
    #[error("the model's description in the GGUF metadata is not usable")]
    Gguf {
        #[source]
        source: GgufError,
    },
    #[error(
        "`{key}` is missing in the model's config: the checkpoint is not complete, fetch it again"
    )]
    Missing { key: String },
    #[error(
        "architecture `{found}` is not supported, only {}: choose a model of one of these families",
        Architecture::ALL.map(Architecture::model_type).join(", ")
    )]
    Architecture { found: String },
    #[error("the model {what}, which is not supported: {advice}")]
    Unsupported { what: String, advice: &'static str },
    #[error("`{key}` is {found} in the model's config, expected {expected}: the config is corrupt")]
    Invalid { key: &'static str, found: String, expected: String },
}

impl From<GgufError> for ConfigError {
    fn from(source: GgufError) -> ConfigError {
        ConfigError::Gguf { source }
    }
}

impl ConfigError {
    pub(super) fn invalid(
        key: &'static str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid { key, found: found.to_string(), expected: expected.into() }
    }
}
