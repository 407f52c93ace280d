//! A checkpoint's files beside the weights as JSON, and back: a text for a text, so that people can read
//! a manifest; `{"base64": …}` for what is none, such as SentencePiece's `tokenizer.model`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use llm::files::Companions;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Contents {
    Text(String),
    Bytes { base64: String },
}

pub fn to_json(companions: &Companions) -> Value {
    let contents = companions.iter().map(|(name, bytes)| {
        let contents = match std::str::from_utf8(bytes) {
            Ok(text) => Contents::Text(text.to_string()),
            Err(_) => Contents::Bytes { base64: STANDARD.encode(bytes) },
        };
        (name.to_string(), contents)
    });
    serde_json::to_value(contents.collect::<BTreeMap<_, _>>()).unwrap_or_default()
}

/// Nothing if there is none, or it is not what [`to_json`] writes.
pub fn from_json(value: &Value) -> Option<Companions> {
    let files = BTreeMap::<String, Contents>::deserialize(value).ok()?;
    let mut companions = Companions::default();
    for (name, contents) in files {
        let bytes = match contents {
            Contents::Text(text) => text.into_bytes(),
            Contents::Bytes { base64 } => STANDARD.decode(base64).ok()?,
        };
        companions.insert(&name, bytes).ok()?;
    }
    Some(companions)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let mut files = Companions::default();
        files.insert("tokenizer.model", (0..=255).rev().collect()).unwrap();
        files.insert("LICENSE", "© the authors\n".as_bytes().to_vec()).unwrap();
        files.insert("NOTICE", Vec::new()).unwrap();
        let value = to_json(&files);
        assert_eq!(value["LICENSE"], json!("© the authors\n"));
        assert_eq!(from_json(&value), Some(files));
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        for value in [
            json!(null),
            json!({"LICENSE": 3}),
            json!({"LICENSE": {"base64": "not base64!"}}),
            json!({"../elsewhere": "text"}),
        ] {
            assert_eq!(from_json(&value), None, "{value}");
        }
    }
}
