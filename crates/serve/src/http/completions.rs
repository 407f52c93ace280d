//! `POST /v1/completions`: text goes on.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Body, json_response};
use super::call::{Call, Thinking};
use super::chat::{StreamOptions, now_seconds, stop_reason, stream_options};
use super::error::ApiError;
use super::fields::{Fields, token_ids, wrong_type};
use super::generation::{End, Step};
use super::job::{Job, Parsing, Prompt, check_answers, wait_for_all};
use super::log_probs;
use super::model_text::ModelText;
use super::parameters::{Parameters, top_log_probs};
use super::shape::Shape;
use super::streaming::{self, Events, Writer};
use super::usage::Usage;
use crate::engine::Drawn;
use crate::structure::Delta;

/// As OpenAI has it.
const MAX_TOKENS_DEFAULT: usize = 16;

struct Asked {
    job: Job,
    look: Look,
    streams: Option<StreamOptions>,
}

/// What answers show beside their text, and under which name they go.
struct Look {
    id: String,
    model_name: String,
    model: Arc<ModelText>,
    created_seconds: u64,
    log_probs: Option<usize>,
    token_ids: bool,
    n: usize,
    /// The prompts themselves, if they are to be shown before their answers.
    echo: Option<Vec<String>>,
    prompts: Vec<Vec<u32>>,
}

pub(crate) async fn answer(call: &mut Call) -> Result<Response<Body>, ApiError> {
    let Asked { job, mut look, streams } = call.think(read).await?;
    look.id = format!("cmpl-{}", call.record()?.id);
    if let Some(options) = streams {
        let continues = !job.parameters.continued.is_empty();
        let offsets = vec![0; look.prompts.len() * look.n];
        let writer = CompletionWriter { look, options, continues, offsets };
        return streaming::stream(call, job, writer).await;
    }
    let (answers, usage) = wait_for_all(call, job).await?;
    let choice = |(index, answer): (usize, &super::job::Whole)| {
        let echo = look.echo(index);
        let text = format!("{echo}{}", plain(&answer.deltas));
        let mut offset = echo.chars().count();
        let ids = look.token_ids.then_some(&answer.token_ids[..]);
        look.choice(index, &text, &answer.drawn, ids, Some(&answer.end), &mut offset)
    };
    let choices: Vec<Value> = answers.iter().enumerate().map(choice).collect();
    let mut body = look.body(json!(choices));
    body["usage"] = usage.to_json();
    Ok(json_response(StatusCode::OK, &body))
}

fn read(thinking: &Thinking<'_>) -> Result<Asked, ApiError> {
    let fields = &thinking.fields;
    let model = &thinking.loaded.model;
    let weights = thinking.weights()?;
    refuse_unsupported(fields)?;
    let streams = stream_options(fields)?;
    let mut parameters = Parameters::read(fields, &["max_tokens"], model, thinking.settings)?;
    if fields.get("max_tokens").is_none() && thinking.settings.max_tokens_default.is_none() {
        let cap = thinking.settings.max_tokens_cap.unwrap_or(MAX_TOKENS_DEFAULT);
        parameters.max_tokens = Some(MAX_TOKENS_DEFAULT.min(cap).max(parameters.min_tokens));
    }
    let log_probs = top_log_probs(fields, "logprobs")?;
    let echoes = fields.flag("echo")?.unwrap_or(false);
    if echoes && log_probs.is_some() {
        let message = "log-probabilities of the prompt are not supported; leave out echo";
        return Err(ApiError::unsupported("logprobs", message));
    }
    let shape = Shape::of_text(fields)?;
    let prompts = prompts(fields, thinking)?;
    check_answers(prompts.len(), parameters.n)?;
    if prompts.len() > 1 && !parameters.continued.is_empty() {
        let message = "an answer can be continued only where there is one; give one prompt";
        return Err(ApiError::field("continue_token_ids", message));
    }
    let text = |tokens: &Vec<u32>| model.tokenizer.decode(tokens, true).unwrap_or_default();
    let logged = thinking
        .settings
        .logs_prompts
        .then(|| prompts.iter().map(text).collect::<Vec<_>>().join("\n"));
    let look = Look {
        id: String::new(),
        model_name: weights.name.clone(),
        model: Arc::clone(model),
        created_seconds: now_seconds(),
        log_probs,
        token_ids: parameters.return_token_ids,
        n: parameters.n,
        echo: echoes.then(|| prompts.iter().map(text).collect()),
        prompts: prompts.clone(),
    };
    let prepared = |tokens| Prompt::new(model, tokens, &shape, Parsing::Plain, parameters.n);
    let prompts = prompts.into_iter().map(prepared).collect::<Result<_, _>>()?;
    let job = Job {
        owner: thinking.owner(parameters.user.as_deref()),
        model_name: weights.name,
        adapter: weights.adapter,
        top_log_probs: log_probs.unwrap_or(0),
        shows_special_tokens: !parameters.skips_special_tokens,
        prompts,
        logged,
        parameters,
    };
    Ok(Asked { job, look, streams })
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    fields.refuse("best_of", &[json!(1)], "best_of is not supported; ask for n and choose")?;
    fields.refuse("suffix", &[json!("")], "text is not fitted in between; leave suffix out")?;
    fields.refuse("use_beam_search", &[json!(false)], "beam search is not supported")?;
    fields.refuse("prompt_logprobs", &[], "log-probabilities of the prompt are not supported")?;
    fields.refuse("prompt_embeds", &[], "prompts are text or token ids")
}

