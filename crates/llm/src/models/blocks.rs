//! What the families' layers are put together from.

use graph::{Axis, DType, Tensor};

use super::Parameters;
use crate::config::ModelConfig;

pub(super) type Axes<'a> = &'a [(Axis, usize)];

pub(super) fn embed(config: &ModelConfig) -> [(Axis, usize); 1] {
    [("embed", config.hidden_size)]
}

/// Query heads, grouped by the key/value head that they share.
pub(super) fn query_heads(config: &ModelConfig) -> [(Axis, usize); 3] {
    let group = config.query_heads_per_group();
    [("kv_heads", config.num_key_value_heads), ("group", group), ("head_dim", config.head_dim)]
}

pub(super) fn key_heads(config: &ModelConfig) -> [(Axis, usize); 2] {
    [("kv_heads", config.num_key_value_heads), ("head_dim", config.head_dim)]
}

/// `x · weightᵀ (+ bias)`: contracts the axes `inputs` of `x`, yields `outputs` in their place.
#[track_caller]
pub(super) fn linear<'g>(
    weights: &Parameters<'g>,
    name: &str,
    x: Tensor<'g>,
    inputs: Axes<'_>,
    outputs: Axes<'_>,
    bias: bool,
) -> Tensor<'g> {
    weights.within(name, |weights| {
        let contract: Vec<Axis> = inputs.iter().map(|&(axis, _)| axis).collect();
        let product = x.dot(weights.get("weight", &[outputs, inputs]), &contract);
        if bias { product + weights.get("bias", &[outputs]) } else { product }
    })
}

/// `x / sqrt(mean(x²) + eps) · weight` along one axis, in f32 (Zhang and Sennrich, "Root mean
/// square layer normalization", 2019).
#[track_caller]
pub(super) fn rms_norm<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    name: &str,
    x: Tensor<'g>,
    axis: Axis,
) -> Tensor<'g> {
    weights.within(name, |weights| {
        let wide = x.convert(DType::F32);
        let scale = ((wide * wide).mean(&[axis]) + config.rms_norm_eps).rsqrt();
        let weight = weights.get("weight", &[&[(axis, x.size(axis))]]).convert(DType::F32);
        (wide * scale * weight).convert(x.dtype())
    })
}

/// The gated feed-forward layer: `down(silu(gate(x)) · up(x))` (Shazeer, "GLU variants improve
/// transformer", 2020).
#[track_caller]
pub(super) fn gated_mlp<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
) -> Tensor<'g> {
    let (embed, mlp) = (embed(config), [("mlp", config.intermediate_size)]);
    let bias = config.mlp_bias;
    let gate = linear(weights, "gate_proj", x, &embed, &mlp, bias);
    let up = linear(weights, "up_proj", x, &embed, &mlp, bias);
    linear(weights, "down_proj", gate.silu() * up, &mlp, &embed, bias)
}

/// `x + mix(norm(x))`, then `x + feed(norm(x))`: the layer of all families here, with a norm before
/// each of its two halves.
#[track_caller]
pub(super) fn pre_norm<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    mix: impl FnOnce(&Parameters<'g>, Tensor<'g>) -> Tensor<'g>,
    feed: impl FnOnce(&ModelConfig, &Parameters<'g>, Tensor<'g>) -> Tensor<'g>,
) -> Tensor<'g> {
    let normed = rms_norm(config, weights, "input_layernorm", x, "embed");
    let x = x + weights.within("self_attn", |weights| mix(weights, normed));
    let normed = rms_norm(config, weights, "post_attention_layernorm", x, "embed");
    x + weights.within("mlp", |weights| feed(config, weights, normed))
}
