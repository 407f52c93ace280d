//! A model that gives the same logits after any text: embeddings of ones, layers of zeros, and a
//! head whose first column is the logits.

use serde_json::json;

use super::shared;

const HIDDEN: usize = 4;

/// A model folder whose vocabulary has one token for each logit.
pub fn model(logits: &[f32], context: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vocab = logits.len();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": HIDDEN, "vocab_size": vocab,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
        "max_position_embeddings": context, "rms_norm_eps": 1e-9, "rope_theta": 10000.0,
        "tie_word_embeddings": false,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let filled =
        |value: f32, shape: &[usize]| (shape.to_vec(), vec![value; shape.iter().product()]);
    let first_column = |column: &[f32]| {
        let values = column.iter().flat_map(|&value| [value, 0.0, 0.0, 0.0]).collect();
        (vec![column.len(), HIDDEN], values)
    };
    let (matrix, norm) = (filled(0.0, &[HIDDEN, HIDDEN]), filled(1.0, &[HIDDEN]));
    let key = filled(0.0, &[2, HIDDEN]);
    let layer = "model.layers.0";
    let named = |name: &str, (shape, values): (Vec<usize>, Vec<f32>)| {
        (format!("{layer}.{name}.weight"), shape, values)
    };
    let tensors = [
        ("model.embed_tokens.weight".to_string(), vec![vocab, HIDDEN], vec![1.0; vocab * HIDDEN]),
        named("input_layernorm", norm.clone()),
        named("post_attention_layernorm", norm.clone()),
        named("self_attn.q_proj", matrix.clone()),
        named("self_attn.k_proj", key.clone()),
        named("self_attn.v_proj", key),
        named("self_attn.o_proj", matrix.clone()),
        named("mlp.gate_proj", matrix.clone()),
        named("mlp.up_proj", matrix.clone()),
        named("mlp.down_proj", matrix),
        ("model.norm.weight".to_string(), norm.0, norm.1),
    ];
    let (shape, values) = first_column(logits);
    let head = ("lm_head.weight".to_string(), shape, values);
    let all: Vec<_> = tensors
        .iter()
        .chain([&head])
        .map(|(name, shape, values)| (name.as_str(), shape.clone(), values.clone()))
        .collect();
    shared::write_checkpoint(folder.path(), &all);
    folder
}
