//! `/tokenize` and `/detokenize`, in vLLM's shapes.

use hyper::{Response, StatusCode};
use serde_json::json;

use super::body::{Body, json_response};
use super::call::{Call, Thinking};
use super::chat::messages;
use super::error::ApiError;
use super::shape::Shape;

pub(crate) async fn tokenize(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let found = call.think(|thinking| {
        thinking.weights()?;
        let tokens = tokens(thinking)?;
        let model = &thinking.loaded.model;
        let spelled = thinking.fields.flag("return_token_strs")?.unwrap_or(false).then(|| {
            let spell = |id: &u32| model.tokenizer.id_to_token(*id).unwrap_or_default();
            tokens.iter().map(spell).collect::<Vec<_>>()
        });
        Ok(json!({
            "count": tokens.len(),
            "max_model_len": thinking.loaded.answering.limits().context,
            "tokens": tokens,
            "token_strs": spelled,
        }))
    });
    Ok(json_response(StatusCode::OK, &found.await?))
}

fn tokens(thinking: &Thinking<'_>) -> Result<Vec<u32>, ApiError> {
    let fields = &thinking.fields;
    let model = &thinking.loaded.model;
    let limits = thinking.loaded.answering.limits();
    let special = fields.flag("add_special_tokens")?;
    match (fields.text("prompt")?, fields.get("messages")) {
        (Some(prompt), None) => model.encode(prompt, special.unwrap_or(true), limits),
        (None, Some(_)) => {
            let shape = Shape::of_chat(fields)?;
            let text = messages::rendered(fields, &shape, model)?;
            model.encode(&text, special.unwrap_or(false), limits)
        }
        (Some(_), Some(_)) => {
            Err(ApiError::field("messages", "there are a prompt and messages; give one of them"))
        }
        (None, None) => Err(fields.missing("prompt")),
    }
}

pub(crate) async fn detokenize(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let text = call.think(|thinking| {
        thinking.weights()?;
        let fields = &thinking.fields;
        let tokens = fields.token_ids("tokens")?.ok_or_else(|| fields.missing("tokens"))?;
        thinking.loaded.model.decode(&tokens)
    });
    Ok(json_response(StatusCode::OK, &json!({"prompt": text.await?})))
}
