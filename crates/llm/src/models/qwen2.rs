//! Qwen2 and Qwen2.5: Llama's layer with biases on query, key and value (Yang et al., "Qwen2
//! technical report", 2024).

use graph::Tensor;

use super::blocks::{embed, gated_mlp, key_heads, linear, pre_norm, query_heads};
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
    let (embed, query_heads, key_heads) = (embed(config), query_heads(config), key_heads(config));
    let query = linear(weights, "q_proj", x, &embed, &query_heads, true);
    let key = linear(weights, "k_proj", x, &embed, &key_heads, true);
    let value = linear(weights, "v_proj", x, &embed, &key_heads, true);
    let (query, key) = (step.rotate(query), step.rotate(key));
    let mixed = step.attend(query, key, value);
    linear(weights, "o_proj", mixed, &query_heads, &embed, false)
}
