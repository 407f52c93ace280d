//! How long a prompt is, and what it begins with, without understanding it.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

/// What tokenizers of today make of English and of programs, on average; other scripts have fewer
/// bytes to a token. An estimate for limits, corrected when the backend has counted.
pub(super) const BYTES_PER_TOKEN: u64 = 4;
/// What a picture or sound is taken for: some hundred to some thousand tokens, by model.
const TOKENS_PER_ATTACHMENT: u64 = 1500;
/// Prompts that begin with the same so many bytes go the same way.
const PREFIX_BYTES_MAX: usize = 4096;

pub(super) struct Measured {
    pub tokens: u64,
    pub tokens_max: u64,
    pub prefix: u64,
}

/// Of the JSON of a prompt.
pub(super) fn measure(prompt: &str, is_chat: bool) -> Measured {
    let (attached_bytes, attachments) = attachments(prompt);
    let text = (prompt.len() - attached_bytes) as u64;
    let attached = attachments * TOKENS_PER_ATTACHMENT;
    Measured {
        tokens: text.div_ceil(BYTES_PER_TOKEN) + attached,
        tokens_max: text + attached,
        prefix: prefix(prompt, is_chat),
    }
}

/// Bytes in data URLs, and how many there are.
fn attachments(prompt: &str) -> (usize, u64) {
    const MARK: &str = ";base64,";
    let mut bytes = 0;
    let mut count = 0;
    let mut rest = prompt;
    while let Some(at) = rest.find(MARK) {
        rest = &rest[at + MARK.len()..];
        let length = rest.find('"').unwrap_or(rest.len());
        bytes += length;
        count += 1;
        rest = &rest[length..];
    }
    (bytes, count)
}

/// A chat is known by what it says up to its first question: the turns that follow leave that as it is.
fn prefix(prompt: &str, is_chat: bool) -> u64 {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default)]
        role: Option<std::borrow::Cow<'a, str>>,
    }
    let mut hasher = DefaultHasher::new();
    let messages: Option<Vec<&RawValue>> = match is_chat {
        true => serde_json::from_str(prompt).ok(),
        false => None,
    };
    let mut left = PREFIX_BYTES_MAX;
    let mut take = |text: &str| {
        let length = text.len().min(left);
        text.as_bytes()[..length].hash(&mut hasher);
        left -= length;
        left > 0
    };
    match messages {
        None => {
            take(prompt);
        }
        Some(messages) => {
            for message in messages {
                let role = serde_json::from_str::<Message<'_>>(message.get()).ok();
                let is_question =
                    role.and_then(|message| message.role).is_some_and(|role| role == "user");
                if !take(message.get()) || is_question {
                    break;
                }
            }
        }
    }
    hasher.finish()
}
