//! What can be wrong with the data of a training run.

use std::io;
use std::path::PathBuf;

use llm::chat::ChatError;
use llm::tokenizer::TokenizerError;
use runtime::folders::FolderError;
use runtime::install::InstallError;

/// Why data could not be prepared or read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("no data is named: give `path` under `[[data.sources]]`")]
    NoSources,
    #[error(
        "there is no data at `{path}`: it is no file, folder or pattern that matches one, and known \
         names are {known}"
    )]
    NotFound { path: String, known: String },
    #[error("the data set `{name}` could not be installed")]
    Install {
        name: String,
        #[source]
        source: Box<InstallError>,
    },
    #[error("`{pattern}` is not a pattern for paths: {detail}")]
    Pattern { pattern: String, detail: String },
    #[error(
        "the format of {} cannot be told from its name: say `format`, which is `text`, `jsonl` or \
         `parquet`", .path.display()
    )]
    Format { path: PathBuf },
    #[error(
        "the folder {} holds no `.txt`, `.md`, `.jsonl` or `.parquet` file: give another folder, or \
         say `format` to read all its files", .path.display()
    )]
    EmptyFolder { path: PathBuf },
    #[error("{} could not be read", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is not text in UTF-8 (byte {byte}): convert it, or take it out of the data",
        .path.display()
    )]
    NotUtf8 { path: PathBuf, byte: u64 },
    #[error("{}:{line}: the line is not a JSON object: correct or remove it", .path.display())]
    Json {
        path: PathBuf,
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}:{record}: {problem}", .path.display())]
    Record { path: PathBuf, record: u64, problem: String },
    #[error("{} is not a Parquet file that can be read: fetch or write it again", .path.display())]
    Parquet {
        path: PathBuf,
        #[source]
        source: Box<parquet::errors::ParquetError>,
    },
    #[error("{} has no column {wanted}, only {found}: say which one with `column`", .path.display())]
    NoColumn { path: PathBuf, wanted: String, found: String },
    #[error(
        "`{path}` mixes texts and conversations ({} differs from what came before it): make them \
         two sources", .file.display()
    )]
    Mixed { path: String, file: PathBuf },
    #[error(
        "all of `{path}` is validation data too, which is never trained on: give other data to one \
         of them"
    )]
    AllHeldOut { path: String },
    #[error("`{path}` holds no usable document: give data with some text in it")]
    NoDocuments { path: String },
    #[error(
        "`{path}` holds conversations, and the model has no chat template: start from a model that \
         has one, or give plain text"
    )]
    NoChatTemplate { path: String },
    #[error("{}:{record}: the conversation cannot be rendered", .path.display())]
    Chat {
        path: PathBuf,
        record: u64,
        #[source]
        source: Box<ChatError>,
    },
    #[error(
        "{}:{record}: it cannot be told which part the assistant said, since {reason}; use another \
         chat template, or render the conversations to `text` yourself", .path.display()
    )]
    AssistantPart { path: PathBuf, record: u64, reason: String },
    #[error("the text could not be turned into tokens")]
    Tokenizer {
        #[source]
        source: Box<TokenizerError>,
    },
    #[error(
        "the tokenizer does not match the model: `{path}` has the token id {id}, the model's \
         vocabulary ends at {vocab_size}; use the tokenizer that belongs to the model"
    )]
    Vocabulary { path: String, id: u32, vocab_size: usize },
    #[error(
        "sequence_length is {sequence_length}, the model takes at most {max_positions} positions: \
         lower `sequence_length` under `[data]`"
    )]
    TooLong { sequence_length: usize, max_positions: usize },
    #[error("{0}")]
    Setting(String),
    #[error(
        "the part of `{path}` that would be {part} holds nothing to learn: it needs texts of two \
         tokens, or conversations with an answer that fits into `sequence_length`"
    )]
    EmptyPart { path: String, part: &'static str },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("{} changed or was damaged while it was in use: run this again", .path.display())]
    Changed {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "a vocabulary of {vocabulary_size} tokens is too small: 256 bytes and the end of a text \
         need 257"
    )]
    SmallVocabulary { vocabulary_size: usize },
    #[error(
        "`{path}` holds conversations, from which no vocabulary is learned: give plain text, or \
         the tokenizer of a model"
    )]
    LearnFromChat { path: String },
    #[error("the tokenizer could not be learned from the data")]
    Learn {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<TokenizerError> for DataError {
    fn from(source: TokenizerError) -> DataError {
        DataError::Tokenizer { source: Box::new(source) }
    }
}
