//! Responses as typed events, each with its number.

use serde_json::{Map, Value, json};

use super::items::Items;
use super::{Frame, Status};
use crate::http::error::ApiError;
use crate::http::generation::Step;
use crate::http::log_probs;
use crate::http::streaming::{Events, Writer};
use crate::http::usage::Usage;

pub(super) struct ResponseWriter {
    frame: Frame,
    items: Items,
    next_number: usize,
    status: Status,
    token_ids: Vec<u32>,
}

impl ResponseWriter {
    pub fn new(frame: Frame, items: Items) -> ResponseWriter {
        let status = Status::InProgress;
        ResponseWriter { frame, items, next_number: 0, status, token_ids: Vec::new() }
    }

    fn tell_whole(
        &mut self,
        name: &'static str,
        usage: Option<&Usage>,
        error: Option<&ApiError>,
        events: &mut Events,
    ) {
        let mut response = self.frame.response(self.status, self.items.done(), usage, error);
        if self.frame.token_ids && self.status != Status::InProgress {
            response["token_ids"] = json!(self.token_ids);
        }
        tell(events, &mut self.next_number, name, json!({"response": response}));
    }
}

impl Writer for ResponseWriter {
    fn begin(&mut self, _: Vec<Step>, _: &Usage, events: &mut Events) {
        self.tell_whole("response.created", None, None, events);
        self.tell_whole("response.in_progress", None, None, events);
    }

    fn step(&mut self, _: usize, step: Step, _: &Usage, events: &mut Events) {
        let log_probs = self.frame.log_probs;
        let log_probs = log_probs.then(|| log_probs::of_chat(&self.frame.model, &step.drawn));
        let number = &mut self.next_number;
        self.items.push(&step.deltas, log_probs.unwrap_or_default(), &mut |name, fields| {
            tell(events, number, name, fields);
        });
        self.token_ids.extend(step.drawn.iter().map(|drawn| drawn.token));
        if let Some(end) = step.end {
            self.status = Status::of(end.finish);
            let status = self.status.name();
            self.items.finish(status, &mut |name, fields| tell(events, number, name, fields));
        }
    }

    fn end(&mut self, usage: &Usage, events: &mut Events) {
        let name = match self.status {
            Status::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        self.tell_whole(name, Some(usage), None, events);
    }

    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        self.status = Status::Failed;
        self.tell_whole("response.failed", None, Some(error), events);
    }
}

fn tell(events: &mut Events, next_number: &mut usize, name: &'static str, fields: Value) {
    let mut event = Map::new();
    event.insert("type".to_owned(), json!(name));
    event.insert("sequence_number".to_owned(), json!(*next_number));
    if let Value::Object(fields) = fields {
        event.extend(fields);
    }
    *next_number += 1;
    events.named(name, &event);
}
