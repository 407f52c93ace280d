//! From `[model]` to a model's sizes, where it is trained from scratch.

use std::fs;
use std::path::PathBuf;

use llm::ModelConfig;
use serde_json::{Map, Value, json};

use super::error::ConfigError;
use super::sections::Model;

impl Model {
    /// The sizes that `architecture` cannot do without.
    pub(super) fn sizes(&self) -> [(&'static str, Option<usize>); 4] {
        [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
        ]
    }

    /// The first that is given of what `architecture` may have besides.
    pub(super) fn other_size(&self) -> Option<&'static str> {
        let others = [
            ("num_key_value_heads", self.num_key_value_heads.is_some()),
            ("head_dim", self.head_dim.is_some()),
            ("max_position_embeddings", self.max_position_embeddings.is_some()),
            ("rope_theta", self.rope_theta.is_some()),
            ("rms_norm_eps", self.rms_norm_eps.is_some()),
            ("tie_word_embeddings", self.tie_word_embeddings.is_some()),
        ];
        others.iter().find(|(_, given)| *given).map(|&(name, _)| name)
    }

    /// The model to train from scratch; none with `from`, whose files say it.
    ///
    /// `vocabulary_size` is the number of tokens of the tokenizer, where it is known; else it is
    /// what the shape or the config file says. With a given vocabulary the model's special tokens are
    /// left empty, for whoever knows the tokenizer. `sequence_length` is the longest sequence that
    /// the model will have seen.
    ///
    /// # Errors
    /// When the shape is not known, the config file cannot be read, or the model contradicts
    /// itself.
    pub fn from_scratch(
        &self,
        vocabulary_size: Option<usize>,
        sequence_length: usize,
    ) -> Result<Option<ModelConfig>, ConfigError> {
        let invalid = |source| ConfigError::Model { source };
        let mut config = if let Some(name) = &self.shape {
            let known: Vec<&str> = llm::shapes::names().collect();
            llm::shapes::find(name)
                .ok_or_else(|| {
                    ConfigError::Contradiction(format!(
                        "model.shape is \"{name}\", which is not known: choose from {}",
                        known.join(", ")
                    ))
                })?
                .map_err(invalid)?
        } else if let Some(path) = &self.config {
            let text = fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: PathBuf::from(path), source })?;
            ModelConfig::from_json(&text).map_err(invalid)?
        } else if self.architecture.is_some() {
            let vocabulary_size = vocabulary_size.or(self.vocabulary_size);
            let json = self.hugging_face(vocabulary_size, sequence_length);
            ModelConfig::from_json(&json.to_string()).map_err(invalid)?
        } else {
            return Ok(None);
        };
        if let Some(size) = vocabulary_size.or(self.vocabulary_size) {
            config.vocab_size = size;
            // Another tokenizer has other special tokens.
            config.bos_token_id = None;
            config.eos_token_ids.clear();
        }
        Ok(Some(config))
    }

    /// The keys as a `config.json`, whose defaults then hold.
    fn hugging_face(&self, vocabulary_size: Option<usize>, sequence_length: usize) -> Value {
        let pairs = [
            ("model_type", self.architecture.map(|family| json!(family.word()))),
            ("vocab_size", vocabulary_size.map(Value::from)),
            ("num_key_value_heads", self.num_key_value_heads.map(Value::from)),
            ("head_dim", self.head_dim.map(Value::from)),
            (
                "max_position_embeddings",
                Some(json!(self.max_position_embeddings.unwrap_or(sequence_length))),
            ),
            ("rope_theta", self.rope_theta.map(Value::from)),
            ("rms_norm_eps", self.rms_norm_eps.map(Value::from)),
            ("tie_word_embeddings", self.tie_word_embeddings.map(Value::from)),
        ];
        let sizes = self.sizes().map(|(name, size)| (name, size.map(Value::from)));
        let all = sizes.into_iter().chain(pairs);
        let entries = all.filter_map(|(name, value)| Some((name.to_string(), value?)));
        Value::Object(entries.collect::<Map<String, Value>>())
    }
}
