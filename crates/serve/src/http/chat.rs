//! `POST /v1/chat/completions`.

pub(super) mod messages;
mod stream;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::{Body, json_response};
use super::call::{Call, Thinking};
use super::error::ApiError;
use super::fields::Fields;
use super::generation::{End, StopReason};
use super::job::{Job, Parsing, Prompt, Whole, check_answers, wait_for_all};
use super::log_probs;
use super::model_text::ModelText;
use super::parameters::{Parameters, top_log_probs};
use super::shape::Shape;
use super::streaming;
use crate::structure::Delta;

/// What an answer shows beside its text, and under which name it goes.
pub(super) struct Look {
    pub id: String,
    pub model_name: String,
    pub model: Arc<ModelText>,
    pub created_seconds: u64,
    pub log_probs: bool,
    pub token_ids: bool,
    pub prompt_token_ids: Vec<u32>,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamOptions {
    pub includes_usage: bool,
    /// vLLM's: usage so far in every chunk.
    pub continuous_usage: bool,
}

struct Asked {
    job: Job,
    log_probs: bool,
    streams: Option<StreamOptions>,
}

pub(super) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// How an answer is streamed, if it is.
pub(super) fn stream_options(fields: &Fields<'_>) -> Result<Option<StreamOptions>, ApiError> {
    let options = match fields.object("stream_options")? {
        None => StreamOptions::default(),
        Some(options) => StreamOptions {
            includes_usage: options.flag("include_usage")?.unwrap_or(false),
            continuous_usage: options.flag("continuous_usage_stats")?.unwrap_or(false),
        },
    };
    Ok(fields.flag("stream")?.unwrap_or(false).then_some(options))
}

pub(crate) async fn answer(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let asked = call.think(read).await?;
    let look = Look {
        id: format!("chatcmpl-{}", call.record()?.id),
        model_name: asked.job.model_name.clone(),
        model: Arc::clone(&call.loaded.model),
        created_seconds: now_seconds(),
        log_probs: asked.log_probs,
        token_ids: asked.job.parameters.return_token_ids,
        prompt_token_ids: asked.job.prompts.first().map_or_else(Vec::new, |p| p.tokens.clone()),
    };
    if let Some(options) = asked.streams {
        let continues = !asked.job.parameters.continued.is_empty();
        let writer = stream::ChatWriter::new(look, options, continues, asked.job.parameters.n);
        return streaming::stream(call, asked.job, writer).await;
    }
    let (answers, usage) = wait_for_all(call, asked.job).await?;
    let choices: Vec<Value> =
        answers.iter().enumerate().map(|(index, answer)| choice(&look, index, answer)).collect();
    let mut answer = json!({
        "id": look.id,
        "object": "chat.completion",
        "created": look.created_seconds,
        "model": look.model_name,
        "system_fingerprint": look.model.system_fingerprint,
        "choices": choices,
        "usage": usage.to_json(),
    });
    if look.token_ids {
        answer["prompt_token_ids"] = json!(look.prompt_token_ids);
    }
    Ok(json_response(StatusCode::OK, &answer))
}

fn read(thinking: &Thinking<'_>) -> Result<Asked, ApiError> {
    let fields = &thinking.fields;
    let model = &thinking.loaded.model;
    let weights = thinking.weights()?;
    refuse_unsupported(fields)?;
    let streams = stream_options(fields)?;
    let parameters = Parameters::read(
        fields,
        &["max_completion_tokens", "max_tokens"],
        model,
        thinking.settings,
    )?;
    let log_probs = fields.flag("logprobs")?.unwrap_or(false);
    let top = top_log_probs(fields, "top_logprobs")?;
    if top.is_some_and(|top| top > 0) && !log_probs {
        let message = "top_logprobs needs logprobs to be true";
        return Err(ApiError::field("top_logprobs", message));
    }
    let shape = Shape::of_chat(fields)?;
    let text = messages::rendered(fields, &shape, model)?;
    check_answers(1, parameters.n)?;
    let limits = thinking.loaded.answering.limits();
    let tokens = model.encode(&text, false, limits)?;
    let prompt = Prompt::new(model, tokens, &shape, Parsing::Chat, parameters.n)?;
    Ok(Asked {
        job: Job {
            owner: thinking.owner(parameters.user.as_deref()),
            model_name: weights.name,
            adapter: weights.adapter,
            top_log_probs: top.unwrap_or(0),
            // Some models write calls with control tokens, which the parser has to see.
            shows_special_tokens: !parameters.skips_special_tokens || shape.offers_tools(),
            prompts: vec![prompt],
            logged: thinking.settings.logs_prompts.then_some(text),
            parameters,
        },
        log_probs,
        streams,
    })
}

/// Fields that would change the answer, were they not left out of account.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    fields.refuse("best_of", &[json!(1)], "best_of is not supported; ask for n and choose")?;
    fields.refuse("use_beam_search", &[json!(false)], "beam search is not supported")?;
    fields.refuse("modalities", &[json!(["text"])], "answers are text only; leave it out")?;
    fields.refuse("audio", &[], "answers are text only; leave it out")?;
    fields.refuse("prompt_logprobs", &[], "log-probabilities of the prompt are not supported")?;
    fields.refuse("chat_template", &[], "the model's own template is used; leave it out")?;
    fields.refuse("web_search_options", &[], "there is no web search here; leave it out")
}

fn choice(look: &Look, index: usize, answer: &Whole) -> Value {
    let log_probs = look.log_probs.then(
        || json!({"content": log_probs::of_chat(&look.model, &answer.drawn), "refusal": null}),
    );
    let mut choice = json!({
        "index": index,
        "message": message(&answer.deltas),
        "logprobs": log_probs,
        "finish_reason": answer.end.finish.name(),
        "stop_reason": stop_reason(&answer.end),
    });
    if look.token_ids {
        choice["token_ids"] = json!(answer.token_ids);
    }
    choice
}

/// An answer as a message of the conversation.
fn message(deltas: &[Delta]) -> Value {
    let (mut text, mut reasoning) = (None::<String>, None::<String>);
    let mut calls: Vec<(&str, &str, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::Text(more) => text.get_or_insert_default().push_str(more),
            Delta::Reasoning(more) => reasoning.get_or_insert_default().push_str(more),
            Delta::ToolCall { id, name, .. } => calls.push((id, name, String::new())),
            Delta::ToolArguments { index, text } => {
                if let Some(call) = calls.get_mut(*index) {
                    call.2.push_str(text);
                }
            }
        }
    }
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    // A call without words has no content; an answer without words has an empty one.
    let content = if calls.is_empty() { Some(text.unwrap_or_default()) } else { text };
    message.insert("content".to_owned(), json!(content));
    message.insert("refusal".to_owned(), Value::Null);
    if let Some(reasoning) = reasoning {
        message.insert("reasoning_content".to_owned(), json!(reasoning));
    }
    if !calls.is_empty() {
        let shown = |(id, name, arguments): &(&str, &str, String)| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"id": id, "type": "function", "function": function})
        };
        message.insert("tool_calls".to_owned(), calls.iter().map(shown).collect());
    }
    Value::Object(message)
}

pub(super) fn stop_reason(end: &End) -> Value {
    match &end.stop_reason {
        None => Value::Null,
        Some(StopReason::Text(text)) => json!(text),
        Some(StopReason::Token(token)) => json!(token),
    }
}
