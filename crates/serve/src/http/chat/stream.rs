//! Chat completions as chunks.

use serde_json::{Map, Value, json};

use super::{Look, StreamOptions, stop_reason};
use crate::http::error::ApiError;
use crate::http::generation::Step;
use crate::http::log_probs;
use crate::http::streaming::{Events, Writer};
use crate::http::usage::Usage;
use crate::structure::Delta;

pub(super) struct ChatWriter {
    look: Look,
    options: StreamOptions,
    /// The client has seen the beginning elsewhere.
    continues: bool,
    n: usize,
}

impl ChatWriter {
    pub fn new(look: Look, options: StreamOptions, continues: bool, n: usize) -> ChatWriter {
        ChatWriter { look, options, continues, n }
    }

    fn chunk(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut chunk = json!({
            "id": self.look.id,
            "object": "chat.completion.chunk",
            "created": self.look.created_seconds,
            "model": self.look.model_name,
            "system_fingerprint": self.look.model.system_fingerprint,
            "choices": choices,
        });
        if self.options.includes_usage || usage.is_some() {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        chunk
    }

    fn running_usage(&self, usage: &Usage) -> Option<Value> {
        self.options.continuous_usage.then(|| usage.to_json())
    }

    fn choice(&self, index: usize, delta: Value, step: &Step) -> Value {
        let shown = !step.drawn.is_empty() && self.look.log_probs;
        let log_probs = shown.then(|| {
            json!({"content": log_probs::of_chat(&self.look.model, &step.drawn), "refusal": null})
        });
        let mut choice = json!({
            "index": index,
            "delta": delta,
            "logprobs": log_probs,
            "finish_reason": step.end.as_ref().map(|end| end.finish.name()),
        });
        if let Some(end) = &step.end {
            choice["stop_reason"] = stop_reason(end);
        }
        if self.look.token_ids {
            let ids: Vec<u32> = step.drawn.iter().map(|drawn| drawn.token).collect();
            choice["token_ids"] = json!(ids);
        }
        choice
    }

    fn ended_already(&self, index: usize, step: Step, usage: &Usage, events: &mut Events) {
        let end = Step { end: step.end, ..Step::default() };
        let choice = self.choice(index, json!({}), &end);
        events.data(&self.chunk(json!([choice]), self.running_usage(usage)));
    }
}

impl Writer for ChatWriter {
    fn begin(&mut self, replayed: Vec<Step>, usage: &Usage, events: &mut Events) {
        if !self.continues {
            for index in 0..self.n {
                let delta = json!({"role": "assistant", "content": ""});
                let choice = self.choice(index, delta, &Step::default());
                let mut chunk = self.chunk(json!([choice]), self.running_usage(usage));
                if self.look.token_ids && index == 0 {
                    chunk["prompt_token_ids"] = json!(self.look.prompt_token_ids);
                }
                events.data(&chunk);
            }
        }
        for (index, step) in replayed.into_iter().enumerate() {
            if step.end.is_some() {
                self.ended_already(index, step, usage, events);
            }
        }
    }

    fn step(&mut self, answer: usize, step: Step, usage: &Usage, events: &mut Events) {
        let tells_tokens = self.look.token_ids || self.look.log_probs;
        let news = if tells_tokens { step.drawn.len() } else { 0 } + step.deltas.len();
        if news == 0 && step.end.is_none() {
            return;
        }
        let choice = self.choice(answer, delta(&step.deltas), &step);
        events.data(&self.chunk(json!([choice]), self.running_usage(usage)));
    }

    fn end(&mut self, usage: &Usage, events: &mut Events) {
        if self.options.includes_usage {
            events.data(&self.chunk(json!([]), Some(usage.to_json())));
        }
        events.done();
    }

    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&error.to_json());
    }
}

/// What came in one step, as one `delta`.
fn delta(deltas: &[Delta]) -> Value {
    let (mut text, mut reasoning) = (None::<String>, None::<String>);
    let mut calls: Vec<(usize, Map<String, Value>, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::Text(more) => text.get_or_insert_default().push_str(more),
            Delta::Reasoning(more) => reasoning.get_or_insert_default().push_str(more),
            Delta::ToolCall { index, id, name } => {
                let mut call = Map::new();
                call.insert("index".to_owned(), json!(index));
                call.insert("id".to_owned(), json!(id));
                call.insert("type".to_owned(), json!("function"));
                call.insert("function".to_owned(), json!({"name": name}));
                calls.push((*index, call, String::new()));
            }
            Delta::ToolArguments { index, text } => match calls.last_mut() {
                Some((same, _, arguments)) if same == index => arguments.push_str(text),
                _ => {
                    let mut call = Map::new();
                    call.insert("index".to_owned(), json!(index));
                    call.insert("function".to_owned(), json!({}));
                    calls.push((*index, call, text.clone()));
                }
            },
        }
    }
    let mut delta = Map::new();
    if let Some(text) = text {
        delta.insert("content".to_owned(), json!(text));
    }
    if let Some(reasoning) = reasoning {
        delta.insert("reasoning_content".to_owned(), json!(reasoning));
    }
    if !calls.is_empty() {
        let finished = |(_, mut call, arguments): (usize, Map<String, Value>, String)| {
            if let Some(function) = call.get_mut("function") {
                function["arguments"] = json!(arguments);
            }
            Value::Object(call)
        };
        delta.insert("tool_calls".to_owned(), calls.into_iter().map(finished).collect());
    }
    Value::Object(delta)
}