/// A text, token ids, or an array of either.
fn prompts(fields: &Fields<'_>, thinking: &Thinking<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let limits = thinking.loaded.answering.limits();
    let special = fields.flag("add_special_tokens")?.unwrap_or(true);
    let encode = |text: &str| thinking.loaded.model.encode(text, special, limits);
    match fields.get("prompt").ok_or_else(|| fields.missing("prompt"))? {
        Value::String(text) => Ok(vec![encode(text)?]),
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::field("prompt", "prompt is empty; give at least one token"))
        }
        ids @ Value::Array(items) if items[0].is_number() => Ok(vec![token_ids(ids, "prompt")?]),
        Value::Array(items) => {
            check_answers(items.len(), 1)?;
            let one = |(at, item): (usize, &Value)| match item {
                Value::String(text) => encode(text),
                item => token_ids(item, &format!("prompt[{at}]")),
            };
            items.iter().enumerate().map(one).collect()
        }
        other => {
            let wanted = "a string, an array of strings, or token ids";
            Err(wrong_type("prompt".to_owned(), wanted, other))
        }
    }
}

/// Completions are not taken apart, so all there is is text.
fn plain(deltas: &[Delta]) -> String {
    let text = |delta: &Delta| match delta {
        Delta::Text(text) => text.clone(),
        _ => String::new(),
    };
    deltas.iter().map(text).collect()
}

impl Look {
    /// The prompt before answer `index`, where it is asked for.
    fn echo(&self, index: usize) -> &str {
        let prompts = self.echo.as_deref().unwrap_or_default();
        prompts.get(index / self.n).map_or("", String::as_str)
    }

    fn body(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created_seconds,
            "model": self.model_name,
            "system_fingerprint": self.model.system_fingerprint,
            "choices": choices,
        })
    }

    fn choice(
        &self,
        index: usize,
        text: &str,
        drawn: &[Drawn],
        token_ids: Option<&[u32]>,
        end: Option<&End>,
        offset: &mut usize,
    ) -> Value {
        let log_probs =
            self.log_probs.map(|top| log_probs::of_completion(&self.model, drawn, top, offset));
        let mut choice = json!({
            "index": index,
            "text": text,
            "logprobs": log_probs,
            "finish_reason": end.map(|end| end.finish.name()),
            "stop_reason": end.map_or(Value::Null, stop_reason),
        });
        if let Some(ids) = token_ids {
            choice["token_ids"] = json!(ids);
            if end.is_some() {
                choice["prompt_token_ids"] = json!(self.prompts.get(index / self.n));
            }
        }
        choice
    }
}

struct CompletionWriter {
    look: Look,
    options: StreamOptions,
    /// The client has seen the beginning elsewhere.
    continues: bool,
    /// Where the next token's text begins, for each answer, in characters.
    offsets: Vec<usize>,
}

impl CompletionWriter {
    fn write(&mut self, index: usize, text: &str, step: &Step, usage: &Usage, events: &mut Events) {
        let ids: Vec<u32> = step.drawn.iter().map(|drawn| drawn.token).collect();
        let ids = self.look.token_ids.then_some(&ids[..]);
        let offset = &mut self.offsets[index];
        let choice = self.look.choice(index, text, &step.drawn, ids, step.end.as_ref(), offset);
        let mut chunk = self.look.body(json!([choice]));
        if self.options.continuous_usage {
            chunk["usage"] = usage.to_json();
        } else if self.options.includes_usage {
            chunk["usage"] = Value::Null;
        }
        events.data(&chunk);
    }
}

impl Writer for CompletionWriter {
    fn begin(&mut self, replayed: Vec<Step>, usage: &Usage, events: &mut Events) {
        for (index, step) in replayed.into_iter().enumerate() {
            let echo = if self.continues { "" } else { self.look.echo(index) }.to_owned();
            self.offsets[index] = echo.chars().count();
            let shown = Step { end: step.end, ..Step::default() };
            if !echo.is_empty() || shown.end.is_some() {
                self.write(index, &echo, &shown, usage, events);
            }
        }
    }

    fn step(&mut self, answer: usize, step: Step, usage: &Usage, events: &mut Events) {
        let tells_tokens = self.look.token_ids || self.look.log_probs.is_some();
        let news = if tells_tokens { step.drawn.len() } else { 0 } + step.deltas.len();
        if news == 0 && step.end.is_none() {
            return;
        }
        self.write(answer, &plain(&step.deltas), &step, usage, events);
    }

    fn end(&mut self, usage: &Usage, events: &mut Events) {
        if self.options.includes_usage {
            let mut chunk = self.look.body(json!([]));
            chunk["usage"] = usage.to_json();
            events.data(&chunk);
        }
        events.done();
    }

    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&error.to_json());
    }
}
