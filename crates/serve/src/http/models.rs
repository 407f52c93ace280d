//! `GET /v1/models`: the names that requests may use, adapters included.

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{Body, json_response};
use super::call::{Call, Loaded};
use super::error::ApiError;

pub(crate) fn list(call: &Call) -> Response<Body> {
    json_response(StatusCode::OK, &json!({"object": "list", "data": all(&call.loaded)}))
}

pub(crate) fn one(call: &Call) -> Result<Response<Body>, ApiError> {
    let name = percent_decoded(&call.rest);
    let found = all(&call.loaded).into_iter().find(|model| model["id"] == name.as_str());
    let model = found.ok_or_else(|| ApiError::unknown_model(&name))?;
    Ok(json_response(StatusCode::OK, &model))
}

fn all(loaded: &Loaded) -> Vec<Value> {
    let model = &loaded.model;
    let entry = |id: &str, parent: Option<&str>| {
        json!({
            "id": id,
            "object": "model",
            "created": model.created_seconds,
            "owned_by": "fungible",
            "root": model.root,
            "parent": parent,
            "max_model_len": loaded.answering.limits().context,
        })
    };
    let names = model.served_names.iter().map(|name| entry(name, None));
    let adapters = loaded.answering.adapters();
    names.chain(adapters.iter().map(|name| entry(name, Some(model.name())))).collect()
}

/// Names of models have slashes, which clients send as `%2F`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|digits| !digits.starts_with('+'));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn names_are_decoded_and_bad_escapes_left_alone() {
        assert_eq!(percent_decoded("org%2Fmodel"), "org/model");
        assert_eq!(percent_decoded("a%b%2"), "a%b%2");
        assert_eq!(percent_decoded("%+1%zz%C3%A4"), "%+1%zzä");
    }
}
