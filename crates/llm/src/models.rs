//! Model families, each in one readable file, and the decoder around their layers. Training and
//! serving trace the same lines. Nothing here knows a device, a file or a token's text.

mod blocks;
mod cache;
mod decoder;
mod llama;
mod lora;
mod parameters;
mod qwen2;
mod qwen3;
mod rotary;

pub use cache::{CacheShape, KvCache, PageShape, PageTable};
pub use decoder::{Decoder, Layers, Sequence, Step};
pub(crate) use lora::SlotOfRows;
pub use lora::{Lora, LoraSlots};
pub use parameters::{EVERY_LAYER, PanelPlan, ParameterSpec, Parameters};

use graph::Tensor;

use crate::config::{Architecture, ModelConfig};

/// Traces one layer of the model's family: `x` is `[batch, seq, embed]`, and so is the result.
fn layer<'g>(
    config: &ModelConfig,
    weights: &Parameters<'g>,
    x: Tensor<'g>,
    step: &mut Step<'g>,
) -> Tensor<'g> {
    match config.architecture {
        // Mistral is Llama with a sliding window, which the step carries.
        Architecture::Llama | Architecture::Mistral => llama::layer(config, weights, x, step),
        Architecture::Qwen2 => qwen2::layer(config, weights, x, step),
        Architecture::Qwen3 => qwen3::layer(config, weights, x, step),
    }
}
