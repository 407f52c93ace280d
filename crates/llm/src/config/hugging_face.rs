//! `config.json` in the spellings found in the wild, and `generation_config.json`.
//!
//! Rotary settings stand as `rope_theta` beside `rope_scaling`, or together in transformers 5's
//! `rope_parameters`; the weights' type as `torch_dtype` or `dtype`. Defaults for absent keys are
//! those of transformers' configuration classes, since that is what the author of a short config
//! saw work.

use serde::Deserialize;
use serde_json::Value;

use super::{Architecture, ConfigError, ModelConfig, RopeScaling};
use crate::weights::FloatType;

#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    // Outer `Option`: is the key there? Inner: is it null? They differ for Mistral.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    // Likewise: null is no token, where an absent key is the family's.
    #[serde(default, deserialize_with = "present")]
    bos_token_id: Option<Option<TokenIds>>,
    #[serde(default, deserialize_with = "present")]
    eos_token_id: Option<Option<TokenIds>>,
    torch_dtype: Option<String>,
    dtype: Option<String>,
    quantization_config: Option<Value>,
    num_experts: Option<Value>,
    num_local_experts: Option<Value>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            TokenIds::One(id) => vec![id],
            TokenIds::Several(ids) => ids,
        }
    }
}

fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(super) fn parse(text: &str) -> Result<ModelConfig, ConfigError> {
    let raw: Raw = serde_json::from_str(text).map_err(|source| ConfigError::Json { source })?;
    let architecture = architecture(&raw)?;
    refuse_unsupported(&raw)?;

    let hidden_size = required("hidden_size", raw.hidden_size)?;
    let num_hidden_layers = required("num_hidden_layers", raw.num_hidden_layers)?;
    let num_attention_heads = required("num_attention_heads", raw.num_attention_heads)?;
    let head_dim = match (raw.head_dim, architecture) {
        (Some(head_dim), _) => head_dim,
        (None, Architecture::Qwen3) => 128,
        (None, _) => head_dim_from_sizes(hidden_size, num_attention_heads)?,
    };
    let max_position_embeddings = raw.max_position_embeddings.unwrap_or(match architecture {
        Architecture::Llama => 2048,
        Architecture::Mistral => 131_072,
        Architecture::Qwen2 | Architecture::Qwen3 => 32_768,
    });
    let (rope_theta, rope_scaling) = rope(&raw, max_position_embeddings)?;
    let attention_bias = raw.attention_bias.unwrap_or(false);
    let sliding_windows = sliding_windows(&raw, architecture, num_hidden_layers)?;
    // transformers gives Llama and Mistral these ids when the config names none.
    let (default_bos, default_eos) = match architecture {
        Architecture::Llama | Architecture::Mistral => (Some(1), vec![2]),
        Architecture::Qwen2 | Architecture::Qwen3 => (None, Vec::new()),
    };
    Ok(ModelConfig {
        architecture,
        vocab_size: required("vocab_size", raw.vocab_size)?,
        hidden_size,
        intermediate_size: required("intermediate_size", raw.intermediate_size)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: raw.num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        // Qwen2 always has them and says so nowhere; Mistral never has them.
        attention_bias: match architecture {
            Architecture::Llama | Architecture::Qwen3 => attention_bias,
            Architecture::Mistral => false,
            Architecture::Qwen2 => true,
        },
        attention_output_bias: match architecture {
            Architecture::Llama | Architecture::Qwen3 => attention_bias,
            Architecture::Mistral | Architecture::Qwen2 => false,
        },
        mlp_bias: architecture == Architecture::Llama && raw.mlp_bias.unwrap_or(false),
        query_key_norm: architecture == Architecture::Qwen3,
        sliding_windows,
        bos_token_id: match raw.bos_token_id {
            None => default_bos,
            Some(ids) => ids.and_then(|ids| ids.into_vec().first().copied()),
        },
        eos_token_ids: match raw.eos_token_id {
            None => default_eos,
            Some(ids) => ids.map(TokenIds::into_vec).unwrap_or_default(),
        },
        dtype: dtype(raw.dtype.or(raw.torch_dtype).as_deref()),
    })
}

pub(super) fn apply_generation_config(
    config: &mut ModelConfig,
    text: &str,
) -> Result<(), ConfigError> {
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<TokenIds>,
    }
    let generation: Generation =
        serde_json::from_str(text).map_err(|source| ConfigError::Json { source })?;
    if let Some(ids) = generation.eos_token_id {
        config.eos_token_ids = ids.into_vec();
    }
    Ok(())
}

fn required(key: &str, value: Option<usize>) -> Result<usize, ConfigError> {
    value.ok_or_else(|| ConfigError::Missing { key: key.to_owned() })
}

/// `model_type` decides; a config without one is known by the class it lists.
fn architecture(raw: &Raw) -> Result<Architecture, ConfigError> {
    let classes = raw.architectures.as_deref().unwrap_or_default();
    let found = match &raw.model_type {
        Some(model_type) => {
            Architecture::ALL.into_iter().find(|known| known.model_type() == model_type)
        }
        None => Architecture::ALL
            .into_iter()
            .find(|known| classes.iter().any(|class| class == known.class_name())),
    };
    found.ok_or_else(|| match raw.model_type.as_ref().or(classes.first()) {
        Some(found) => ConfigError::Architecture { found: found.clone() },
        None => ConfigError::Missing { key: "model_type".to_owned() },
    })
}

