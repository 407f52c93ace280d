//! The model's description in GGUF metadata, under keys such as `llama.block_count`.

use super::{Architecture, ConfigError, ModelConfig, RopeScaling};
use crate::gguf::{Gguf, Metadata};
use crate::weights::{Encoding, FloatType};

/// What llama.cpp takes when the key is absent.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

pub(super) fn parse(gguf: &Gguf) -> Result<ModelConfig, ConfigError> {
    let metadata = &gguf.metadata;
    let name =
        metadata.string("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
    // llama.cpp has no architecture of its own for Mistral: it is stored as `llama`.
    let architecture = Architecture::ALL
        .into_iter()
        .filter(|architecture| *architecture != Architecture::Mistral)
        .find(|architecture| architecture.model_type() == name)
        .ok_or_else(|| ConfigError::Architecture { found: name.to_owned() })?;
    let keys = Keys { metadata, architecture: name };

    let experts = keys.optional_size("expert_count")?.unwrap_or(0);
    if experts > 0 {
        return Err(ConfigError::Unsupported {
            what: format!("is a mixture of {experts} experts"),
            advice: "choose a dense model",
        });
    }
    let num_hidden_layers = keys.size("block_count")?;
    let hidden_size = keys.size("embedding_length")?;
    let num_attention_heads = keys.size("attention.head_count")?;
    let num_key_value_heads =
        keys.optional_size("attention.head_count_kv")?.unwrap_or(num_attention_heads);
    let head_dim = match keys.optional_size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => super::hugging_face::head_dim_from_sizes(hidden_size, num_attention_heads)?,
    };
    check_heads(&keys, head_dim)?;
    let vocab_size = match keys.optional_size("vocab_size")? {
        Some(size) => size,
        None => vocabulary_from_tensors(gguf)?,
    };
    let has = |name: &str| gguf.tensor(name).is_some();
    let window = match architecture {
        // Converters copy `sliding_window` for Qwen even where `use_sliding_window` is off, as it
        // is in every model.
        Architecture::Qwen2 | Architecture::Qwen3 => None,
        Architecture::Llama | Architecture::Mistral => {
            keys.optional_size("attention.sliding_window")?.filter(|window| *window > 0)
        }
    };
    Ok(ModelConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps: keys
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing(&keys.name("attention.layer_norm_rms_epsilon")))?,
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA),
        rope_scaling: rope_scaling(&keys)?,
        max_position_embeddings: keys.size("context_length")?,
        tie_word_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        attention_output_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        query_key_norm: has("blk.0.attn_q_norm.weight"),
        sliding_windows: super::hugging_face::same_for_all_layers(window, num_hidden_layers)?,
        bos_token_id: token_id(metadata, "bos")?,
        eos_token_ids: end_tokens(metadata)?,
        dtype: gguf.tensor("blk.0.attn_q.weight").and_then(|tensor| match tensor.encoding {
            Encoding::F32 => Some(FloatType::F32),
            Encoding::F16 => Some(FloatType::F16),
            Encoding::Bf16 => Some(FloatType::Bf16),
            _ => None,
        }),
    })
}

/// Keys below the architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        let value = self.metadata.unsigned(&self.name(key))?;
        // Saturating is safe: the bounds that every size is checked against are far lower.
        Ok(value.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| missing(&self.name(key)))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        Ok(self.metadata.float(&self.name(key))?.map(shortest))
    }
}

/// A single-precision number as the shortest decimal that means it: `1e-5` is stored as
/// 9.999999747378752e-6, and the original checkpoint computes with the decimal.
fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { single.to_string().parse().unwrap_or(value) } else { value }
}

fn missing(key: &str) -> ConfigError {
    ConfigError::Missing { key: key.to_owned() }
}

/// Partly rotated heads, or values of another width than keys, are other architectures.
fn check_heads(keys: &Keys<'_>, head_dim: usize) -> Result<(), ConfigError> {
    for (key, what) in [
        ("attention.value_length", "has values and keys of different width"),
        ("rope.dimension_count", "rotates only a part of each head"),
    ] {
        if keys.optional_size(key)?.is_some_and(|size| size != head_dim) {
            return Err(ConfigError::Unsupported {
                what: what.to_owned(),
                advice: "choose another model",
            });
        }
    }
    Ok(())
}

fn vocabulary_from_tensors(gguf: &Gguf) -> Result<usize, ConfigError> {
    match gguf.tensor("token_embd.weight").map(|tensor| tensor.shape.as_slice()) {
        Some([vocab_size, _]) => Ok(*vocab_size),
        _ => Err(missing("vocab_size")),
    }
}

fn rope_scaling(keys: &Keys<'_>) -> Result<RopeScaling, ConfigError> {
    let kind = keys.metadata.string(&keys.name("rope.scaling.type"))?.unwrap_or("none");
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => {
            let factor = keys.float("rope.scaling.factor")?.unwrap_or(1.0);
            // llama.cpp takes 0 as "not set".
            if factor == 0.0 || factor == 1.0 {
                Ok(RopeScaling::None)
            } else {
                Ok(RopeScaling::Linear { factor })
            }
        }
        other => Err(super::hugging_face::unsupported_rope(other)),
    }
}

fn token_id(metadata: &Metadata, kind: &str) -> Result<Option<u32>, ConfigError> {
    let key = format!("tokenizer.ggml.{kind}_token_id");
    Ok(metadata.unsigned(&key)?.map(|id| u32::try_from(id).unwrap_or(u32::MAX)))
}

/// The end of a text, of a turn and of a message all end generation.
fn end_tokens(metadata: &Metadata) -> Result<Vec<u32>, ConfigError> {
    let mut ids = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        if let Some(id) = token_id(metadata, kind)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}
