//! A model's description as `config.json` and `generation_config.json`. What the base model's own
//! files say stays as it is wherever it still holds; what is new is spelled so that old and new
//! versions of transformers read it.

use serde_json::{Map, Value, json};

use super::error::ExportError;
use super::rope_factors;
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::files::Companions;
use crate::weights::FloatType;

type Keys = Map<String, Value>;

/// The texts of the two files.
pub(super) struct Texts {
    pub(super) config: String,
    pub(super) generation: Option<String>,
}

pub(super) const CONFIG_FILE: &str = "config.json";
pub(super) const GENERATION_FILE: &str = "generation_config.json";

/// Keys that mean something only together, and older or newer spellings that must not contradict
/// them.
const TOGETHER: [(&[&str], &[&str]); 3] = [
    (&["rope_theta", "rope_scaling"], &["rope_parameters", "original_max_position_embeddings"]),
    (&["sliding_window", "use_sliding_window", "max_window_layers", "layer_types"], &[]),
    (&["architectures", "model_type"], &[]),
];

/// Describes `config` with weights of type `float_type`.
///
/// # Errors
/// When the base's own files are not valid, or Hugging Face's layout has no words for the model.
pub(super) fn texts(
    config: &ModelConfig,
    float_type: FloatType,
    base: &Companions,
) -> Result<Texts, ExportError> {
    let wanted = ModelConfig { dtype: Some(float_type), ..expressible(config)? };
    let base = Base::parse(base)?;
    let fresh = keys(&wanted);
    let (mut written, mut generation) = match &base {
        None => (fresh.clone(), Some(Keys::new())),
        Some(base) => (base.config.clone(), base.generation.clone()),
    };
    let before = base.as_ref().map(|base| keys(&base.parsed)).unwrap_or_default();
    let changed: Vec<&str> = fresh
        .iter()
        .filter(|(key, value)| before.get(*key) != Some(value))
        .map(|(key, _)| key.as_str())
        .collect();
    for key in &changed {
        let together = TOGETHER.iter().find(|(keys, _)| keys.contains(key));
        let (keys, outdated) = together.copied().unwrap_or((std::slice::from_ref(key), &[]));
        outdated.iter().for_each(|key| drop(written.shift_remove(*key)));
        for key in keys {
            if let Some(value) = fresh.get(*key) {
                written.insert((*key).to_owned(), value.clone());
            }
        }
    }
    set_dtype(&mut written, float_type);
    for key in ["bos_token_id", "eos_token_id"] {
        let Some(generation) = &mut generation else { continue };
        // A folder's own file may rightly leave out what it does not change.
        if base.is_none() || (changed.contains(&key) && generation.contains_key(key)) {
            generation.insert(key.to_owned(), fresh[key].clone());
        }
    }
    let text = |keys: Keys| format!("{:#}\n", Value::Object(keys));
    let texts = Texts { config: text(written), generation: generation.map(text) };
    check(&texts, &wanted)?;
    Ok(texts)
}

/// The text of a `config.json` that says all of a config.
///
/// # Errors
/// When Hugging Face's layout has no words for the model.
pub fn config_json(config: &ModelConfig) -> Result<String, ExportError> {
    let float_type = config.dtype.unwrap_or(FloatType::F32);
    Ok(texts(config, float_type, &Companions::default())?.config)
}

/// What the base's folder says.
struct Base {
    config: Keys,
    generation: Option<Keys>,
    parsed: ModelConfig,
}

impl Base {
    fn parse(base: &Companions) -> Result<Option<Base>, ExportError> {
        let Some(contents) = base.get(CONFIG_FILE) else { return Ok(None) };
        let config = object(CONFIG_FILE, contents)?;
        let unusable = |source| ExportError::Base { source: Box::new(source) };
        let mut parsed =
            ModelConfig::from_json(&String::from_utf8_lossy(contents)).map_err(unusable)?;
        let mut generation = None;
        if let Some(contents) = base.get(GENERATION_FILE) {
            generation = Some(object(GENERATION_FILE, contents)?);
            let text = String::from_utf8_lossy(contents);
            parsed.apply_generation_config(&text).map_err(unusable)?;
        }
        Ok(Some(Base { config, generation, parsed }))
    }
}

fn object(name: &'static str, contents: &[u8]) -> Result<Keys, ExportError> {
    serde_json::from_slice(contents).map_err(|source| ExportError::BaseJson { name, source })
}

