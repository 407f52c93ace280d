//! The top level of a JSON body: which fields there are and where. What is inside them is looked at
//! only for the few that matter here.

use std::fmt;
use std::ops::Range;

use hyper::body::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::AskError;

#[derive(Clone)]
pub(super) struct Fields {
    body: Bytes,
    /// In the order of writing.
    entries: Vec<(String, Range<usize>)>,
}

impl Fields {
    pub fn read(body: Bytes) -> Result<Fields, AskError> {
        let text = std::str::from_utf8(&body).map_err(|error| AskError::Json(error.to_string()))?;
        if !text.trim_start().starts_with('{') {
            let is_json = serde_json::from_str::<de::IgnoredAny>(text);
            return Err(match is_json {
                Ok(_) => AskError::NotAnObject,
                Err(error) => AskError::Json(error.to_string()),
            });
        }
        let object: Object<'_> = serde_json::from_str(text).map_err(|error| {
            // The only error that is not about JSON is our own.
            match error.is_data() {
                true => AskError::Twice(twice(&error.to_string())),
                false => AskError::Json(error.to_string()),
            }
        })?;
        let start = text.as_ptr().addr();
        let entries = object.0.into_iter().map(|(name, value)| {
            let at = value.get().as_ptr().addr() - start;
            (name, at..at + value.get().len())
        });
        let entries = entries.collect();
        Ok(Fields { body, entries })
    }

    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The JSON of a field; null counts as absent.
    pub fn raw(&self, name: &str) -> Option<&str> {
        let (_, range) = self.entries.iter().find(|(field, _)| field == name)?;
        let text = self.slice(range);
        (text != "null").then_some(text)
    }

    pub fn text(&self, name: &'static str) -> Result<Option<String>, AskError> {
        self.typed(name, "a text")
    }

    pub fn boolean(&self, name: &'static str) -> Result<Option<bool>, AskError> {
        self.typed(name, "true or false")
    }

    pub fn number(&self, name: &'static str) -> Result<Option<u64>, AskError> {
        self.typed(name, "a whole number that is not negative")
    }

    pub fn includes_usage(&self) -> Result<bool, AskError> {
        #[derive(Deserialize)]
        struct Options {
            include_usage: Option<bool>,
        }
        let options: Option<Options> = self.typed("stream_options", "an object")?;
        Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
    }

    fn typed<'a, T: Deserialize<'a>>(
        &'a self,
        field: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, AskError> {
        let Some(raw) = self.raw(field) else { return Ok(None) };
        serde_json::from_str(raw).map(Some).map_err(|_| AskError::Type { field, expected })
    }

    /// The object again, with the model's name and some fields in the place of what was there.
    pub fn with(&self, model: &str, set: &[(&str, &RawValue)]) -> Bytes {
        let added: usize = set.iter().map(|(name, value)| name.len() + value.get().len() + 8).sum();
        let mut bytes = Vec::with_capacity(self.body.len() + model.len() + added + 16);
        bytes.extend_from_slice(b"{\"model\":");
        push_text(&mut bytes, model);
        for (name, range) in &self.entries {
            if name != "model" && set.iter().all(|(other, _)| other != name) {
                bytes.push(b',');
                push_text(&mut bytes, name);
                bytes.push(b':');
                bytes.extend_from_slice(self.slice(range).as_bytes());
            }
        }
        for (name, value) in set {
            bytes.push(b',');
            push_text(&mut bytes, name);
            bytes.push(b':');
            bytes.extend_from_slice(value.get().as_bytes());
        }
        bytes.push(b'}');
        Bytes::from(bytes)
    }

    fn slice(&self, range: &Range<usize>) -> &str {
        // Ranges are of values that were found in this very text.
        self.body
            .get(range.clone())
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("null")
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    // Writing a text into memory does not fail.
    let _ = serde_json::to_writer(bytes, text);
}

/// The name in [`Visitor::visit_map`]'s error, which ends with a line and a column.
fn twice(message: &str) -> String {
    let name = message.split_once('`').and_then(|(_, rest)| rest.rsplit_once('`'));
    name.map_or_else(String::new, |(name, _)| name.to_owned())
}

struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut entries: Vec<(String, &RawValue)> = Vec::with_capacity(8);
                while let Some(name) = map.next_key::<String>()? {
                    // Servers differ in which one counts, so what is allowed might not be what is asked.
                    if entries.iter().any(|(other, _)| *other == name) {
                        return Err(de::Error::custom(format_args!("`{name}` twice")));
                    }
                    if entries.len() >= FIELDS_MAX {
                        return Err(de::Error::custom(format_args!(
                            "`{name}` is one too many, or"
                        )));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// No request has nearly as many; looking for doubles takes time with their square.
const FIELDS_MAX: usize = 256;
