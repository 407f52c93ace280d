//! Finds what belongs to one model: a folder as Hugging Face lays it out, or a single `.gguf` file.
//!
//! Opening reads descriptions and headers only. The tokenizer and the chat template are read when
//! they are asked for, so that a caller can do it beside other work, and a model without them can
//! still score token ids.

mod companions;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use companions::{Companions, UnknownCompanion};

use crate::adapter::ADAPTER_CONFIG_FILE;
use crate::chat::{ChatError, ChatTemplate};
use crate::config::{ConfigError, ModelConfig, ROPE_FACTORS_TENSOR};
use crate::gguf::{GgufError, Metadata};
use crate::tokenizer::{Tokenizer, TokenizerError, TokenizerSettings};
use crate::weights::{Checkpoint, WeightsError};

const CONFIG_FILE: &str = "config.json";
const GENERATION_CONFIG_FILE: &str = "generation_config.json";
const TOKENIZER_FILE: &str = "tokenizer.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
const GGUF_TEMPLATE_KEY: &str = "tokenizer.chat_template";
/// The largest known is a tokenizer of 35 MB.
const TEXT_BYTES_MAX: u64 = 512 << 20;

/// A model's description and its open checkpoint.
#[derive(Debug)]
pub struct ModelFiles {
    pub config: ModelConfig,
    pub checkpoint: Arc<Checkpoint>,
    path: PathBuf,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Folder,
    Gguf(Metadata),
}

/// Why a model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{} does not exist: give a folder with `config.json`, or a `.gguf` file",
        .path.display()
    )]
    NotFound { path: PathBuf },
    #[error("{} is neither a folder nor a `.gguf` file: give one of these", .path.display())]
    NotAModel { path: PathBuf },
    #[error("{} is an empty folder: fetch the model into it, or give another one", .path.display())]
    EmptyFolder { path: PathBuf },
    #[error(
        "{} has no `config.json`{}", .path.display(),
        .gguf.as_ref().map_or_else(
            || ": fetch the whole model folder, or give a `.gguf` file".to_owned(),
            |name| format!(", but a GGUF file: give {} instead", .path.join(name).display())
        )
    )]
    NoConfig { path: PathBuf, gguf: Option<String> },
    #[error(
        "{} is a LoRA adapter, not a whole model: merge it into the model that it was trained on first",
        .path.display()
    )]
    Adapter { path: PathBuf },
    #[error("{} could not be read", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} has {bytes} bytes, more than {TEXT_BYTES_MAX} is taken as corrupt: fetch it again",
        .path.display()
    )]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error("{} does not describe a model that can be used", .path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: Box<ConfigError>,
    },
    #[error("the weights of {} cannot be used", .path.display())]
    Weights {
        path: PathBuf,
        #[source]
        source: Box<WeightsError>,
    },
    #[error("the tokenizer of {} cannot be used", .path.display())]
    Tokenizer {
        path: PathBuf,
        #[source]
        source: Box<TokenizerError>,
    },
    #[error("the chat template of {} cannot be used", .path.display())]
    ChatTemplate {
        path: PathBuf,
        #[source]
        source: Box<ChatError>,
    },
}

