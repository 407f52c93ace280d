//! Checks that every description must pass, whatever file it came from.

use super::{ConfigError, ModelConfig, RopeScaling};

/// Generous bounds, several times the largest dense models known. They keep products of sizes far
/// from overflow, and turn a corrupt number into a message instead of an attempt to allocate it.
const HIDDEN_SIZE_MAX: usize = 1 << 18;
const INTERMEDIATE_SIZE_MAX: usize = 1 << 20;
const LAYERS_MAX: usize = 1 << 10;
const HEADS_MAX: usize = 1 << 12;
const HEAD_DIM_MAX: usize = 1 << 12;
const VOCAB_SIZE_MAX: usize = 1 << 22;
const POSITIONS_MAX: usize = 1 << 28;

pub(super) fn check(config: &ModelConfig) -> Result<(), ConfigError> {
    check_sizes(config)?;
    check_rope(config)?;
    if !(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0) {
        return Err(ConfigError::invalid(
            "rms_norm_eps",
            config.rms_norm_eps,
            "a number between 0 and 1",
        ));
    }
    if config.sliding_windows.len() != config.num_hidden_layers {
        let expected = format!("{} entries, one per layer", config.num_hidden_layers);
        return Err(ConfigError::invalid(
            "layer_types",
            format!("{} entries", config.sliding_windows.len()),
            expected,
        ));
    }
    if config.sliding_windows.contains(&Some(0)) {
        return Err(ConfigError::invalid("sliding_window", 0, "at least 1"));
    }
    let end_tokens = config.eos_token_ids.iter().map(|id| ("eos_token_id", id));
    for (key, id) in end_tokens.chain(config.bos_token_id.iter().map(|id| ("bos_token_id", id))) {
        if *id as usize >= config.vocab_size {
            return Err(ConfigError::invalid(
                key,
                id,
                format!("less than `vocab_size` = {}", config.vocab_size),
            ));
        }
    }
    Ok(())
}

fn check_sizes(config: &ModelConfig) -> Result<(), ConfigError> {
    let bounds = [
        ("vocab_size", config.vocab_size, VOCAB_SIZE_MAX),
        ("hidden_size", config.hidden_size, HIDDEN_SIZE_MAX),
        ("intermediate_size", config.intermediate_size, INTERMEDIATE_SIZE_MAX),
        ("num_hidden_layers", config.num_hidden_layers, LAYERS_MAX),
        ("num_attention_heads", config.num_attention_heads, HEADS_MAX),
        ("num_key_value_heads", config.num_key_value_heads, HEADS_MAX),
        ("head_dim", config.head_dim, HEAD_DIM_MAX),
        ("max_position_embeddings", config.max_position_embeddings, POSITIONS_MAX),
    ];
    for (key, size, size_max) in bounds {
        if !(1..=size_max).contains(&size) {
            return Err(ConfigError::invalid(key, size, format!("1 to {size_max}")));
        }
    }
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        let expected =
            format!("a divisor of `num_attention_heads` = {}", config.num_attention_heads);
        return Err(ConfigError::invalid(
            "num_key_value_heads",
            config.num_key_value_heads,
            expected,
        ));
    }
    if !config.head_dim.is_multiple_of(2) {
        let expected = "an even number, since rotary embedding pairs its halves";
        return Err(ConfigError::invalid("head_dim", config.head_dim, expected));
    }
    Ok(())
}

fn check_rope(config: &ModelConfig) -> Result<(), ConfigError> {
    if !(config.rope_theta.is_finite() && config.rope_theta > 0.0) {
        return Err(ConfigError::invalid("rope_theta", config.rope_theta, "a positive number"));
    }
    let positive = |key: &'static str, value: f64| match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ConfigError::invalid(key, value, "a positive number")),
    };
    match &config.rope_scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            positive("rope_scaling.factor", *factor)?;
            positive("rope_scaling.low_freq_factor", *low_freq_factor)?;
            if !(high_freq_factor.is_finite() && high_freq_factor > low_freq_factor) {
                let expected = format!("more than `low_freq_factor` = {low_freq_factor}");
                return Err(ConfigError::invalid(
                    "rope_scaling.high_freq_factor",
                    high_freq_factor,
                    expected,
                ));
            }
            if !(1..=POSITIONS_MAX).contains(original_max_position_embeddings) {
                let found = original_max_position_embeddings;
                let key = "rope_scaling.original_max_position_embeddings";
                return Err(ConfigError::invalid(key, found, format!("1 to {POSITIONS_MAX}")));
            }
            Ok(())
        }
        RopeScaling::Factors(factors) => {
            if factors.len() != config.head_dim / 2 {
                let expected = format!("{}, half of `head_dim`", config.head_dim / 2);
                return Err(ConfigError::invalid(
                    "number of rotary factors",
                    factors.len(),
                    expected,
                ));
            }
            factors.iter().try_for_each(|factor| positive("rotary factor", f64::from(*factor)))
        }
    }
}
