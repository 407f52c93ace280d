//! What a model is: its sizes and switches, read from a `config.json` or from GGUF metadata,
//! checked before anything is traced.
//!
//! Field names are Hugging Face's. The module knows no files and no tensors.

mod error;
mod gguf;
mod hugging_face;
mod validate;

pub use error::ConfigError;

use crate::weights::FloatType;

/// A model family that can be traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 1 to 3.x, SmolLM, SmolLM2 and everything else of that shape.
    Llama,
    /// Mistral 7B and its kin: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on `q`, `k` and `v`.
    Qwen2,
    /// Qwen3: root-mean-square norms on every head's query and key.
    Qwen3,
}

impl Architecture {
    pub const ALL: [Architecture; 4] =
        [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

    /// The name that `config.json` has under `model_type`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// The name that `config.json` has under `architectures`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// How rotary frequencies are stretched beyond the length that a model was first trained with.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones kept, those between interpolated
    /// (`_compute_llama3_parameters` in transformers).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Frequency `i` is divided by factor `i` of `head_dim / 2`: how GGUF files store the Llama 3
    /// rule.
    Factors(Vec<f32>),
}

/// Sizes and switches of one model. Every value has been checked: sizes are not zero, heads divide,
/// and so on.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Even. Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    /// The longest sequence, in tokens, that the model was trained for.
    pub max_position_embeddings: usize,
    /// The language-model head is the token embedding.
    pub tie_word_embeddings: bool,
    /// The projections to `q`, `k` and `v` have biases.
    pub attention_bias: bool,
    /// The projection out of attention has a bias.
    pub attention_output_bias: bool,
    /// The projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Queries and keys are normalized per head before they are rotated.
    pub query_key_norm: bool,
    /// For every layer the number of last positions it attends to, its own included; `None` for
    /// all.
    pub sliding_windows: Vec<Option<usize>>,
    pub bos_token_id: Option<u32>,
    /// Tokens after any of which generation stops. May be empty.
    pub eos_token_ids: Vec<u32>,
    /// The type that the checkpoint says its weights have.
    pub dtype: Option<FloatType>,
}

impl ModelConfig {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// When it is no JSON, lacks a size, describes a model that is not supported, or contradicts
    /// itself.
    pub fn from_json(text: &str) -> Result<ModelConfig, ConfigError> {
        let config = hugging_face::parse(text)?;
        validate::check(&config)?;
        Ok(config)
    }

    /// Takes over the `eos_token_id` of a `generation_config.json`, which counts over that of
    /// `config.json`.
    ///
    /// # Errors
    /// When the text is no JSON or its token ids are none.
    pub fn apply_generation_config(&mut self, text: &str) -> Result<(), ConfigError> {
        hugging_face::apply_generation_config(self, text)?;
        validate::check(self)
    }

    /// Reads the model's description from a GGUF file's metadata and table of tensors. Rotary
    /// factors, which the file stores as the tensor [`ROPE_FACTORS_TENSOR`], are added by
    /// [`ModelConfig::set_rope_factors`].
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`].
    pub fn from_gguf(gguf: &crate::gguf::Gguf) -> Result<ModelConfig, ConfigError> {
        let config = gguf::parse(gguf)?;
        validate::check(&config)?;
        Ok(config)
    }

    /// Sets one divisor for each of the `head_dim / 2` rotary frequencies.
    ///
    /// # Errors
    /// When their number is not `head_dim / 2`, or one is not a positive finite number.
    pub fn set_rope_factors(&mut self, factors: Vec<f32>) -> Result<(), ConfigError> {
        self.rope_scaling = RopeScaling::Factors(factors);
        validate::check(self)
    }

    /// Query heads that share one key and value head.
    pub fn query_heads_per_group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }
}

/// The GGUF tensor that holds rotary factors.
pub const ROPE_FACTORS_TENSOR: &str = "rope_freqs.weight";
