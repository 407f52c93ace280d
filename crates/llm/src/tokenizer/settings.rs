//! `tokenizer_config.json`: the special tokens' roles, whether they are added, and chat templates.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::TokenizerError;

/// The part of a `tokenizer_config.json` that matters here. Empty by default, for folders without
/// one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerSettings {
    /// Text of `bos_token`, `eos_token`, `pad_token`, ….
    pub special_tokens: BTreeMap<String, String>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    /// The template called `default`, or the only one.
    pub chat_template: Option<String>,
    /// Further templates by name (`tool_use`, `rag`).
    pub named_chat_templates: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Raw {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<RawTemplates>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplates {
    One(String),
    Named(Vec<RawTemplate>),
}

#[derive(Deserialize)]
struct RawTemplate {
    name: String,
    template: String,
}

impl TokenizerSettings {
    /// Parses the text of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// When it is no JSON, or one of its known keys is of another type.
    pub fn from_json(text: &str) -> Result<TokenizerSettings, TokenizerError> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|source| TokenizerError::Settings { source })?;
        let mut settings = TokenizerSettings {
            add_bos_token: raw.add_bos_token,
            add_eos_token: raw.add_eos_token,
            ..TokenizerSettings::default()
        };
        for role in ["bos", "eos", "unk", "pad", "sep", "cls", "mask"] {
            let key = format!("{role}_token");
            if let Some(text) = raw.rest.get(&key).and_then(token_text) {
                settings.special_tokens.insert(key, text);
            }
        }
        match raw.chat_template {
            None => {}
            Some(RawTemplates::One(template)) => settings.chat_template = Some(template),
            Some(RawTemplates::Named(templates)) => {
                let mut named: BTreeMap<_, _> = templates
                    .into_iter()
                    .map(|template| (template.name, template.template))
                    .collect();
                settings.chat_template = named.remove("default");
                settings.named_chat_templates = named;
            }
        }
        Ok(settings)
    }
}

/// A token is a string, or an object with its string under `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}
