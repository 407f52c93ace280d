//! The items of a response's input as the messages of a conversation.

use llm::chat::Message;
use serde_json::{Map, Value, json};

use crate::http::chat::messages::{message, part_text};
use crate::http::error::ApiError;
use crate::http::fields::{Fields, wrong_type};

pub(super) fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let mut found = Vec::new();
    if let Some(instructions) = fields.text("instructions")? {
        found.push(Message::new("system", instructions));
    }
    match fields.get("input").ok_or_else(|| fields.missing("input"))? {
        Value::String(text) => found.push(Message::new("user", text.as_str())),
        Value::Array(items) if items.is_empty() => {
            return Err(ApiError::field("input", "input is empty; give at least one item"));
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                take(&Fields::of(item, format!("input[{at}]"))?, &mut found)?;
            }
        }
        other => {
            return Err(wrong_type("input".to_owned(), "a string or an array of items", other));
        }
    }
    if found.is_empty() {
        let message = "the input holds nothing to answer; give at least one message";
        return Err(ApiError::field("input", message));
    }
    Ok(found)
}

fn take(item: &Fields<'_>, found: &mut Vec<Message>) -> Result<(), ApiError> {
    match item.text("type")?.unwrap_or("message") {
        "message" if item.get("content").is_none() => return Err(item.missing("content")),
        "message" => found.push(message(item)?),
        "function_call" => {
            let name = item.text("name")?.ok_or_else(|| item.missing("name"))?;
            let id = item.text("call_id")?.ok_or_else(|| item.missing("call_id"))?;
            let arguments = item.text("arguments")?.ok_or_else(|| item.missing("arguments"))?;
            let call = json!({
                "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
            });
            add_call(call, item, found)?;
        }
        "function_call_output" => {
            let id = item.text("call_id")?.ok_or_else(|| item.missing("call_id"))?;
            let mut result = Message::new("tool", output(item)?);
            result.0.insert("tool_call_id".to_owned(), id.into());
            found.push(result);
        }
        // What a model thought is not shown to it again; templates drop it themselves.
        "reasoning" => {}
        other => {
            let message = format!("items of type `{other}` are not supported");
            return Err(ApiError::unsupported(item.path("type"), message));
        }
    }
    Ok(())
}

/// Calls that follow each other, or words of the assistant, were one message.
fn add_call(call: Value, item: &Fields<'_>, found: &mut Vec<Message>) -> Result<(), ApiError> {
    let is_assistant =
        |message: &&mut Message| message.0.get("role").is_some_and(|role| role == "assistant");
    // Through the same check as a chat's, which also makes an object of the arguments.
    let alone = json!({"role": "assistant", "tool_calls": [call]});
    let mut alone: Map<String, Value> = message(&Fields::of(&alone, item.path("arguments"))?)?.0;
    let Some(before) = found.last_mut().filter(is_assistant) else {
        found.push(Message(alone));
        return Ok(());
    };
    let calls = before.0.entry("tool_calls").or_insert_with(|| json!([]));
    if let (Value::Array(calls), Some(Value::Array(new))) = (calls, alone.get_mut("tool_calls")) {
        calls.append(new);
    }
    Ok(())
}

fn output(item: &Fields<'_>) -> Result<String, ApiError> {
    match item.get("output").ok_or_else(|| item.missing("output"))? {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |(at, part)| part_text(part, &item.path(&format!("output[{at}]")));
            let texts = parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
            Ok(texts.join("\n"))
        }
        other => Err(wrong_type(item.path("output"), "a string or an array of parts", other)),
    }
}
