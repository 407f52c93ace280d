//! `POST /v1/embeddings`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Body, json_response};
use super::call::{Call, Thinking};
use super::error::ApiError;
use super::fields::{token_ids, wrong_type};
use super::job::took_too_long;

/// As OpenAI has it.
const INPUTS_MAX: usize = 2048;

struct Asked {
    model: String,
    owner: String,
    inputs: Vec<Vec<u32>>,
    dimensions: usize,
    base64: bool,
}

pub(crate) async fn answer(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let asked = call.think(read).await?;
    let lengths: Vec<usize> = asked.inputs.iter().map(Vec::len).collect();
    let limit = call.state.settings.request_limit;
    let record = call.record()?;
    record.model.clone_from(&asked.model);
    record.owner = asked.owner;
    record.prompt_tokens = lengths.iter().sum();
    let deadline = tokio::time::Instant::from_std(record.arrived) + limit;
    // All are begun before any is waited for, so that the engine can take them together.
    let embeddings: Vec<_> =
        asked.inputs.into_iter().map(|tokens| call.loaded.answering.embed(tokens)).collect();
    let mut data = Vec::with_capacity(embeddings.len());
    for (index, embedding) in embeddings.into_iter().enumerate() {
        let embedding = tokio::time::timeout_at(deadline, embedding).await;
        let embedding = shortened(embedding.map_err(|_| took_too_long())??, asked.dimensions);
        let embedding = if asked.base64 { encoded(&embedding) } else { json!(embedding) };
        data.push(json!({"object": "embedding", "index": index, "embedding": embedding}));
    }
    let tokens: usize = lengths.iter().sum();
    let answer = json!({
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    Ok(json_response(StatusCode::OK, &answer))
}

fn read(thinking: &Thinking<'_>) -> Result<Asked, ApiError> {
    let fields = &thinking.fields;
    let weights = thinking.weights()?;
    if weights.adapter.is_some() {
        let message = "embeddings are made by the base model only; name that";
        return Err(ApiError::unsupported("model", message));
    }
    let owner = thinking.owner(fields.text("user")?);
    let limits = thinking.loaded.answering.limits();
    let model = &thinking.loaded.model;
    let input = fields.get("input").ok_or_else(|| fields.missing("input"))?;
    let encode = |text: &str| model.encode(text, true, limits);
    let inputs: Vec<Vec<u32>> = match input {
        Value::String(text) => vec![encode(text)?],
        Value::Array(items) if items.is_empty() => {
            return Err(ApiError::field("input", "input is empty; give at least one text"));
        }
        Value::Array(items) if items[0].is_number() => vec![token_ids(input, "input")?],
        Value::Array(items) if items.len() > INPUTS_MAX => {
            let message = format!("there are {} inputs; {INPUTS_MAX} are the most", items.len());
            return Err(ApiError::field("input", message));
        }
        Value::Array(items) => {
            let one = |(at, item): (usize, &Value)| match item {
                Value::String(text) => encode(text),
                item => token_ids(item, &format!("input[{at}]")),
            };
            items.iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
        other => {
            return Err(wrong_type(
                "input".to_owned(),
                "a string, an array of strings, or token ids",
                other,
            ));
        }
    };
    if inputs.iter().any(Vec::is_empty) {
        return Err(ApiError::field("input", "an input is empty; give at least one token"));
    }
    let base64 = match fields.text("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is `{other}`; it must be float or base64");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    let dimensions =
        fields.integer("dimensions", 1..=limits.hidden_size as i128)?.map(|number| number as usize);
    Ok(Asked {
        model: weights.name,
        owner,
        inputs,
        dimensions: dimensions.unwrap_or(limits.hidden_size),
        base64,
    })
}

/// The first `dimensions` numbers, scaled to length 1 again.
fn shortened(mut embedding: Vec<f32>, dimensions: usize) -> Vec<f32> {
    if dimensions < embedding.len() {
        embedding.truncate(dimensions);
        let length = embedding.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            embedding.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
    embedding
}

/// Little-endian f32, as OpenAI's clients read it.
fn encoded(embedding: &[f32]) -> Value {
    let bytes: Vec<u8> = embedding.iter().flat_map(|number| number.to_le_bytes()).collect();
    Value::String(STANDARD.encode(bytes))
}
