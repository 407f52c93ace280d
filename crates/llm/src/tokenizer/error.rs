//! What can be wrong with a tokenizer.

use crate::gguf::GgufError;

/// The error type of the `tokenizers` crate.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a tokenizer could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("`tokenizer.json` is not a tokenizer that can be read: fetch it again")]
    Json {
        #[source]
        source: Source,
    },
    #[error("`tokenizer_config.json` is not valid: fetch it again")]
    Settings {
        #[source]
        source: serde_json::Error,
    },
    #[error("the vocabulary in the GGUF metadata is not usable")]
    Gguf {
        #[source]
        source: GgufError,
    },
    #[error(
        "`{key}` is `{token}`, which the vocabulary lacks: the tokenizer's files do not belong \
         together"
    )]
    UnknownToken { key: String, token: String },
    #[error(
        "the tokenizer model `{found}` in the GGUF metadata is not supported, only `gpt2` \
         (byte-level BPE) and `llama` \
         (SentencePiece): use the original checkpoint's `tokenizer.json`"
    )]
    Model { found: String },
    #[error(
        "the pre-tokenizer `{found}` in the GGUF metadata is not supported, only {}: use the \
         original checkpoint's \
         `tokenizer.json`", .known.join(", ")
    )]
    PreTokenizer { found: String, known: Vec<&'static str> },
    #[error(
        "the vocabulary in the GGUF metadata contradicts itself: {reason}; convert the file again"
    )]
    Vocabulary { reason: String },
    #[error("the text could not be encoded")]
    Encode {
        #[source]
        source: Source,
    },
    #[error("the tokens could not be decoded")]
    Decode {
        #[source]
        source: Source,
    },
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownId { id: u32, vocab_size: usize },
}

impl TokenizerError {
    pub(super) fn json(source: Source) -> TokenizerError {
        TokenizerError::Json { source }
    }

    pub(super) fn vocabulary(reason: impl Into<String>) -> TokenizerError {
        TokenizerError::Vocabulary { reason: reason.into() }
    }
}

impl From<GgufError> for TokenizerError {
    fn from(source: GgufError) -> TokenizerError {
        TokenizerError::Gguf { source }
    }
}
