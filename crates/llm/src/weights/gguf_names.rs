//! From the tensor names of GGUF files to those of Hugging Face checkpoints, and what else differs
//! between the two.

use super::RowOrder;
use crate::gguf::{GgufError, GgufTensor, Metadata};

/// The Hugging Face name of a GGUF tensor. A name without a counterpart (`rope_freqs.weight`) stays
/// as it is.
pub fn hugging_face_name(name: &str) -> String {
    translate(name).unwrap_or_else(|| name.to_owned())
}

fn translate(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".to_owned()),
        "output_norm.weight" => return Some("model.norm.weight".to_owned()),
        "output.weight" => return Some("lm_head.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    let layer: u32 = layer.parse().ok()?;
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// The converter of llama.cpp reorders the rows of `q` and `k`, weights and biases, for the `llama`
/// architecture (Mistral included), whose kernel rotates neighbours; other architectures rotate
/// halves, as Hugging Face does.
pub(super) fn row_order(tensor: &GgufTensor, metadata: &Metadata) -> Result<RowOrder, GgufError> {
    if metadata.string("general.architecture")? != Some("llama") {
        return Ok(RowOrder::Natural);
    }
    let module = tensor
        .name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .map(|(_, module)| module);
    let heads_key = match module {
        Some("attn_q.weight" | "attn_q.bias") => "llama.attention.head_count",
        Some("attn_k.weight" | "attn_k.bias") => "llama.attention.head_count_kv",
        _ => return Ok(RowOrder::Natural),
    };
    // Without a count of its own for keys, every query head has its own key.
    let heads = match metadata.unsigned(heads_key)? {
        Some(heads) => Some(heads),
        None => metadata.unsigned("llama.attention.head_count")?,
    };
    let heads = heads
        .filter(|heads| *heads > 0)
        .ok_or_else(|| GgufError::MissingKey { key: heads_key.to_owned() })?;
    let rows = tensor.shape[0] as u64;
    // A remainder makes a head size that does not divide the rows, which the caller reports with
    // the tensor's name.
    Ok(RowOrder::InterleavedHeads { head_dim: rows.div_ceil(heads) as usize })
}
