//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! Templates are Jinja programs that come with a checkpoint, so they are untrusted: they run with a
//! budget and can reach nothing but what they are given. Everything that Hugging Face's environment
//! offers them is offered here, and rendered the same to the byte (`_compile_jinja_template` in
//! transformers).

mod clock;
mod error;
mod python_json;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Output, State, Value};
use serde::{Deserialize, Serialize};

pub use error::ChatError;
use error::Raised;

/// Bounds the work of one render, and its memory to 64 bytes per unit. A conversation of a thousand
/// long messages takes less than a tenth of it.
const FUEL: u64 = 4_000_000;
const TEMPLATE: &str = "chat_template";

/// One message of a conversation: `role`, `content`, and whatever else a template reads
/// (`tool_calls`, `name`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Message(pub serde_json::Map<String, serde_json::Value>);

impl Message {
    /// A message of plain text. Usual roles are `system`, `user`, `assistant` and `tool`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        let mut fields = serde_json::Map::new();
        fields.insert("role".to_owned(), role.into().into());
        fields.insert("content".to_owned(), content.into().into());
        Message(fields)
    }
}

/// What a template is rendered with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatInput {
    pub messages: Vec<Message>,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Option<Vec<serde_json::Value>>,
    /// Documents that the model may quote, each with `title` and `text`.
    pub documents: Option<Vec<serde_json::Value>>,
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables that the template reads (`enable_thinking`).
    pub variables: BTreeMap<String, serde_json::Value>,
    /// What `strftime_now` takes for now, in UTC; the system's clock for `None`.
    pub now: Option<SystemTime>,
}

impl ChatInput {
    /// A conversation that the model shall continue.
    pub fn new(messages: Vec<Message>) -> ChatInput {
        ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() }
    }
}

/// A parsed template with the special tokens of its tokenizer.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Parses `source`; `special_tokens` (`bos_token`, `eos_token`, …) become variables of it.
    ///
    /// # Errors
    /// When the source is not valid Jinja.
    pub fn new(
        source: &str,
        special_tokens: &BTreeMap<String, String>,
    ) -> Result<ChatTemplate, ChatError> {
        let unusable = |source| ChatError::Syntax { source };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(unusable)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(write_value);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(TEMPLATE, without_generation_tags(source))
            .map_err(unusable)?;
        let source = source.to_owned();
        Ok(ChatTemplate { environment, source, special_tokens: special_tokens.clone() })
    }

    /// The template itself, which says which ways of writing the model knows.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. Encode it without adding special tokens: it holds them.
    ///
    /// # Errors
    /// When the template refuses the conversation, uses what does not exist, or does not come to an
    /// end.
    pub fn render(&self, input: &ChatInput) -> Result<String, ChatError> {
        let now = input.now.unwrap_or_else(SystemTime::now);
        let unix_seconds = now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, token) in &self.special_tokens {
            variables.insert(name, Value::from(token.as_str()));
        }
        for (name, value) in &input.variables {
            variables.insert(name, Value::from(Serde(value)));
        }
        variables.insert("messages", Value::from(Serde(&input.messages)));
        // Absent lists are None, not undefined: templates test `tools is not none`.
        variables.insert("tools", Value::from(Serde(&input.tools)));
        variables.insert("documents", Value::from(Serde(&input.documents)));
        variables.insert("add_generation_prompt", Value::from(input.add_generation_prompt));
        let strftime_now = move |format: &str| clock::format_utc(format, unix_seconds);
        variables.insert("strftime_now", Value::from_function(strftime_now));

        let template = self.environment.get_template(TEMPLATE).map_err(ChatError::render)?;
        template.render(variables).map_err(ChatError::render)
    }
}

/// Prints floats as Python does (`1e+20`); all else prints so already.
fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    match f64::try_from(value.clone()) {
        Ok(float) if value.kind() == ValueKind::Number && !value.is_integer() => {
            Ok(out.write_str(&python_json::spell_float(float))?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised { message }))
}

fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let invalid =
        |reason: String| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, reason);
    if value.is_undefined() {
        return Err(invalid("tojson: the value is undefined".to_owned()));
    }
    let style = python_json::Style {
        ascii_only: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent: options.get::<Option<usize>>("indent")?,
        separators: options.get::<Option<Vec<String>>>("separators")?,
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|error| invalid(format!("tojson: {error}")))?;
    python_json::dumps(&value, &style).map_err(invalid)
}

/// `{% generation %}` marks what the assistant said, for training on nothing else. It renders as
/// its contents.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let keyword = tag[2..end].trim_matches(|character: char| {
            matches!(character, '-' | '+') || character.is_whitespace()
        });
        match keyword {
            "generation" => text.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => text.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}
