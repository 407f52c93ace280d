//! Qwen3, dense: Llama's layer with root-mean-square norms on every head's query and key before
//! they are rotated (Yang et al., "Qwen3 technical report", 2025).

use graph::Tensor;

use super::blocks::{embed, gated_mlp, linear, pre_norm, query_heads, query_key_value, rms_norm};
use super::{Parameters, Step};
use crate::config::ModelConfig;

/// One layer; `x` is `[batch, seq, embed]`.
pub(super) fn layer<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    step: &mut Step<'g>,
) -> Tensor<'g> {
    pre_norm(config, weights, x, |weights, x| attention(config, weights, x, step), gated_mlp)
}

fn attention<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    step: &mut Step<'g>,
) -> Tensor<'g> {
    let [query, key, value] = query_key_value(config, weights, x, config.attention_bias);
    let query = step.rotate(rms_norm(config, weights, "q_norm", query, "head_dim"));
    let key = step.rotate(rms_norm(config, weights, "k_norm", key, "head_dim"));
    let mixed = step.attend(query, key, value);
    linear(
        weights,
        "o_proj",
        mixed,
        &query_heads(config),
        &embed(config),
        config.attention_output_bias,
    )
}
