//! A conversation as clients send it, into the text that the model's template makes of it.

use std::collections::BTreeMap;

use llm::chat::{ChatInput, Message};
use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};
use crate::http::model_text::ModelText;
use crate::http::shape::Shape;

const MESSAGES_MAX: usize = 65_536;
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The prompt's text.
pub(crate) fn rendered(
    fields: &Fields<'_>,
    shape: &Shape,
    model: &ModelText,
) -> Result<String, ApiError> {
    let list = fields.list("messages")?.ok_or_else(|| fields.missing("messages"))?;
    if list.is_empty() {
        return Err(ApiError::field("messages", "messages is empty; give at least one"));
    }
    if list.len() > MESSAGES_MAX {
        let message = format!("there are {} messages; {MESSAGES_MAX} are the most", list.len());
        return Err(ApiError::field("messages", message));
    }
    let message = |(at, value)| message(&Fields::of(value, format!("messages[{at}]"))?);
    let messages = list.iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    conversation(fields, messages, shape, model)
}

/// The prompt's text of messages that are known; further fields of the request count too.
pub(crate) fn conversation(
    fields: &Fields<'_>,
    messages: Vec<Message>,
    shape: &Shape,
    model: &ModelText,
) -> Result<String, ApiError> {
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    let begins_answer = fields.flag("add_generation_prompt")?;
    if continues && begins_answer == Some(true) {
        let message = "add_generation_prompt and continue_final_message exclude each other";
        return Err(ApiError::field("continue_final_message", message));
    }
    let mut variables = BTreeMap::new();
    let effort = match fields.object("reasoning")? {
        Some(reasoning) => reasoning.text("effort")?,
        None => fields.text("reasoning_effort")?,
    };
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".to_owned(), Value::from(effort));
    }
    if let Some(extra) = fields.object("chat_template_kwargs")? {
        variables.extend(extra.map().iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    let last = messages.last().and_then(|message| message.0.get("content")?.as_str());
    let last = last.unwrap_or_default().to_owned();
    let documents = fields.list("documents")?;
    for (at, document) in documents.into_iter().flatten().enumerate() {
        Fields::of(document, format!("documents[{at}]"))?;
    }
    let input = ChatInput {
        tools: shape.template_tools(),
        documents: documents.cloned(),
        add_generation_prompt: begins_answer.unwrap_or(!continues),
        variables,
        ..ChatInput::new(messages)
    };
    let text = model.render(&input)?;
    if continues { up_to_the_end_of(&text, &last) } else { Ok(text) }
}

/// Cuts off what the template put behind the last message. Templates trim messages, so only what
/// is left of it then is looked for.
fn up_to_the_end_of(text: &str, last: &str) -> Result<String, ApiError> {
    let trimmed = last.trim();
    let found = if trimmed.is_empty() { None } else { text.rfind(trimmed) };
    let Some(start) = found else {
        let message = "the last message cannot be continued: it is empty, or the model's template \
                       does not show it";
        return Err(ApiError::field("continue_final_message", message));
    };
    let whole = last.trim_start();
    let length = if text[start..].starts_with(whole) { whole.len() } else { trimmed.len() };
    Ok(text[..start + length].to_owned())
}

/// One message, with everything that templates read.
pub(crate) fn message(fields: &Fields<'_>) -> Result<Message, ApiError> {
    let role = fields.text("role")?.ok_or_else(|| fields.missing("role"))?;
    if !ROLES.contains(&role) {
        let message = format!("the role `{role}` is unknown; known are {}", ROLES.join(", "));
        return Err(ApiError::field(fields.path("role"), message));
    }
    // OpenAI's newer name for what models know as the system's words.
    let role = if role == "developer" { "system" } else { role };
    // Templates take these for texts.
    for name in ["name", "tool_call_id", "reasoning_content"] {
        fields.text(name)?;
    }
    let mut message = fields.map().clone();
    message.retain(|_, value| !value.is_null());
    message.insert("role".to_owned(), role.into());
    let content = content(fields)?;
    let calls = tool_calls(fields)?;
    if content.is_none() && calls.is_none() && role != "assistant" {
        return Err(fields.missing("content"));
    }
    // Templates ask for the content of every message, and print what is not there as it is.
    message.insert("content".to_owned(), content.unwrap_or_default().into());
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls);
    }
    Ok(Message(message))
}

/// The text of a message; parts are joined by line breaks, as in vLLM.
fn content(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let parts = match fields.get("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(other) => {
            let wanted = "a string or an array of parts";
            return Err(wrong_type(fields.path("content"), wanted, other));
        }
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        texts.push(part_text(part, &fields.path(&format!("content[{at}]")))?);
    }
    Ok(Some(texts.join("\n")))
}

/// The text of one part of a message.
pub(crate) fn part_text(part: &Value, path: &str) -> Result<String, ApiError> {
    if let Value::String(text) = part {
        return Ok(text.clone());
    }
    let part = Fields::of(part, path)?;
    let kind = part.text("type")?.ok_or_else(|| part.missing("type"))?;
    let name = match kind {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        other => {
            let message = format!("parts of type `{other}` are not supported, only text is");
            return Err(ApiError::unsupported(part.path("type"), message));
        }
    };
    let text = part.text(name)?.ok_or_else(|| part.missing(name))?;
    Ok(text.to_owned())
}

/// The calls that an assistant made, with their arguments as objects, which templates expect.
fn tool_calls(fields: &Fields<'_>) -> Result<Option<Value>, ApiError> {
    let Some(calls) = fields.list("tool_calls")? else { return Ok(None) };
    let mut found = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let call = Fields::of(call, fields.path(&format!("tool_calls[{at}]")))?;
        let function = call.object("function")?.ok_or_else(|| call.missing("function"))?;
        let name = function.text("name")?.ok_or_else(|| function.missing("name"))?;
        for field in ["id", "type"] {
            call.text(field)?;
        }
        let mut shown = call.map().clone();
        let mut inner: Map<String, Value> = function.map().clone();
        inner.insert("name".to_owned(), name.into());
        let arguments = match function.get("arguments") {
            None => Value::Object(Map::new()),
            // What the model wrote may be no JSON; then it is shown as it was.
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(text.clone()),
            },
            Some(object @ Value::Object(_)) => object.clone(),
            Some(other) => {
                return Err(wrong_type(function.path("arguments"), "a string", other));
            }
        };
        inner.insert("arguments".to_owned(), arguments);
        shown.insert("function".to_owned(), Value::Object(inner));
        found.push(Value::Object(shown));
    }
    Ok(Some(Value::Array(found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_goes_on_keeps_its_own_end_only() {
        let cut = |text: &str, last: &str| up_to_the_end_of(text, last).ok();
        assert_eq!(cut("<a>Hi</a>", "Hi").unwrap(), "<a>Hi");
        assert_eq!(cut("<a>Hi there </a>", " Hi there ").unwrap(), "<a>Hi there ");
        assert_eq!(cut("<a>Hi</a>", "  Hi \n").unwrap(), "<a>Hi");
        assert_eq!(cut("Hi <a>Hi</a>", "Hi").unwrap(), "Hi <a>Hi");
        assert_eq!(cut("<a></a>", "Hi"), None);
        assert_eq!(cut("<a></a>", " "), None);
    }
}