/// The same model in terms that `config.json` has: GGUF files call Mistral `llama`, and store what
/// the rotary rule computes.
fn expressible(config: &ModelConfig) -> Result<ModelConfig, ExportError> {
    let mut config = config.clone();
    if config.architecture == Architecture::Llama
        && config.sliding_windows.iter().any(Option::is_some)
    {
        config.architecture = Architecture::Mistral;
    }
    if let RopeScaling::Factors(factors) = &config.rope_scaling {
        config.rope_scaling =
            rope_factors::rule(factors, config.rope_theta).ok_or(ExportError::Inexpressible {
                key: "rope_scaling",
                reason: "its rotary factors follow no rule that transformers knows",
            })?;
    }
    Ok(config)
}

/// Every key that says something about the model, in the order in which transformers' files have
/// them.
fn keys(config: &ModelConfig) -> Keys {
    let end_tokens = match config.eos_token_ids[..] {
        [] => Value::Null,
        [one] => one.into(),
        ref several => several.into(),
    };
    let mut keys = Keys::new();
    let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    set("architectures", json!([config.architecture.class_name()]));
    set("model_type", config.architecture.model_type().into());
    set("bos_token_id", config.bos_token_id.into());
    set("eos_token_id", end_tokens);
    set("hidden_act", "silu".into());
    set("hidden_size", config.hidden_size.into());
    set("intermediate_size", config.intermediate_size.into());
    set("num_hidden_layers", config.num_hidden_layers.into());
    set("num_attention_heads", config.num_attention_heads.into());
    set("num_key_value_heads", config.num_key_value_heads.into());
    set("head_dim", config.head_dim.into());
    set("max_position_embeddings", config.max_position_embeddings.into());
    set("rms_norm_eps", config.rms_norm_eps.into());
    set("rope_theta", config.rope_theta.into());
    set("rope_scaling", rope_scaling(&config.rope_scaling));
    set("tie_word_embeddings", config.tie_word_embeddings.into());
    set("vocab_size", config.vocab_size.into());
    match config.architecture {
        Architecture::Llama => {
            set("attention_bias", config.attention_bias.into());
            set("mlp_bias", config.mlp_bias.into());
        }
        Architecture::Mistral => {
            set("sliding_window", config.sliding_windows.first().copied().flatten().into());
        }
        Architecture::Qwen2 => windows(&config.sliding_windows, &mut set),
        Architecture::Qwen3 => {
            set("attention_bias", config.attention_bias.into());
            windows(&config.sliding_windows, &mut set);
        }
    }
    keys
}

/// `Qwen2Config` and `Qwen3Config`: newer versions go by `layer_types`, older ones give a window to
/// all layers from `max_window_layers` on.
fn windows(windows: &[Option<usize>], set: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let window = windows.iter().find_map(|window| *window);
    let kind = |window: &Option<usize>| match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    };
    set("sliding_window", window.into());
    set("use_sliding_window", window.is_some().into());
    set("max_window_layers", windows.iter().take_while(|window| window.is_none()).count().into());
    set("layer_types", windows.iter().map(kind).collect());
}

fn rope_scaling(scaling: &RopeScaling) -> Value {
    match scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::None | RopeScaling::Factors(_) => Value::Null,
    }
}

/// Under the names that the file has already; under the old one, which all versions know, otherwise.
fn set_dtype(config: &mut Keys, float_type: FloatType) {
    let name = match float_type {
        FloatType::F32 => "float32",
        FloatType::F16 => "float16",
        FloatType::Bf16 => "bfloat16",
    };
    let [old, new] = ["torch_dtype", "dtype"];
    if config.contains_key(new) {
        config.insert(new.to_owned(), name.into());
    }
    if config.contains_key(old) || !config.contains_key(new) {
        config.insert(old.to_owned(), name.into());
    }
}

/// Reads the texts back: what the layout has no words for must not be lost silently.
fn check(texts: &Texts, wanted: &ModelConfig) -> Result<(), ExportError> {
    let unusable = |source| ExportError::Base { source: Box::new(source) };
    let mut found = ModelConfig::from_json(&texts.config).map_err(unusable)?;
    if let Some(generation) = &texts.generation {
        found.apply_generation_config(generation).map_err(unusable)?;
    }
    let lost = |key, reason| Err(ExportError::Inexpressible { key, reason });
    let family = "the family that it belongs to has no such switch";
    if found.sliding_windows != wanted.sliding_windows {
        return lost("sliding_window", "its layers see back in ways that the family cannot have");
    }
    if found.attention_bias != wanted.attention_bias
        || found.attention_output_bias != wanted.attention_output_bias
    {
        return lost("attention_bias", family);
    }
    if found.mlp_bias != wanted.mlp_bias {
        return lost("mlp_bias", family);
    }
    if found.query_key_norm != wanted.query_key_norm {
        return lost("query_key_norm", family);
    }
    if found != *wanted {
        return lost("config.json", "the base model's own keys contradict it");
    }
    Ok(())
}
