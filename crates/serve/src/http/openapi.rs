//! `GET /openapi.json`, the description of all paths, and `GET /docs`, a page that shows it.
//!
//! The document is written by hand in `openapi.json`; tests hold it against the paths there are.

use serde_json::{Value, json};

use super::state::State;

/// A page without outside requests.
pub(crate) const PAGE: &str = include_str!("openapi/docs.html");

const WRITTEN: &str = include_str!("openapi/openapi.json");

/// The document as it is written.
pub(crate) fn written() -> Value {
    // A test reads it, so it is JSON.
    serde_json::from_str(WRITTEN).unwrap_or_default()
}

/// The document with what this server knows: its version, its models, whether it wants a key.
pub(crate) fn document(state: &State) -> Value {
    let mut document = written();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    if state.settings.api_keys.is_empty()
        && let Value::Object(fields) = &mut document
    {
        fields.remove("security");
    }
    if let Some(loaded) = state.loaded() {
        let mut names = loaded.model.served_names.clone();
        names.extend(loaded.answering.adapters());
        let schemas = &mut document["components"]["schemas"];
        schemas["ModelName"]["enum"] = json!(names);
        let dimensions = &mut schemas["EmbeddingRequest"]["properties"]["dimensions"];
        dimensions["maximum"] = json!(loaded.answering.limits().hidden_size);
    }
    document
}
