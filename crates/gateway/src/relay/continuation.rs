//! One answer, whoever gives it: what of it the client has, so that another backend can go on with it
//! and nobody sees where the first one stopped.
//!
//! Events in, events out; knows no connection. What our own server promises to those who go on with
//! its answers is in docs/serving-http.md.

pub(super) mod request;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::{Fields, ObjectWriter, push_text};
use super::usage::Usage;
use crate::ask::{Ask, Kind};
use crate::config::Continues;

/// What the client asked for, of what backends are asked for anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    pub token_ids: bool,
    /// In the last chunk.
    pub usage: bool,
    /// In all of them.
    pub running_usage: bool,
}

/// How a backend is asked for the rest of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By the same request: nothing has been said yet.
    Again,
    /// By the ids of all tokens so far: exact.
    Tokens,
    /// By the text so far: best effort.
    Text,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is nothing in it for the client.
    Nothing,
    Written,
    /// The stream has ended.
    Done,
}

/// An event that ends the stream before the answer's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Garbage,
    /// The backend's own words.
    Error(String),
}

/// An answer as far as it is told.
#[derive(Debug)]
pub(super) struct Told {
    kind: Kind,
    answers: u64,
    /// The public name, as JSON.
    model: String,
    wants: Wants,
    /// The first backend's words for all of it, as JSON.
    id: Option<String>,
    created: Option<String>,
    object: Option<String>,
    /// Whether the client has something of it.
    has_begun: bool,
    /// Whether another backend than the first is answering.
    is_continued: bool,
    /// Answers whose role has been told.
    roles: Vec<u64>,
    /// Answers of which something has come, and those that have ended.
    seen: Vec<u64>,
    finished: Vec<u64>,
    ids: Vec<u32>,
    /// Whether all that was said has come with its ids.
    has_all_ids: bool,
    text: String,
    /// Chunks with text: tokens, as far as one can tell without ids.
    pieces: u64,
    /// Whether the client has seen something of the answer.
    has_said: bool,
    /// Reasoning, calls and whatever else is no plain text.
    has_more_than_text: bool,
    prompt_tokens: Option<u64>,
    usage: Option<Usage>,
    has_told_usage: bool,
    /// Tokens that were part of this backend's prompt and are part of the answer.
    in_prompt: u64,
}

/// What one chunk has, before it counts.
#[derive(Default)]
struct News<'a> {
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    prompt_tokens: Option<u64>,
}

struct Choice<'a> {
    fields: Fields<'a>,
    delta: Option<Fields<'a>>,
    index: u64,
    text: Cow<'a, str>,
    ids: Option<Vec<u32>>,
    has_role: bool,
    has_more: bool,
    has_log_probs: bool,
    is_finished: bool,
}

impl Told {
    pub fn new(ask: &Ask) -> Told {
        let mut model = Vec::new();
        push_text(&mut model, &ask.model);
        Told {
            kind: ask.kind,
            answers: ask.answers,
            model: String::from_utf8(model).unwrap_or_default(),
            wants: request::wants(ask),
            id: None,
            created: None,
            object: None,
            has_begun: false,
            is_continued: false,
            roles: Vec::new(),
            seen: Vec::new(),
            finished: Vec::new(),
            ids: Vec::new(),
            has_all_ids: true,
            text: String::new(),
            pieces: 0,
            has_said: false,
            has_more_than_text: false,
            prompt_tokens: None,
            usage: None,
            has_told_usage: false,
            in_prompt: 0,
        }
    }

    /// Whether the client has something of it.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the client's limit leaves no token for the rest.
    pub fn is_used_up(&self, ask: &Ask) -> bool {
        request::is_used_up(ask, self.generated())
    }

    /// Tokens of all answers so far.
    pub fn generated(&self) -> u64 {
        if self.has_all_ids && !self.ids.is_empty() { self.ids.len() as u64 } else { self.pieces }
    }

    /// What all backends together have used, and whether that is an estimate.
    pub fn usage(&self, ask: &Ask) -> (Usage, bool) {
        match self.usage {
            Some(usage) => (usage, self.in_prompt > 0),
            None => {
                let is_exact = self.prompt_tokens.is_some() && self.has_all_ids;
                let prompt = self.prompt_tokens.unwrap_or(ask.prompt_tokens);
                (Usage::new(prompt, self.generated()), !is_exact)
            }
        }
    }

