//! Qwen2 and Qwen2.5: Llama's layer with biases on query, key and value (Yang et al., "Qwen2
//! technical report", 2024).

use graph::Tensor;

use super::blocks::{embed, gated_mlp, linear, pre_norm, query_heads, query_key_value};
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
    let [query, key, value] = query_key_value(config, weights, x, true);
    let (query, key) = (step.rotate(query), step.rotate(key));
    let mixed = step.attend(query, key, value);
    linear(weights, "o_proj", mixed, &query_heads(config), &embed(config), false)
}