fn refuse_unsupported(raw: &Raw) -> Result<(), ConfigError> {
    let unsupported = |what: String, advice| Err(ConfigError::Unsupported { what, advice });
    if let Some(quantization) = raw.quantization_config.as_ref().filter(|value| !value.is_null()) {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        let advice = "use the unquantized checkpoint or a GGUF file";
        return unsupported(format!("has safetensors quantized by the method `{method}`"), advice);
    }
    for experts in [&raw.num_experts, &raw.num_local_experts].into_iter().flatten() {
        if experts.as_u64().is_some_and(|count| count > 0) {
            return unsupported(
                format!("is a mixture of {experts} experts"),
                "choose a dense model",
            );
        }
    }
    if let Some(activation) =
        raw.hidden_act.as_deref().filter(|name| !matches!(*name, "silu" | "swish"))
    {
        return unsupported(
            format!("uses the activation `{activation}`"),
            "choose a model with `silu`",
        );
    }
    let ropes = [&raw.rope_scaling, &raw.rope_parameters].into_iter().flatten();
    let factors =
        ropes.filter_map(|rope| rope.partial_rotary_factor).chain(raw.partial_rotary_factor);
    if factors.into_iter().any(|factor| factor != 1.0) {
        return unsupported("rotates only a part of each head".to_owned(), "choose another model");
    }
    Ok(())
}

/// The size of a head when nothing states it.
pub(super) fn head_dim_from_sizes(
    hidden_size: usize,
    num_attention_heads: usize,
) -> Result<usize, ConfigError> {
    if num_attention_heads == 0 || !hidden_size.is_multiple_of(num_attention_heads) {
        let expected =
            format!("a divisor of `hidden_size` = {hidden_size}, since no `head_dim` is given");
        return Err(ConfigError::invalid("num_attention_heads", num_attention_heads, expected));
    }
    Ok(hidden_size / num_attention_heads)
}

fn rope(raw: &Raw, max_position_embeddings: usize) -> Result<(f64, RopeScaling), ConfigError> {
    let section = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let theta = section.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0);
    let Some(rope) = section else { return Ok((theta, RopeScaling::None)) };
    let needed = |key: &str, value: Option<f64>| {
        value.ok_or_else(|| ConfigError::Missing { key: format!("rope_scaling.{key}") })
    };
    let scaling = match rope.rope_type.as_deref().or(rope.old_type.as_deref()).unwrap_or("default")
    {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed("factor", rope.factor)? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor", rope.factor)?,
            low_freq_factor: needed("low_freq_factor", rope.low_freq_factor)?,
            high_freq_factor: needed("high_freq_factor", rope.high_freq_factor)?,
            original_max_position_embeddings: raw
                .original_max_position_embeddings
                .or(rope.original_max_position_embeddings)
                .unwrap_or(max_position_embeddings),
        },
        other => return Err(unsupported_rope(other)),
    };
    Ok((theta, scaling))
}

pub(super) fn unsupported_rope(kind: &str) -> ConfigError {
    ConfigError::Unsupported {
        what: format!("scales its rotary embedding by the rule `{kind}`"),
        advice: "only `default`, `linear` and `llama3` are; remove the scaling to use the original \
                 context length",
    }
}

/// The window of every layer (`Qwen2Config` and `MistralConfig` in transformers).
fn sliding_windows(
    raw: &Raw,
    architecture: Architecture,
    layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let default_window = 4096;
    match architecture {
        Architecture::Llama => same_for_all_layers(None, layers),
        Architecture::Mistral => {
            same_for_all_layers(raw.sliding_window.unwrap_or(Some(default_window)), layers)
        }
        Architecture::Qwen2 | Architecture::Qwen3 => {
            let window = raw.sliding_window.unwrap_or(Some(default_window));
            let window = window.filter(|_| raw.use_sliding_window.unwrap_or(false));
            let Some(types) = &raw.layer_types else {
                let full_layers = raw.max_window_layers.unwrap_or(28);
                let mut windows = same_for_all_layers(window, layers)?;
                windows.iter_mut().take(full_layers).for_each(|window| *window = None);
                return Ok(windows);
            };
            types.iter().map(|kind| layer_window(kind, window)).collect()
        }
    }
}

fn layer_window(kind: &str, window: Option<usize>) -> Result<Option<usize>, ConfigError> {
    match (kind, window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(window)) => Ok(Some(window)),
        ("sliding_attention", None) => {
            Err(ConfigError::Missing { key: "sliding_window".to_owned() })
        }
        (other, _) => Err(ConfigError::Unsupported {
            what: format!("has a layer of type `{other}`"),
            advice: "only `full_attention` and `sliding_attention` are; choose another model",
        }),
    }
}

/// One entry per layer. The count is judged later, with the other sizes; until then it must not be
/// allocated blindly.
pub(super) fn same_for_all_layers(
    window: Option<usize>,
    layers: usize,
) -> Result<Vec<Option<usize>>, ConfigError> {
    if layers > 1 << 16 {
        return Err(ConfigError::invalid(
            "num_hidden_layers",
            layers,
            "a plausible number of layers",
        ));
    }
    Ok(vec![window; layers])
}

/// Informative only, so an unknown name is no error.
fn dtype(name: Option<&str>) -> Option<FloatType> {
    match name?.trim_start_matches("torch.") {
        "float32" => Some(FloatType::F32),
        "float16" => Some(FloatType::F16),
        "bfloat16" => Some(FloatType::Bf16),
        _ => None,
    }
}