    /// Whether all answers have ended, though the stream may not have.
    pub fn is_complete(&self, ask: &Ask) -> bool {
        let expected = request::prompts(ask).saturating_mul(self.answers);
        self.finished.len() as u64 >= expected
    }

    /// How a backend that continues so can go on; none if it cannot.
    pub fn way(&self, continues: Continues, ask: &Ask) -> Option<Way> {
        let is_one = self.answers == 1 && request::prompts(ask) == 1;
        let by_ids = continues == Continues::Tokens && self.has_all_ids && is_one;
        if by_ids && !self.ids.is_empty() {
            return Some(Way::Tokens);
        }
        if !self.has_said {
            return Some(Way::Again);
        }
        let by_text = matches!(continues, Continues::Tokens | Continues::Text | Continues::Ask);
        let is_plain = is_one && !self.has_more_than_text;
        (by_text && is_plain && request::goes_on_as_text(ask)).then_some(Way::Text)
    }

    /// What the next backend's request says beside the client's.
    pub fn request(&self, ask: &Ask, way: Way) -> Option<Vec<(&'static str, Box<RawValue>)>> {
        match way {
            Way::Again => Some(Vec::new()),
            Way::Tokens => Some(request::by_ids(&self.ids)),
            Way::Text => request::by_text(ask, &self.text, self.generated()),
        }
    }

    /// Another backend goes on.
    pub fn go_on(&mut self, way: Way) {
        self.is_continued = self.has_begun;
        match way {
            Way::Again => {
                self.ids.clear();
                self.seen.clear();
                self.has_all_ids = true;
                self.pieces = 0;
                self.in_prompt = 0;
            }
            Way::Tokens => self.in_prompt = 0,
            Way::Text => {
                self.in_prompt = self.generated();
                self.pieces = self.in_prompt;
                self.has_all_ids = false;
            }
        }
    }