impl ModelFiles {
    /// Opens the model at `path`.
    ///
    /// # Errors
    /// When there is none, or its config or checkpoint is not usable. One sentence, with the cause
    /// as source.
    pub fn open(path: &Path) -> Result<ModelFiles, OpenError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NotFound { path: path.to_owned() });
            }
            Err(source) => return Err(OpenError::Read { path: path.to_owned(), source }),
        };
        if metadata.is_dir() {
            ModelFiles::open_folder(path)
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            ModelFiles::open_gguf(path)
        } else {
            Err(OpenError::NotAModel { path: path.to_owned() })
        }
    }

    fn open_folder(folder: &Path) -> Result<ModelFiles, OpenError> {
        let config_path = folder.join(CONFIG_FILE);
        let Some(text) = read_text(&config_path)? else { return Err(no_config(folder)) };
        let unusable = |path: &Path, source| OpenError::Config {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let mut config =
            ModelConfig::from_json(&text).map_err(|source| unusable(&config_path, source))?;
        let generation_path = folder.join(GENERATION_CONFIG_FILE);
        if let Some(text) = read_text(&generation_path)? {
            config
                .apply_generation_config(&text)
                .map_err(|source| unusable(&generation_path, source))?;
        }
        let checkpoint =
            Checkpoint::open_folder(folder).map_err(|source| weights_error(folder, source))?;
        let checkpoint = Arc::new(checkpoint);
        Ok(ModelFiles { config, checkpoint, path: folder.to_owned(), source: Source::Folder })
    }

    fn open_gguf(path: &Path) -> Result<ModelFiles, OpenError> {
        let unusable =
            |source| OpenError::Config { path: path.to_owned(), source: Box::new(source) };
        let (checkpoint, gguf) =
            Checkpoint::open_gguf(path).map_err(|source| weights_error(path, source))?;
        let mut config = ModelConfig::from_gguf(&gguf).map_err(unusable)?;
        if checkpoint.contains(ROPE_FACTORS_TENSOR) {
            let factors = checkpoint
                .expect(ROPE_FACTORS_TENSOR, &[config.head_dim / 2])
                .and_then(|_| checkpoint.read_to_vec(ROPE_FACTORS_TENSOR))
                .map_err(|source| weights_error(path, source))?;
            config.set_rope_factors(factors).map_err(unusable)?;
        }
        Ok(ModelFiles {
            config,
            checkpoint: Arc::new(checkpoint),
            path: path.to_owned(),
            source: Source::Gguf(gguf.metadata),
        })
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the tokenizer; `None` for a folder without one.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, OpenError> {
        match &self.source {
            Source::Gguf(metadata) => Tokenizer::from_gguf(metadata)
                .map(Some)
                .map_err(|source| self.tokenizer_error(source)),
            Source::Folder => match read_text(&self.path.join(TOKENIZER_FILE))? {
                None => Ok(None),
                Some(text) => Tokenizer::from_json(&text, &self.tokenizer_settings()?)
                    .map(Some)
                    .map_err(|source| self.tokenizer_error(source)),
            },
        }
    }

    /// Reads the chat template; `None` for a model without one.
    ///
    /// # Errors
    /// When it cannot be read or parsed.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, OpenError> {
        let (source, special_tokens) = match &self.source {
            Source::Gguf(metadata) => {
                let unusable = |source: GgufError| self.tokenizer_error(source.into());
                let template =
                    metadata.string(GGUF_TEMPLATE_KEY).map_err(unusable)?.map(str::to_owned);
                let tokens = Tokenizer::special_tokens_of_gguf(metadata);
                (template, tokens.map_err(|source| self.tokenizer_error(source))?)
            }
            Source::Folder => {
                let settings = self.tokenizer_settings()?;
                // A file of its own counts over the template inside `tokenizer_config.json`, as in
                // transformers.
                let template =
                    read_text(&self.path.join(CHAT_TEMPLATE_FILE))?.or(settings.chat_template);
                (template, settings.special_tokens)
            }
        };
        let Some(source) = source else { return Ok(None) };
        let unusable =
            |source| OpenError::ChatTemplate { path: self.path.clone(), source: Box::new(source) };
        ChatTemplate::new(&source, &special_tokens).map(Some).map_err(unusable)
    }

    fn tokenizer_settings(&self) -> Result<TokenizerSettings, OpenError> {
        match read_text(&self.path.join(TOKENIZER_CONFIG_FILE))? {
            None => Ok(TokenizerSettings::default()),
            Some(text) => {
                TokenizerSettings::from_json(&text).map_err(|source| self.tokenizer_error(source))
            }
        }
    }

    fn tokenizer_error(&self, source: TokenizerError) -> OpenError {
        OpenError::Tokenizer { path: self.path.clone(), source: Box::new(source) }
    }
}

fn weights_error(path: &Path, source: WeightsError) -> OpenError {
    OpenError::Weights { path: path.to_owned(), source: Box::new(source) }
}

/// The contents of a text file, `None` where there is none.
fn read_text(path: &Path) -> Result<Option<String>, OpenError> {
    let Some(contents) = read(path)? else { return Ok(None) };
    String::from_utf8(contents).map(Some).map_err(|error| OpenError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    })
}

/// The contents of a file, `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    let unreadable = |source| OpenError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unreadable(source)),
        Ok(metadata) if metadata.len() > TEXT_BYTES_MAX => {
            Err(OpenError::TooLarge { path: path.to_owned(), bytes: metadata.len() })
        }
        Ok(_) => std::fs::read(path).map(Some).map_err(unreadable),
    }
}

/// Says what a folder without a config holds instead.
fn no_config(folder: &Path) -> OpenError {
    let path = folder.to_owned();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) => return OpenError::Read { path, source },
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() {
        return OpenError::EmptyFolder { path };
    }
    if names.iter().any(|name| name == ADAPTER_CONFIG_FILE) {
        return OpenError::Adapter { path };
    }
    OpenError::NoConfig { path, gguf: names.into_iter().find(|name| name.ends_with(".gguf")) }
}
