//! Rotary position embedding (Su et al., "RoFormer", 2021) in the half-split layout of Hugging Face
//! checkpoints: element i is rotated together with element i + head_dim / 2.

use std::f64::consts::TAU;

use graph::{DType, Graph, Literal, Shape, Tensor, ops};

use crate::config::{ModelConfig, RopeScaling};

/// Cosines and sines for the positions of one step, `[batch, seq, half]` in f32.
#[derive(Clone, Copy)]
pub(super) struct Rotary<'g> {
    cosine: Tensor<'g>,
    sine: Tensor<'g>,
}

impl<'g> Rotary<'g> {
    /// `positions` is `[batch, seq]` s32.
    pub(super) fn new(graph: &'g Graph, config: &ModelConfig, positions: Tensor<'g>) -> Rotary<'g> {
        let frequencies = inverse_frequencies(config);
        let shape = Shape::new(DType::F32, &[("half", frequencies.len())]);
        let frequencies = ops::literal(graph, Literal::new(shape, frequencies));
        let angles = positions.convert(DType::F32) * frequencies;
        Rotary { cosine: angles.cosine(), sine: angles.sine() }
    }

    /// Rotates the `head_dim` axis of a query or key.
    pub(super) fn apply(&self, x: Tensor<'g>) -> Tensor<'g> {
        let half = x.size("head_dim") / 2;
        let wide = x.convert(DType::F32);
        let part =
            |from: usize| wide.slice("head_dim", from, from + half).rename("head_dim", "half");
        let (low, high) = (part(0), part(half));
        let turned = high * self.cosine + low * self.sine;
        let rotated = (low * self.cosine - high * self.sine)
            .concatenate(&[turned], "half")
            .rename("half", "head_dim");
        rotated.convert(x.dtype())
    }
}

/// Radians per position for each of the head_dim / 2 pairs, stretched as the config says.
fn inverse_frequencies(config: &ModelConfig) -> Vec<f64> {
    let head_dim = config.head_dim as f64;
    let plain = |pair: usize| config.rope_theta.powf(-2.0 * pair as f64 / head_dim);
    (0..config.head_dim / 2)
        .map(|pair| match &config.rope_scaling {
            RopeScaling::None => plain(pair),
            RopeScaling::Linear { factor } => plain(pair) / factor,
            RopeScaling::Factors(factors) => plain(pair) / f64::from(factors[pair]),
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let frequency = plain(pair);
                // How many times the wave goes round within the length first trained on.
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                frequency * (kept + (1.0 - kept) / factor)
            }
        })
        .collect()
}
