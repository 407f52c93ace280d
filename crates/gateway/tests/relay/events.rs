//! A stream as a client reads it, and what must be true of every stream.

use serde_json::Value;

use crate::setting::Whole;

/// All that a client knows after a stream.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub texts: Vec<String>,
    pub ids: Vec<u64>,
    pub finish: Vec<String>,
    pub usage: Option<Value>,
    pub error: Option<Value>,
    pub is_done: bool,
    pub comments: Vec<String>,
}

impl Told {
    /// Of the prompt and of the answer.
    pub fn tokens(&self) -> Option<[u64; 2]> {
        let usage = self.usage.as_ref()?;
        let count = |name: &str| usage[name].as_u64().unwrap();
        let [prompt, completion] = ["prompt_tokens", "completion_tokens"].map(count);
        assert_eq!(count("total_tokens"), prompt + completion);
        Some([prompt, completion])
    }
}

/// # Panics
/// Where the stream is none that one server could have sent.
pub fn told(answer: &Whole) -> Told {
    let text = std::str::from_utf8(&answer.body).unwrap();
    let mut told = Told::default();
    let mut identity = None;
    let mut roles = Vec::new();
    for event in text.split_terminator("\n\n") {
        assert!(!told.is_done && told.error.is_none(), "nothing comes after the end: {event}");
        if let Some(comment) = event.strip_prefix(": ") {
            told.comments.push(comment.to_owned());
            continue;
        }
        let data = event.strip_prefix("data: ").unwrap();
        if data == "[DONE]" {
            told.is_done = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        if !chunk["error"].is_null() {
            assert!(chunk["error"]["message"].is_string(), "{chunk}");
            told.error = Some(chunk["error"].clone());
            continue;
        }
        let own = ["id", "created", "model", "object"].map(|name| chunk[name].clone());
        assert_eq!(own[2], "chat", "the public name is shown");
        assert_eq!(*identity.get_or_insert(own.clone()), own, "one answer has one identity");
        assert!(told.usage.is_none(), "usage is the last chunk");
        if chunk["usage"].is_object() {
            told.usage = Some(chunk["usage"].clone());
        }
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            if told.texts.len() <= index {
                told.texts.resize(index + 1, String::new());
            }
            if choice["delta"]["role"].is_string() {
                assert!(!roles.contains(&index), "a role is told once");
                roles.push(index);
            }
            let text = choice["text"].as_str().or(choice["delta"]["content"].as_str());
            told.texts[index].push_str(text.unwrap_or_default());
            if let Some(ids) = choice["token_ids"].as_array() {
                told.ids.extend(ids.iter().map(|id| id.as_u64().unwrap()));
            }
            if let Some(finish) = choice["finish_reason"].as_str() {
                told.finish.push(finish.to_owned());
            }
        }
    }
    told
}
