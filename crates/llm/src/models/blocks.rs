//! What the families' layers are put together from.

use graph::{Axis, DType, Tensor};

use super::lora::adapt;
use super::parameters::{Parameters, panel_product};
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
        let product = weights.product("weight", x, inputs, outputs);
        let product = match adapt(weights, x, inputs, outputs) {
            Some(change) => product + change,
            None => product,
        };
        if bias { product + weights.get("bias", &[outputs]) } else { product }
    })
}

/// Several [`linear`]s of the same input: for each its name and its outputs.
#[track_caller]
pub(super) fn linears<'g, const COUNT: usize>(
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    inputs: Axes<'_>,
    parts: [(&str, Axes<'_>); COUNT],
    bias: bool,
) -> [Tensor<'g>; COUNT] {
    if !weights.joins() {
        return parts.map(|(name, outputs)| linear(weights, name, x, inputs, outputs, bias));
    }
    let rows = parts.map(|(_, outputs)| outputs.iter().map(|&(_, size)| size).product::<usize>());
    let names = parts.map(|(name, _)| format!("{name}.weight"));
    let joined: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(rows).collect();
    let product = match weights.panels(&joined, inputs) {
        Some(panels) => panel_product(x, panels, inputs, &[("rows", rows.iter().sum())]),
        // Held in different ways: nothing to join.
        None if weights.has_panels() => {
            return parts.map(|(name, outputs)| linear(weights, name, x, inputs, outputs, bias));
        }
        None => {
            let contract: Vec<Axis> = inputs.iter().map(|&(axis, _)| axis).collect();
            x.dot(weights.joined(&joined, inputs), &contract)
        }
    };
    let mut start = 0;
    std::array::from_fn(|part| {
        let (name, outputs) = parts[part];
        let stop = start + rows[part];
        let own = product.slice("rows", start, stop).split("rows", outputs);
        start = stop;
        let own = match weights.within(name, |weights| adapt(weights, x, inputs, outputs)) {
            Some(change) => own + change,
            None => own,
        };
        match bias {
            true => own + weights.within(name, |weights| weights.get("bias", &[outputs])),
            false => own,
        }
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
        if weights.has_panels() && x.shape().axes.last().is_some_and(|&(last, _)| last == axis) {
            let weight = weights.stored("weight", &[&[(axis, x.size(axis))]]).convert(DType::F32);
            return wide.rms_norm(weight, config.rms_norm_eps).convert(x.dtype());
        }
        let scale = ((wide * wide).mean(&[axis]) + config.rms_norm_eps).rsqrt();
        let weight = weights.stored("weight", &[&[(axis, x.size(axis))]]).convert(DType::F32);
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
    let parts: [(&str, Axes<'_>); 2] = [("gate_proj", &mlp), ("up_proj", &mlp)];
    let [gate, up] = linears(weights, x, &embed, parts, bias);
    linear(weights, "down_proj", weights.settled(gate.silu() * up), &mlp, &embed, bias)
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
    let normed = weights.settled(rms_norm(config, weights, "input_layernorm", x, "embed"));
    let x = x + weights.within("self_attn", |weights| mix(weights, normed));
    let normed = rms_norm(config, weights, "post_attention_layernorm", x, "embed");
    let normed = weights.settled(normed);
    x + weights.within("mlp", |weights| feed(config, weights, normed))
}

/// Queries grouped by key head, keys and values of attention.
#[track_caller]
pub(super) fn query_key_value<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    bias: bool,
) -> [Tensor<'g>; 3] {
    let (query_heads, key_heads) = (query_heads(config), key_heads(config));
    let parts: [(&str, Axes<'_>); 3] =
        [("q_proj", &query_heads), ("k_proj", &key_heads), ("v_proj", &key_heads)];
    linears(weights, x, &embed(config), parts, bias)
}
