//! `POST /v1/responses`: OpenAI's newer way to ask, of which nothing is kept here.

mod input;
mod items;
mod stream;

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::{Body, json_response};
use super::call::{Call, Thinking};
use super::chat::{messages, now_seconds};
use super::error::ApiError;
use super::fields::Fields;
use super::generation::FinishReason;
use super::job::{Job, Parsing, Prompt, wait_for_all};
use super::log_probs;
use super::model_text::ModelText;
use super::parameters::{Parameters, top_log_probs};
use super::shape::{Shape, schema_of};
use super::streaming;
use super::usage::Usage;
use crate::structure::ToolChoice;
use items::Items;

/// The value of `include` that asks for log-probabilities.
const INCLUDE_LOG_PROBS: &str = "message.output_text.logprobs";

struct Asked {
    job: Job,
    frame: Frame,
    streams: bool,
}

/// What every state of a response shows of its request.
struct Frame {
    id: String,
    model: Arc<ModelText>,
    created_seconds: u64,
    log_probs: bool,
    token_ids: bool,
    /// The fields that are shown as they were asked for.
    asked: Map<String, Value>,
}

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete => "incomplete",
            Status::Failed => "failed",
        }
    }

    fn of(finish: FinishReason) -> Status {
        match finish {
            FinishReason::Stop | FinishReason::ToolCalls => Status::Completed,
            FinishReason::Length => Status::Incomplete,
        }
    }
}

pub(crate) async fn answer(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let Asked { job, mut frame, streams } = call.think(read).await?;
    let id = call.record()?.id.clone();
    frame.id = format!("resp_{id}");
    let items = Items::new(&id);
    if streams {
        let writer = stream::ResponseWriter::new(frame, items);
        return streaming::stream(call, job, writer).await;
    }
    let (answers, usage) = wait_for_all(call, job).await?;
    let Some(answer) = answers.into_iter().next() else {
        return Err(ApiError::internal("there is no answer"));
    };
    let mut items = items;
    let log_probs = frame.log_probs.then(|| log_probs::of_chat(&frame.model, &answer.drawn));
    items.push(&answer.deltas, log_probs.unwrap_or_default(), &mut |_, _| {});
    let status = Status::of(answer.end.finish);
    items.finish(status.name(), &mut |_, _| {});
    let mut body = frame.response(status, items.done(), Some(&usage), None);
    if frame.token_ids {
        body["token_ids"] = json!(answer.token_ids);
    }
    Ok(json_response(StatusCode::OK, &body))
}

fn read(thinking: &Thinking<'_>) -> Result<Asked, ApiError> {
    let fields = &thinking.fields;
    let model = &thinking.loaded.model;
    let weights = thinking.weights()?;
    refuse_unsupported(fields)?;
    let parameters = Parameters::read(fields, &["max_output_tokens"], model, thinking.settings)?;
    let log_probs = match fields.list("include")? {
        Some(_) => fields.texts("include")?.iter().any(|wanted| wanted == INCLUDE_LOG_PROBS),
        None => false,
    };
    let top = top_log_probs(fields, "top_logprobs")?.unwrap_or(0);
    let shape = Shape::of_responses(fields)?;
    let text = messages::conversation(fields, input::messages(fields)?, &shape, model)?;
    let tokens = model.encode(&text, false, thinking.loaded.answering.limits())?;
    let prompt = Prompt::new(model, tokens, &shape, Parsing::Chat, 1)?;
    let frame = Frame {
        id: String::new(),
        model: Arc::clone(model),
        created_seconds: now_seconds(),
        log_probs,
        token_ids: parameters.return_token_ids,
        asked: shown(fields, &weights.name, &parameters, &shape, top)?,
    };
    let job = Job {
        owner: thinking.owner(parameters.user.as_deref()),
        model_name: weights.name,
        adapter: weights.adapter,
        top_log_probs: if log_probs { top } else { 0 },
        shows_special_tokens: !parameters.skips_special_tokens || shape.offers_tools(),
        prompts: vec![prompt],
        logged: thinking.settings.logs_prompts.then_some(text),
        parameters,
    };
    Ok(Asked { job, frame, streams: fields.flag("stream")?.unwrap_or(false) })
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    let nothing_kept = "responses are not kept; send the whole conversation as input";
    fields.refuse("previous_response_id", &[], nothing_kept)?;
    fields.refuse("conversation", &[], nothing_kept)?;
    fields.refuse("background", &[json!(false)], "responses are made while the client waits")?;
    fields.refuse("prompt", &[], "prompts are not kept here; send instructions and input")?;
    fields.refuse("n", &[json!(1)], "a response is one answer; send several requests")?;
    fields.refuse(
        "continue_token_ids",
        &[json!([])],
        "responses cannot be continued; use /v1/chat/completions",
    )
}

/// The part of a response that repeats the request.
fn shown(
    fields: &Fields<'_>,
    model_name: &str,
    parameters: &Parameters,
    shape: &Shape,
    top: usize,
) -> Result<Map<String, Value>, ApiError> {
    let text = fields.text("instructions")?;
    let reasoning = fields.object("reasoning")?;
    let effort = reasoning.map(|reasoning| reasoning.text("effort")).transpose()?.flatten();
    let metadata = fields.object("metadata")?.map(|metadata| metadata.map().clone());
    let tools: Vec<Value> = shape
        .tools
        .iter()
        .map(|tool| {
            json!({
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": schema_of(tool),
                "strict": tool.strict,
            })
        })
        .collect();
    let choice = match &shape.choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "name": name}),
        // Without tools the default is `auto`, which then means the same.
        ToolChoice::None if shape.tools.is_empty() => json!("auto"),
        ToolChoice::None => json!("none"),
    };
    let format = fields.object("text")?.and_then(|text| text.get("format").cloned());
    let shown = json!({
        "model": model_name,
        "instructions": text,
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": metadata.unwrap_or_default(),
        "parallel_tool_calls": shape.parallel,
        "previous_response_id": null,
        "reasoning": {"effort": effort, "summary": null},
        "store": false,
        "temperature": parameters.sampling.temperature,
        "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
        "tool_choice": choice,
        "tools": tools,
        "top_logprobs": top,
        "top_p": parameters.sampling.top_p,
        "truncation": "disabled",
        "user": parameters.user,
    });
    match shown {
        Value::Object(shown) => Ok(shown),
        _ => Err(ApiError::internal("a response is no object")),
    }
}

impl Frame {
    /// The response as it stands.
    fn response(
        &self,
        status: Status,
        output: &[Value],
        usage: Option<&Usage>,
        error: Option<&ApiError>,
    ) -> Value {
        let why = (status == Status::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        let error = error.map(|error| json!({"code": "server_error", "message": error.message}));
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_seconds,
            "status": status.name(),
            "background": false,
            "error": error,
            "incomplete_details": why,
            "output": output,
            "usage": usage.map(|usage| usage.to_responses_json()),
        });
        if let Value::Object(response) = &mut response {
            response.extend(self.asked.clone());
        }
        response
    }
}