    /// Takes one event's data, and writes what the client gets for it.
    ///
    /// # Errors
    /// Then it counts as not received.
    pub fn take(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<Taken, Broken> {
        if data == b"[DONE]" {
            return Ok(Taken::Done);
        }
        let chunk = Fields::read(data).ok_or(Broken::Garbage)?;
        if let Some(error) = chunk.get("error") {
            return Err(Broken::Error(error_message(error)));
        }
        let choices: Vec<Fields<'_>> = chunk.typed("choices").ok_or(Broken::Garbage)?;
        let mut news = News { usage: chunk.typed("usage"), ..News::default() };
        news.prompt_tokens = chunk.get("prompt_token_ids").map(length_of_array);
        for fields in choices {
            let prompt_tokens = fields.get("prompt_token_ids").map(length_of_array);
            news.prompt_tokens = news.prompt_tokens.or(prompt_tokens);
            news.choices.push(self.read_choice(fields)?);
        }
        self.note(&chunk, &mut news);
        if !self.has_something(&news) {
            return Ok(Taken::Nothing);
        }
        self.write(&chunk, &news, out);
        self.has_begun = true;
        Ok(Taken::Written)
    }

    fn read_choice<'a>(&self, fields: Fields<'a>) -> Result<Choice<'a>, Broken> {
        let finish = fields.get("finish_reason");
        // A server that stops under way ends its answers with these.
        if matches!(finish, Some("\"abort\"" | "\"error\"")) {
            return Err(Broken::Error("the answer was given up".to_owned()));
        }
        let mut choice = Choice {
            index: fields.typed("index").unwrap_or(0),
            delta: None,
            text: Cow::Borrowed(""),
            ids: None,
            has_role: false,
            has_more: false,
            has_log_probs: fields.get("logprobs").is_some(),
            is_finished: finish.is_some(),
            fields,
        };
        if let Some(ids) = choice.fields.get("token_ids") {
            choice.ids = Some(serde_json::from_str(ids).map_err(|_| Broken::Garbage)?);
        }
        let text = match self.kind {
            Kind::Chat => {
                let delta = choice.fields.get("delta").unwrap_or("{}");
                let delta = Fields::read(delta.as_bytes()).ok_or(Broken::Garbage)?;
                choice.has_role = delta.get("role").is_some();
                choice.has_more = delta.0.iter().any(|(name, value)| {
                    let is_known = matches!(&**name, "role" | "content");
                    !is_known && !matches!(value.get(), "null" | "\"\"" | "[]" | "{}")
                });
                let text = delta.get("content");
                choice.delta = Some(delta);
                text
            }
            _ => choice.fields.get("text"),
        };
        match text {
            // Content in parts, as some servers have it.
            Some(text) if !text.starts_with('"') => choice.has_more = true,
            Some(text) => {
                choice.text = text_of(text).ok_or(Broken::Garbage)?;
            }
            None => {}
        }
        Ok(choice)
    }

    /// All that counts later.
    fn note(&mut self, chunk: &Fields<'_>, news: &mut News<'_>) {
        let keep = |kept: &mut Option<String>, name| {
            if kept.is_none() {
                *kept = chunk.get(name).map(str::to_owned);
            }
        };
        keep(&mut self.id, "id");
        keep(&mut self.created, "created");
        keep(&mut self.object, "object");
        self.prompt_tokens = self.prompt_tokens.or(news.prompt_tokens);
        if let Some(usage) = &mut news.usage {
            self.make_whole(usage);
            self.usage = Some(*usage);
        }
        for choice in &mut news.choices {
            // A role counts once.
            let is_told = self.roles.contains(&choice.index);
            if choice.has_role && !is_told {
                self.roles.push(choice.index);
            }
            choice.has_role &= !is_told;
            if !self.seen.contains(&choice.index) {
                self.seen.push(choice.index);
            }
            if choice.is_finished && !self.finished.contains(&choice.index) {
                self.finished.push(choice.index);
            }
            let ids = choice.ids.as_deref().unwrap_or_default();
            let has_text = !choice.text.is_empty();
            // The end may bring text that was held back, without a new token.
            if (has_text || choice.has_more) && ids.is_empty() && !choice.is_finished {
                self.has_all_ids = false;
            }
            self.ids.extend_from_slice(ids);
            self.pieces += u64::from(has_text || choice.has_more).max(ids.len() as u64);
            self.text.push_str(&choice.text);
            self.has_more_than_text |= choice.has_more || choice.has_log_probs;
            self.has_said |= has_text || choice.has_more || choice.is_finished;
            self.has_said |= self.wants.token_ids && !ids.is_empty();
        }
    }

    /// A backend that was given the beginning as text counts it to its prompt.
    fn make_whole(&self, usage: &mut Usage) {
        if self.in_prompt == 0 {
            return;
        }
        let rest = usage.prompt_tokens.saturating_sub(self.in_prompt);
        usage.prompt_tokens = self.prompt_tokens.unwrap_or(rest);
        usage.completion_tokens = usage.completion_tokens.saturating_add(self.in_prompt);
    }

    fn shows_usage(&self, news: &News<'_>) -> bool {
        news.usage.is_some()
            && (self.wants.usage || self.wants.running_usage && !news.choices.is_empty())
    }

    fn has_something(&self, news: &News<'_>) -> bool {
        if news.choices.is_empty() {
            return match news.usage {
                Some(_) => self.shows_usage(news),
                // What some servers say of the prompt, once.
                None => !self.is_continued,
            };
        }
        let has_ids = |choice: &Choice<'_>| choice.ids.as_ref().is_some_and(|ids| !ids.is_empty());
        let says = |choice: &Choice<'_>| {
            let tells = choice.has_role || choice.has_more || choice.has_log_probs;
            let ids = self.wants.token_ids && has_ids(choice);
            tells || ids || choice.is_finished || !choice.text.is_empty()
        };
        // Chunks without words exist because of what the gateway asked for, or were told before.
        let is_ours = self.is_continued || news.choices.iter().any(has_ids);
        !is_ours || news.choices.iter().any(says) || self.shows_usage(news)
    }

    fn write(&mut self, chunk: &Fields<'_>, news: &News<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        let mut object = ObjectWriter::new(out);
        for (name, value) in &chunk.0 {
            match &**name {
                "model" => object.put(name, &self.model),
                "id" => object.put(name, self.id.as_deref().unwrap_or(value.get())),
                "created" => object.put(name, self.created.as_deref().unwrap_or(value.get())),
                "prompt_token_ids" if !self.wants.token_ids || self.is_continued => {}
                "usage" => match news.usage {
                    Some(usage) if self.shows_usage(news) => {
                        self.has_told_usage = true;
                        self.write_usage(value.get(), &usage, object.field(name));
                    }
                    None if self.wants.usage || self.wants.running_usage => {
                        object.put(name, "null")
                    }
                    _ => {}
                },
                "choices" => self.write_choices(&news.choices, object.field(name)),
                _ => object.put(name, value.get()),
            }
        }
        object.end();
        out.extend_from_slice(b"\n\n");
    }

    fn write_choices(&self, choices: &[Choice<'_>], out: &mut Vec<u8>) {
        out.push(b'[');
        for (at, choice) in choices.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let mut object = ObjectWriter::new(out);
            for (name, value) in &choice.fields.0 {
                match (&**name, &choice.delta) {
                    ("token_ids" | "prompt_token_ids", _) if !self.wants.token_ids => {}
                    ("delta", Some(delta)) if !choice.has_role && delta.get("role").is_some() => {
                        let mut kept = ObjectWriter::new(object.field(name));
                        for (name, value) in delta.0.iter().filter(|(name, _)| name != "role") {
                            kept.put(name, value.get());
                        }
                        kept.end();
                    }
                    _ => object.put(name, value.get()),
                }
            }
            object.end();
        }
        out.push(b']');
    }

    fn write_usage(&self, json: &str, usage: &Usage, out: &mut Vec<u8>) {
        let fields = (self.in_prompt > 0).then(|| Fields::read(json.as_bytes())).flatten();
        let Some(fields) = fields else {
            out.extend_from_slice(json.as_bytes());
            return;
        };
        let mut object = ObjectWriter::new(out);
        for (name, value) in &fields.0 {
            let total = usage.prompt_tokens.saturating_add(usage.completion_tokens);
            match &**name {
                "prompt_tokens" => object.put(name, &usage.prompt_tokens.to_string()),
                "completion_tokens" => object.put(name, &usage.completion_tokens.to_string()),
                "total_tokens" => object.put(name, &total.to_string()),
                _ => object.put(name, value.get()),
            }
        }
        object.end();
    }

    /// The end of an answer that has as many tokens as it may have, which only its last backend
    /// could not say any more.
    pub fn end_by_length(&mut self, out: &mut Vec<u8>) {
        let choice = match self.kind {
            Kind::Chat => r#"[{"index":0,"delta":{},"finish_reason":"length"}]"#,
            _ => r#"[{"index":0,"text":"","finish_reason":"length"}]"#,
        };
        self.finished.push(0);
        self.own_chunk(choice, None, out);
    }

    /// The client's last events after an answer that is complete.
    pub fn end(&mut self, ask: &Ask, out: &mut Vec<u8>) {
        let (usage, is_estimated) = self.usage(ask);
        if self.wants.usage && !self.has_told_usage && !is_estimated {
            self.has_told_usage = true;
            self.own_chunk("[]", Some(usage), out);
        }
    }

    fn own_chunk(&self, choices: &str, usage: Option<Usage>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        let mut object = ObjectWriter::new(out);
        let known = [("id", &self.id), ("object", &self.object), ("created", &self.created)];
        for (name, json) in known {
            if let Some(json) = json {
                object.put(name, json);
            }
        }
        object.put("model", &self.model);
        object.put("choices", choices);
        if let Some(usage) = usage {
            let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
            let total = prompt.saturating_add(completion);
            let usage = format!(
                "{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{total}}}"
            );
            object.put("usage", &usage);
        }
        object.end();
        out.extend_from_slice(b"\n\n");
    }
}

/// Without a copy where nothing is escaped.
fn text_of(json: &str) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(json).ok().map(|text| text.0)
}

fn length_of_array(json: &str) -> u64 {
    if json.len() <= 2 { 0 } else { json.bytes().filter(|&byte| byte == b',').count() as u64 + 1 }
}

/// The message in an error's object, or the error if it is a text.
pub(super) fn error_message(error: &str) -> String {
    let message = Fields::read(error.as_bytes()).and_then(|fields| fields.typed("message"));
    message.or_else(|| serde_json::from_str(error).ok()).unwrap_or_default()
}
