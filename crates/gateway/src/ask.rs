//! What the gateway reads of a client's request: whom to ask, how much it may cost, and where its
//! like was answered before. All else is passed on byte for byte.
//!
//! Knows no backend. Bodies are untrusted: whatever cannot be read in one way only is refused, so
//! that no backend understands another request than the one that was counted and allowed.

mod fields;
mod form;
mod prompt;

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde_json::value::RawValue;
use tokio::time::Instant;

use fields::Fields;
use form::Form;

/// A request as far as it is understood here.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `x-request-id` of the answer.
    pub id: String,
    pub method: Method,
    /// With its query.
    pub path: String,
    /// What may be passed on: no credentials of the client, nothing that belongs to the connection.
    pub headers: HeaderMap,
    pub kind: Kind,
    pub model: String,
    pub streamed: bool,
    /// Answers to each prompt.
    pub answers: u64,
    pub max_tokens: Option<u64>,
    /// Estimated from the length of the text.
    pub prompt_tokens: u64,
    /// No prompt of this length has more tokens: each stands for a byte at least.
    pub prompt_tokens_max: u64,
    /// The same for prompts with the same beginning.
    pub prefix: u64,
    pub includes_usage: bool,
    pub wants_token_ids: bool,
    pub has_seed: bool,
    pub arrived: Instant,
    body: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/embeddings`
    Embeddings,
    /// Everything else that OpenAI's interface has.
    Other,
}

#[derive(Clone)]
enum Content {
    Json(Fields),
    Form(Form),
    /// A body without a model, or none.
    Opaque(Bytes),
}

/// Why a request is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AskError {
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    #[error("the body is no JSON object")]
    NotAnObject,
    #[error("`{0}` is there twice; give it once")]
    Twice(String),
    #[error("`{field}` must be {expected}")]
    Type { field: &'static str, expected: &'static str },
    #[error("`model` is missing; GET /v1/models lists what there is")]
    NoModel,
    #[error("the form is not understood: {0}")]
    Form(&'static str),
    #[error(
        "this path names no model, so it could go anywhere; say in the header `x-fungible-model` whose supplier shall take it"
    )]
    NoModelInPath,
    #[error(
        "the body must be application/json or multipart/form-data; say which in `content-type`"
    )]
    ContentType,
}

impl AskError {
    /// The field of the request that is at fault.
    pub fn param(&self) -> Option<&str> {
        match self {
            AskError::Twice(field) => Some(field),
            AskError::Type { field, .. } => Some(field),
            AskError::NoModel => Some("model"),
            _ => None,
        }
    }
}

/// The head of a request whose body has been read.
pub struct Head {
    pub id: String,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub arrived: Instant,
}

const MODEL_HEADER: &str = "x-fungible-model";

impl Kind {
    pub fn of_path(path: &str) -> Kind {
        match path.split('?').next().unwrap_or_default() {
            "/v1/chat/completions" => Kind::Chat,
            "/v1/completions" => Kind::Completions,
            "/v1/responses" => Kind::Responses,
            "/v1/embeddings" => Kind::Embeddings,
            _ => Kind::Other,
        }
    }

    /// The field that holds the prompt.
    fn prompt_field(self) -> &'static str {
        match self {
            Kind::Chat => "messages",
            Kind::Completions => "prompt",
            Kind::Responses | Kind::Embeddings | Kind::Other => "input",
        }
    }
}

impl Ask {
    /// # Errors
    /// A body that is not understood, or no model.
    pub fn read(head: Head, body: Bytes) -> Result<Ask, AskError> {
        let kind = Kind::of_path(&head.path);
        let given = head.headers.get(MODEL_HEADER).and_then(|value| value.to_str().ok());
        let given = given.map(str::to_owned);
        let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.unwrap_or_default();
        let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut ask = Ask {
            id: head.id,
            method: head.method,
            path: head.path,
            headers: passed_on(&head.headers),
            kind,
            model: String::new(),
            streamed: false,
            answers: 1,
            max_tokens: None,
            prompt_tokens: 0,
            prompt_tokens_max: body.len() as u64,
            prefix: 0,
            includes_usage: false,
            wants_token_ids: false,
            has_seed: false,
            arrived: head.arrived,
            body: Content::Opaque(Bytes::new()),
        };
        if essence == "multipart/form-data" && kind == Kind::Other {
            let form = Form::read(media, body)?;
            ask.model = form.model().or(given).ok_or(AskError::NoModel)?;
            ask.streamed = form.is_streamed();
            // Sounds and pictures: their tokens are known when they have been counted.
            ask.body = Content::Form(form);
        } else if essence == "application/json" || essence.ends_with("+json") {
            let fields = Fields::read(body)?;
            ask.read_fields(&fields, given)?;
            ask.body = Content::Json(fields);
        } else if body.is_empty() && kind == Kind::Other {
            ask.model = given.ok_or(AskError::NoModelInPath)?;
        } else {
            return Err(AskError::ContentType);
        }
        Ok(ask)
    }

    fn read_fields(&mut self, fields: &Fields, given: Option<String>) -> Result<(), AskError> {
        let missing = match self.kind {
            Kind::Other => AskError::NoModelInPath,
            _ => AskError::NoModel,
        };
        self.model = fields.text("model")?.or(given).ok_or(missing)?;
        self.streamed = fields.boolean("stream")?.unwrap_or(false);
        self.answers = fields.number("n")?.unwrap_or(1).max(1);
        let names: &[&'static str] = match self.kind {
            // The first that is there counts, as with servers.
            Kind::Chat => &["max_completion_tokens", "max_tokens"],
            Kind::Responses => &["max_output_tokens"],
            _ => &["max_tokens"],
        };
        for name in names {
            if self.max_tokens.is_none() {
                self.max_tokens = fields.number(name)?;
            }
        }
        self.includes_usage = fields.includes_usage()?;
        self.wants_token_ids = fields.boolean("return_token_ids")?.unwrap_or(false);
        self.has_seed = fields.has("seed");
        if let Some(prompt) = fields.raw(self.kind.prompt_field()) {
            let measured = prompt::measure(prompt, self.kind == Kind::Chat);
            self.prompt_tokens = measured.tokens;
            self.prompt_tokens_max = measured.tokens_max;
            self.prefix = measured.prefix;
        }
        // Descriptions of tools are part of the prompt, too.
        for name in ["tools", "instructions", "response_format"] {
            let length = fields.raw(name).map_or(0, str::len) as u64;
            self.prompt_tokens += length / prompt::BYTES_PER_TOKEN;
            self.prompt_tokens_max += length;
        }
        Ok(())
    }

    /// A field's JSON as the client wrote it.
    pub fn field(&self, name: &str) -> Option<&str> {
        match &self.body {
            Content::Json(fields) => fields.raw(name),
            _ => None,
        }
    }

    /// The body for a backend that calls the model `model`: the fields in `set` are put in the place of the
    /// client's, everything else is as it was written.
    pub fn body_for(&self, model: &str, set: &[(&str, &RawValue)]) -> Bytes {
        match &self.body {
            Content::Json(fields) => fields.with(model, set),
            Content::Form(form) => form.with(model),
            Content::Opaque(bytes) => bytes.clone(),
        }
    }

    /// The most tokens that can be answered, all answers together.
    pub fn completion_tokens_max(&self, default: u64) -> u64 {
        match self.kind {
            Kind::Embeddings => 0,
            _ => self.max_tokens.unwrap_or(default).saturating_mul(self.answers),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }
}

/// Bodies are prompts, which are nobody's business.
impl std::fmt::Debug for Content {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Content::Json(_) => "Json(..)",
            Content::Form(_) => "Form(..)",
            Content::Opaque(_) => "Opaque(..)",
        })
    }
}

/// Headers that mean something to a backend. All others stay here: what a proxy in between adds about
/// the client is not the supplier's business, and what belongs to the connection ends with it.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    const PASSED_ON: [&str; 6] =
        ["accept", "content-type", "openai-beta", "traceparent", "tracestate", "user-agent"];
    let mut kept = HeaderMap::with_capacity(PASSED_ON.len());
    for name in PASSED_ON {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests;
