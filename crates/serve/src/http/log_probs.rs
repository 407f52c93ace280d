//! Log-probabilities in the two shapes that OpenAI has for them.

use serde_json::{Map, Value, json};

use super::model_text::ModelText;
use crate::engine::Drawn;

/// JSON has no infinity; this is what vLLM and OpenAI send for tokens that cannot come.
const LOWEST: f32 = -9999.0;

fn finite(log_prob: f32) -> f32 {
    // `max` also takes the number where there is none.
    log_prob.max(LOWEST)
}

/// The bytes that a token stands for; none for an id that is only padding.
fn bytes_of(model: &ModelText, token: u32) -> Vec<u8> {
    model.tokenizer.token_bytes(token).unwrap_or_default()
}

fn text_of(model: &ModelText, token: u32) -> String {
    String::from_utf8_lossy(&bytes_of(model, token)).into_owned()
}

fn entry(model: &ModelText, token: u32, log_prob: f32) -> Map<String, Value> {
    let bytes = bytes_of(model, token);
    let mut entry = Map::new();
    entry.insert("token".to_owned(), json!(String::from_utf8_lossy(&bytes)));
    entry.insert("logprob".to_owned(), json!(finite(log_prob)));
    entry.insert("bytes".to_owned(), json!(bytes));
    entry
}

/// For each token what chats report: its text, log-probability, bytes and alternatives.
pub(crate) fn of_chat(model: &ModelText, drawn: &[Drawn]) -> Vec<Value> {
    let described = |drawn: &Drawn| {
        let mut one = entry(model, drawn.token, drawn.log_prob);
        let alternative = |other: &crate::engine::Alternative| {
            Value::Object(entry(model, other.token, other.log_prob))
        };
        let top: Vec<Value> = drawn.top.iter().map(alternative).collect();
        one.insert("top_logprobs".to_owned(), json!(top));
        Value::Object(one)
    };
    drawn.iter().map(described).collect()
}

/// What completions report: parallel lists. `offset` is where the first token's text begins, in
/// characters; it is moved behind the last.
pub(crate) fn of_completion(
    model: &ModelText,
    drawn: &[Drawn],
    top: usize,
    offset: &mut usize,
) -> Value {
    let (mut tokens, mut log_probs) = (Vec::new(), Vec::new());
    let (mut alternatives, mut offsets) = (Vec::new(), Vec::new());
    for drawn in drawn {
        let text = text_of(model, drawn.token);
        offsets.push(*offset);
        *offset += text.chars().count();
        let mut others = Map::new();
        for other in &drawn.top {
            others
                .entry(text_of(model, other.token))
                .or_insert_with(|| json!(finite(other.log_prob)));
        }
        // The token itself is always among them, as OpenAI has it.
        others.entry(text.clone()).or_insert_with(|| json!(finite(drawn.log_prob)));
        tokens.push(text);
        log_probs.push(finite(drawn.log_prob));
        alternatives.push(Value::Object(others));
    }
    let alternatives = if top == 0 { Value::Null } else { json!(alternatives) };
    json!({
        "tokens": tokens,
        "token_logprobs": log_probs,
        "top_logprobs": alternatives,
        "text_offset": offsets,
    })
}
