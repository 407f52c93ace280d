//! Streams of `/v1/responses`: passed on event by event. Only the model's name is changed, and usage
//! read.

use serde_json::json;

use super::continuation::{Broken, Taken, error_message};
use super::events::Event;
use super::fields::{Fields, ObjectWriter, push_text};
use super::usage::Usage;
use crate::ask::Ask;
use crate::error::ApiError;

pub(super) struct Response {
    model: String,
    has_begun: bool,
    /// Events with text: tokens, as far as one can tell.
    pieces: u64,
    usage: Option<Usage>,
    sequence_number: u64,
    /// The event that ends it, kept until the account is safe.
    last: Vec<u8>,
}

impl Response {
    pub fn new(ask: &Ask) -> Response {
        let mut model = Vec::new();
        push_text(&mut model, &ask.model);
        Response {
            model: String::from_utf8(model).unwrap_or_default(),
            has_begun: false,
            pieces: 0,
            usage: None,
            sequence_number: 0,
            last: Vec::new(),
        }
    }

    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub fn generated(&self) -> u64 {
        self.pieces
    }

    pub fn usage(&self, ask: &Ask) -> (Usage, bool) {
        let estimate = Usage::new(ask.prompt_tokens, self.pieces);
        self.usage.map_or((estimate, true), |usage| (usage, false))
    }

    pub fn take(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<Taken, Broken> {
        if &event.data[..] == b"[DONE]" {
            return Ok(Taken::Done);
        }
        let fields = Fields::read(&event.data).ok_or(Broken::Garbage)?;
        let kind: String = fields.typed("type").ok_or(Broken::Garbage)?;
        self.sequence_number = fields.typed("sequence_number").unwrap_or(self.sequence_number + 1);
        match kind.as_str() {
            "error" => return Err(Broken::Error(fields.typed("message").unwrap_or_default())),
            "response.failed" if !self.has_begun => {
                let response = fields.typed::<Fields<'_>>("response");
                let error = response.as_ref().and_then(|response| response.get("error"));
                return Err(Broken::Error(error.map(error_message).unwrap_or_default()));
            }
            _ => {}
        }
        self.pieces += u64::from(kind.ends_with(".delta"));
        let is_last =
            matches!(&*kind, "response.completed" | "response.incomplete" | "response.failed");
        let mut last = std::mem::take(&mut self.last);
        let to = if is_last { &mut last } else { out };
        match fields.typed::<Fields<'_>>("response") {
            None => to.extend_from_slice(&event.bytes()),
            Some(response) => {
                self.usage = response.typed("usage").or(self.usage);
                self.write(&kind, &fields, &response, to);
            }
        }
        self.last = last;
        self.has_begun = true;
        Ok(if is_last { Taken::Done } else { Taken::Written })
    }

    fn write(&self, kind: &str, event: &Fields<'_>, response: &Fields<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.replace(['\n', '\r'], " ").as_bytes());
        out.extend_from_slice(b"\ndata: ");
        let mut object = ObjectWriter::new(out);
        for (name, value) in &event.0 {
            if name != "response" {
                object.put(name, value.get());
                continue;
            }
            let mut inner = ObjectWriter::new(object.field(name));
            for (name, value) in &response.0 {
                inner.put(name, if name == "model" { &self.model } else { value.get() });
            }
            inner.end();
        }
        object.end();
        out.extend_from_slice(b"\n\n");
    }

    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.last);
    }

    /// OpenAI's event for it.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        let event = json!({
            "type": "error", "code": error.code, "message": error.message, "param": error.param,
            "sequence_number": self.sequence_number + 1,
        });
        out.extend_from_slice(format!("event: error\ndata: {event}\n\n").as_bytes());
    }
}
