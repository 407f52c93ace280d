//! How much arithmetic a model's training is, by its sizes alone, and what share of a chip's peak
//! that is. Recomputation (`remat`), padding and skipped halves of attention do not count: it is what
//! the model needs, not what a program happens to do.

use llm::ModelConfig;
use runtime::chips::Chip;

/// Which weights get gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    All,
    /// Adapters with so many parameters beside frozen weights.
    Lora {
        adapter_parameters: usize,
    },
}

/// Parameters that each token is multiplied with: those of the layers' matrices and of the output
/// layer, which counts also where it is the embedding. Looking up an embedding is no arithmetic.
pub fn matmul_parameters(config: &ModelConfig) -> usize {
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let attention = config.hidden_size * (2 * queries + 2 * keys);
    let mlp = 3 * config.hidden_size * config.intermediate_size;
    config.num_hidden_layers * (attention + mlp) + config.hidden_size * config.vocab_size
}

/// Floating-point operations of one training step per token, at sequences of `sequence_length`
/// tokens; a multiply-add is two.
///
/// ```text
/// 6 N + 6 L H Q T        N parameters in matrices, L layers, H heads of width Q, T tokens
/// ```
///
/// The formula is that of PaLM (Chowdhery et al., 2022, appendix B), `6 N + 12 L H Q T`, with
/// attention at half: a token sees `T / 2` others on average, since none that come later. Forward
/// takes a third, backward two. A layer with a sliding window of `W < T` sees `W - W^2 / (2 T)`.
/// Packed documents do not see each other, but count as if they did.
///
/// With LoRA, frozen matrices need no gradients of their own: `4 N` instead of `6 N`, and `6` for
/// each adapter parameter.
pub fn flops_per_token(config: &ModelConfig, sequence_length: usize, trained: Trained) -> f64 {
    let matrices = matmul_parameters(config) as f64;
    let matrices = match trained {
        Trained::All => 6.0 * matrices,
        Trained::Lora { adapter_parameters } => 4.0 * matrices + 6.0 * adapter_parameters as f64,
    };
    let width = (config.num_attention_heads * config.head_dim) as f64;
    let seen: f64 = (0..config.num_hidden_layers)
        .map(|layer| {
            let window = config.sliding_windows.get(layer).copied().flatten();
            mean_keys(sequence_length, window)
        })
        .sum();
    // Scores and their product with the values, a multiply-add each, forward once and backward
    // twice.
    matrices + 3.0 * 2.0 * 2.0 * width * seen
}

fn mean_keys(sequence_length: usize, window: Option<usize>) -> f64 {
    let length = sequence_length as f64;
    let window = window.map_or(length, |window| length.min(window as f64));
    window - window * window / (2.0 * length)
}

/// Model FLOPs utilization: the share of the chips' peak bf16 rate that the model's arithmetic takes
/// up, also where the program computes in f32. None where the peak is not known, as for a CPU.
pub fn model_flops_utilization(
    flops_per_token: f64,
    tokens_per_second: f64,
    chip: &Chip,
    devices: usize,
) -> Option<f64> {
    let chips = devices as f64 / chip.devices_per_chip as f64;
    let peak = chips * chip.bf16_flops_per_second;
    (peak > 0.0).then(|| flops_per_token * tokens_per_second / peak)
}
