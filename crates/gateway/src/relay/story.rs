//! What kind of stream it is: chunks of an answer that can go on elsewhere, or the events of a
//! response, which cannot.

use serde_json::value::RawValue;

use super::attempt::Set;
use super::continuation::{Broken, Taken, Told, Way};
use super::events::Event;
use super::responses::Response;
use super::usage::Usage;
use crate::ask::{Ask, Kind};
use crate::config::Continues;
use crate::error::ApiError;

pub(super) enum Story {
    Chunks(Told),
    Response(Response),
}

/// What a backend is to be asked for.
pub(super) enum Next {
    Ask(Way, Set),
    /// Nothing is left of what may be said.
    Complete,
    /// This one cannot go on.
    Unable,
}

impl Story {
    pub fn new(ask: &Ask) -> Story {
        match ask.kind {
            Kind::Responses => Story::Response(Response::new(ask)),
            _ => Story::Chunks(Told::new(ask)),
        }
    }

    pub fn take(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<Taken, Broken> {
        match self {
            Story::Chunks(told) => told.take(&event.data, out),
            Story::Response(response) => response.take(event, out),
        }
    }

    pub fn has_begun(&self) -> bool {
        match self {
            Story::Chunks(told) => told.has_begun(),
            Story::Response(response) => response.has_begun(),
        }
    }

    pub fn is_complete(&self, ask: &Ask) -> bool {
        match self {
            Story::Chunks(told) => told.is_complete(ask),
            Story::Response(_) => false,
        }
    }

    pub fn generated(&self) -> u64 {
        match self {
            Story::Chunks(told) => told.generated(),
            Story::Response(response) => response.generated(),
        }
    }

    pub fn usage(&self, ask: &Ask) -> (Usage, bool) {
        match self {
            Story::Chunks(told) => told.usage(ask),
            Story::Response(response) => response.usage(ask),
        }
    }

    /// The answer's text, as far as it is kept.
    pub fn text(&self) -> &str {
        match self {
            Story::Chunks(told) => told.text(),
            Story::Response(_) => "",
        }
    }

    /// Whether any backend at all could go on.
    pub fn can_go_on(&self, ask: &Ask) -> bool {
        match self {
            Story::Chunks(told) => told.way(Continues::Tokens, ask).is_some(),
            Story::Response(_) => false,
        }
    }

    pub fn next(&self, continues: Continues, ask: &Ask) -> Next {
        match self {
            Story::Chunks(told) => match told.way(continues, ask) {
                None => Next::Unable,
                Some(Way::Text) if told.is_used_up(ask) => Next::Complete,
                Some(way) => match told.request(ask, way) {
                    Some(set) => Next::Ask(way, set),
                    None => Next::Unable,
                },
            },
            Story::Response(response) if response.has_begun() => Next::Unable,
            Story::Response(_) => Next::Ask(Way::Again, Vec::<(&str, Box<RawValue>)>::new()),
        }
    }

    pub fn go_on(&mut self, way: Way) {
        if let Story::Chunks(told) = self {
            told.go_on(way);
        }
    }

    pub fn end_by_length(&mut self, out: &mut Vec<u8>) {
        if let Story::Chunks(told) = self {
            told.end_by_length(out);
        }
    }

    /// The last of an answer that is complete.
    pub fn end(&mut self, ask: &Ask, cost: &str, out: &mut Vec<u8>) {
        match self {
            Story::Chunks(told) => {
                told.end(ask, out);
                out.extend_from_slice(cost.as_bytes());
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            Story::Response(response) => {
                out.extend_from_slice(cost.as_bytes());
                response.end(out);
            }
        }
    }

    /// The last of one that is not.
    pub fn fail(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        match self {
            Story::Chunks(_) => {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(&error.body());
                out.extend_from_slice(b"\n\n");
            }
            Story::Response(response) => response.fail(error, out),
        }
    }
}
