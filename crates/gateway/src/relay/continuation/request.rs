//! How the next backend is asked for the rest, and what the client asked for that matters for it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::Wants;
use crate::ask::{Ask, Kind};
use crate::relay::fields::{Fields, ObjectWriter, push_text};

type Set = Vec<(&'static str, Box<RawValue>)>;

pub(super) fn wants(ask: &Ask) -> Wants {
    let options = ask.field("stream_options").and_then(|json| Fields::read(json.as_bytes()));
    let running = options.and_then(|options| options.typed("continuous_usage_stats"));
    Wants {
        token_ids: ask.wants_token_ids,
        usage: ask.includes_usage,
        running_usage: running.unwrap_or(false),
    }
}

/// How many prompts there are: completions can have several.
pub(in crate::relay) fn prompts(ask: &Ask) -> u64 {
    if ask.kind != Kind::Completions {
        return 1;
    }
    let Some(prompt) = ask.field("prompt").filter(|prompt| prompt.starts_with('[')) else {
        return 1;
    };
    let items: Vec<&RawValue> = serde_json::from_str(prompt).unwrap_or_default();
    let is_id = |item: &&RawValue| item.get().starts_with(|c: char| c.is_ascii_digit());
    if items.first().is_some_and(is_id) { 1 } else { items.len().max(1) as u64 }
}

/// Whether more text behind the text so far is what the answer would have been. A grammar or
/// log-probabilities begin anew with each request.
pub(super) fn goes_on_as_text(ask: &Ask) -> bool {
    const BEGIN_ANEW: [&str; 9] = [
        "response_format",
        "guided_json",
        "guided_regex",
        "guided_grammar",
        "guided_choice",
        "structured_outputs",
        "suffix",
        "best_of",
        "logprobs",
    ];
    let is_off = |json: &str| matches!(json, "false" | "0" | "1" | "\"\"" | r#"{"type":"text"}"#);
    BEGIN_ANEW.iter().all(|name| ask.field(name).is_none_or(is_off))
        && match ask.kind {
            Kind::Chat => ask.field("messages").is_some(),
            Kind::Completions => plain_prompt(ask).is_some(),
            _ => false,
        }
}

pub(super) fn by_ids(ids: &[u32]) -> Set {
    let mut set = Set::new();
    put(&mut set, "continue_token_ids", ids);
    set
}

/// None if nothing is left to ask for, or the request cannot be put so.
pub(super) fn by_text(ask: &Ask, text: &str, generated: u64) -> Option<Set> {
    let mut set = Set::new();
    for name in ["max_completion_tokens", "max_tokens", "min_tokens"] {
        let Some(limit) = ask.field(name).and_then(|json| json.parse::<u64>().ok()) else {
            continue;
        };
        put(&mut set, name, &limit.saturating_sub(generated));
    }
    match ask.kind {
        Kind::Chat => {
            let messages = RawValue::from_string(with_message(ask, text)?).ok()?;
            set.push(("messages", messages));
            put(&mut set, "continue_final_message", &true);
            put(&mut set, "add_generation_prompt", &false);
        }
        Kind::Completions => {
            put(&mut set, "prompt", &format!("{}{text}", plain_prompt(ask)?));
            put(&mut set, "echo", &false);
        }
        _ => return None,
    }
    Some(set)
}

/// Whether a limit leaves no token for the rest.
pub(super) fn is_used_up(ask: &Ask, generated: u64) -> bool {
    ask.max_tokens.is_some_and(|limit| generated >= limit)
}

fn put(set: &mut Set, name: &'static str, value: &(impl Serialize + ?Sized)) {
    // Numbers and texts are always JSON.
    if let Ok(json) = to_raw_value(value) {
        set.push((name, json));
    }
}

/// The conversation with the answer so far as its last message, left open. A message that the client
/// left open itself is the answer's beginning.
fn with_message(ask: &Ask, text: &str) -> Option<String> {
    let messages = ask.field("messages")?;
    let items: Vec<&RawValue> = serde_json::from_str(messages).ok()?;
    let mut out = messages.trim_end().strip_suffix(']')?.as_bytes().to_vec();
    if ask.field("continue_final_message") == Some("true") {
        let last = items.last()?.get();
        out.truncate(messages.rfind(last)?);
        let fields = Fields::read(last.as_bytes())?;
        let beginning: String = fields.typed("content")?;
        let mut object = ObjectWriter::new(&mut out);
        for (name, value) in &fields.0 {
            match &**name {
                "content" => push_text(object.field(name), &format!("{beginning}{text}")),
                _ => object.put(name, value.get()),
            }
        }
        object.end();
    } else {
        if !items.is_empty() {
            out.push(b',');
        }
        let mut object = ObjectWriter::new(&mut out);
        object.put("role", "\"assistant\"");
        push_text(object.field("content"), text);
        object.end();
    }
    out.push(b']');
    String::from_utf8(out).ok()
}

/// A prompt that is one text.
fn plain_prompt(ask: &Ask) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Prompt<'a> {
        #[serde(borrow)]
        Text(Cow<'a, str>),
        Texts([String; 1]),
    }
    match serde_json::from_str(ask.field("prompt")?).ok()? {
        Prompt::Text(text) => Some(text),
        Prompt::Texts([text]) => Some(Cow::Owned(text)),
    }
}
