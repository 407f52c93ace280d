//! The config of a training run: a TOML file, `--set` on it, defaults, checks, and the reference of
//! all keys, which come from one declaration (`config/sections.rs`).
//!
//! Relative paths are relative to the working directory, in the file as in `--set`, so that both
//! mean the same and known names stay what they are. The module opens no file but the config itself
//! and a model's `config.json`; it knows no device.

mod check;
mod document;
mod error;
mod keys;
mod mesh;
mod model;
mod sections;
mod validation;
mod values;

use std::path::Path;
use std::{fs, io};

use document::Node;
use keys::Value;

pub use error::ConfigError;
pub use keys::{Key, SectionKeys};
pub use mesh::{MeshError, check_mesh};
pub use sections::{
    ArchitectureName, BaseType, Checkpoint, ComputeType, Config, Data, Format, Guard, LORA_TARGETS,
    Layers, Lora, MeshAxes, Model, Optimizer, OptimizerName, Output, Remat, Samples, Schedule,
    ScheduleKind, Source, Training,
};
pub use validation::{Validation, ValidationSource};

/// A key that has different values in two configs, as TOML; none where it is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub key: String,
    pub before: Option<String>,
    pub now: Option<String>,
}

/// What a config is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Training,
    /// No data is needed.
    Planning,
}

impl Config {
    /// Reads the file and applies each `key=value` of `sets` to it, in order. What is left open is
    /// filled in: the result says everything.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, has unknown keys or values out of range, or
    /// contradicts itself. The message names the key and where it was written.
    pub fn load(path: &Path, sets: &[String]) -> Result<Config, ConfigError> {
        Config::load_for(path, sets, Use::Training)
    }

    /// As [`Config::load`], but without data if it names none: enough to know a step's program.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_to_plan(path: &Path, sets: &[String]) -> Result<Config, ConfigError> {
        Config::load_for(path, sets, Use::Planning)
    }

    fn load_for(path: &Path, sets: &[String], what_for: Use) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| {
            let what = match source.kind() {
                io::ErrorKind::NotFound => "it does not exist",
                io::ErrorKind::IsADirectory => "it is a folder",
                io::ErrorKind::InvalidData => "it is not text",
                _ => return ConfigError::Read { path: path.to_path_buf(), source },
            };
            ConfigError::NotAConfig { path: path.to_path_buf(), what }
        })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Config::parse_for(&text, sets, &name, what_for).map_err(|source| match source {
            // A flag is at fault by itself, whatever the file.
            ConfigError::Set { .. } => source,
            source => ConfigError::File { path: path.to_path_buf(), source: Box::new(source) },
        })
    }

    /// As [`Config::load`], from text. `name` names the output folder if the config does not.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, sets: &[String], name: &str) -> Result<Config, ConfigError> {
        Config::parse_for(text, sets, name, Use::Training)
    }

    /// As [`Config::parse`], but without data if it names none.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse_to_plan(text: &str, name: &str) -> Result<Config, ConfigError> {
        Config::parse_for(text, &[], name, Use::Planning)
    }

    /// The config of a run from scratch in a known shape such as `llama3-8b`, to be planned with.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_shape_to_plan(shape: &str, sets: &[String]) -> Result<Config, ConfigError> {
        let text = format!("[model]\nshape = {shape:?}\n");
        Config::parse_for(&text, sets, shape, Use::Planning)
    }

    fn parse_for(
        text: &str,
        sets: &[String],
        name: &str,
        what_for: Use,
    ) -> Result<Config, ConfigError> {
        let mut node = Node::parse(text)?;
        sets.iter().try_for_each(|set| node.set(set))?;
        let mut config = Config::read(&node, "")?;
        if config.output.folder.is_empty() {
            config.output.folder = format!("runs/{name}");
        }
        if config.checkpoint.folder.is_empty() {
            let output = config.output.folder.trim_end_matches('/');
            config.checkpoint.folder = format!("{output}/checkpoints");
        }
        check::check(&config, what_for == Use::Training)?;
        Ok(config)
    }

    /// Every key that has a value, as a file that [`Config::parse`] reads back to the same config.
    pub fn to_toml(&self) -> String {
        self.write().unwrap_or_else(keys::empty).to_document()
    }

    /// The keys whose values differ, in the order of this config; `before` is what `older` has.
    pub fn differences(&self, older: &Config) -> Vec<Difference> {
        let flat = |config: &Config| config.write().map_or_else(Vec::new, |node| node.flatten());
        let (older, now) = (flat(older), flat(self));
        let value = |of: &[(String, String)], key: &str| {
            of.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
        };
        let gone = older.iter().filter(|(key, _)| value(&now, key).is_none());
        let keys = now.iter().chain(gone).map(|(key, _)| key.clone());
        keys.map(|key| {
            let (before, now) = (value(&older, &key), value(&now, &key));
            Difference { key, before, now }
        })
        .filter(|difference| difference.before != difference.now)
        .collect()
    }

    /// What changed since a run was started as `older` says, when it is resumed as this config
    /// says. Where things lie may change, and how long and on what is trained; the model may not,
    /// since its checkpoint would mean something else.
    ///
    /// # Errors
    /// [`ConfigError::Resume`] for a change that makes no sense.
    pub fn resumes(&self, older: &Config) -> Result<Vec<Difference>, ConfigError> {
        let differences = self.differences(older);
        let fixed = |key: &str| match key {
            // Where the same files lie now.
            "model.from" | "model.config" | "model.tokenizer" => false,
            "optimizer.name" | "lora.rank" | "lora.alpha" | "lora.targets" => true,
            key => key.starts_with("model."),
        };
        match differences.iter().find(|difference| fixed(&difference.key)) {
            None => Ok(differences),
            Some(Difference { key, before, now }) => {
                let words = |value: &Option<String>| value.clone().unwrap_or("not set".to_string());
                let (before, now) = (words(before), words(now));
                Err(ConfigError::Resume { key: key.clone(), before, now })
            }
        }
    }

    /// Every section with its keys.
    pub fn sections() -> Vec<SectionKeys> {
        let sections = <Config as Value>::sections("");
        sections.into_iter().filter(|section| !section.keys.is_empty()).collect()
    }

    /// Every key with type, default and meaning, as Markdown.
    pub fn reference() -> String {
        let mut text = String::new();
        for section in Config::sections() {
            text.push_str(&format!("### `{}`\n\n{}\n\n", section.header, section.meaning));
            text.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
            for key in section.keys {
                let name = key.path.rsplit('.').next().unwrap_or_default();
                let range = key.range.map_or(String::new(), |range| format!(", {range}"));
                let default = key.default.map_or("-".to_string(), |default| format!("`{default}`"));
                let (kind, meaning) = (key.type_name, key.meaning);
                text.push_str(&format!("| `{name}` | {kind}{range} | {default} | {meaning} |\n"));
            }
            text.push('\n');
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}
