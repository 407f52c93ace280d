//! What is counted of one chunk of a stream, out of `/v1/completions` or `/v1/chat/completions`. All
//! else in it is passed over without being kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_json::Value;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Whether there is any text, reasoning or tool call in it.
    pub(super) has_content: bool,
    /// How many tokens it is, if the server says so.
    pub(super) tokens: Option<usize>,
    /// Whether an answer ends with it.
    pub(super) is_last: bool,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: usize,
    #[serde(default)]
    pub(super) completion_tokens: usize,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Option<usize>,
}

impl Usage {
    /// Tokens of the prompt that the server had computed before, if it says so.
    pub(super) fn cached_tokens(&self) -> Option<usize> {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens)
    }
}

#[derive(serde::Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(serde::Deserialize)]
struct Choice {
    #[serde(default)]
    text: HasText,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: HasText,
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
}

#[derive(serde::Deserialize)]
struct Delta {
    #[serde(default)]
    content: HasText,
    #[serde(default)]
    reasoning_content: HasText,
    /// Another name of `reasoning_content`.
    #[serde(default)]
    reasoning: HasText,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

/// Whether a string is there and not empty.
#[derive(Default)]
struct HasText(bool);

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HasText, D::Error> {
        struct Look;
        impl<'de> Visitor<'de> for Look {
            type Value = HasText;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or null")
            }
            fn visit_str<E>(self, text: &str) -> Result<HasText, E> {
                Ok(HasText(!text.is_empty()))
            }
            fn visit_unit<E>(self) -> Result<HasText, E> {
                Ok(HasText(false))
            }
        }
        deserializer.deserialize_any(Look)
    }
}

/// Reads the data of an event.
///
/// # Errors
/// What is wrong with its JSON.
pub(super) fn read(data: &[u8]) -> Result<Counted, String> {
    let chunk: Chunk = serde_json::from_slice(data)
        .map_err(|error| format!("the stream holds something else than chunks: {error}"))?;
    let mut counted = Counted {
        usage: chunk.usage,
        error: chunk.error.filter(|error| !error.is_null()).map(|error| message(&error)),
        ..Counted::default()
    };
    for choice in chunk.choices {
        let delta = choice.delta.is_some_and(|delta| {
            let text = [delta.content, delta.reasoning_content, delta.reasoning];
            text.iter().any(|text| text.0)
                || delta.tool_calls.is_some_and(|calls| !calls.is_empty())
        });
        counted.has_content |= choice.text.0 || delta;
        counted.is_last |= choice.finish_reason.0;
        if let Some(tokens) = choice.token_ids {
            counted.has_content |= !tokens.is_empty();
            *counted.tokens.get_or_insert(0) += tokens.len();
        }
    }
    Ok(counted)
}

/// The sentence in a server's error, whichever shape it has.
pub(super) fn message(error: &Value) -> String {
    let inner = error.get("error").unwrap_or(error);
    let text = [inner.get("message"), inner.get("detail"), Some(inner)];
    match text.into_iter().flatten().find_map(Value::as_str) {
        Some(text) => text.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_several_servers() {
        let text = read(br#"{"id":"x","choices":[{"index":0,"text":" the","logprobs":null,"finish_reason":null}],"usage":null}"#).unwrap();
        assert_eq!(text, Counted { has_content: true, ..Counted::default() });
        let role = read(br#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#).unwrap();
        assert_eq!(role, Counted::default());
        let ids = read(br#"{"choices":[{"delta":{"content":"a\u00e9"},"token_ids":[5,6]}]}"#);
        assert_eq!(ids.unwrap().tokens, Some(2));
        for delta in [r#""reasoning_content":"x""#, r#""reasoning":"x""#, r#""tool_calls":[{}]"#] {
            let chunk = format!(r#"{{"choices":[{{"delta":{{{delta}}}}}]}}"#);
            assert!(read(chunk.as_bytes()).unwrap().has_content, "{chunk}");
        }
        let last = read(br#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#).unwrap();
        assert!(last.is_last && !last.has_content);
        let usage = read(br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":9,"total_tokens":16,"prompt_tokens_details":{"cached_tokens":4}}}"#);
        let usage = usage.unwrap().usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 9));
        assert_eq!(usage.cached_tokens(), Some(4));
    }

    #[test]
    fn errors_within_a_stream() {
        let shapes = [
            r#"{"error":{"message":"no memory","code":500}}"#,
            r#"{"error":"no memory"}"#,
            r#"{"error":{"detail":"no memory"}}"#,
        ];
        for shape in shapes {
            assert_eq!(read(shape.as_bytes()).unwrap().error.as_deref(), Some("no memory"));
        }
        assert!(read(b"oops").is_err());
        assert!(read(br#"{"choices":[{"text":3}]}"#).is_err());
    }
}
