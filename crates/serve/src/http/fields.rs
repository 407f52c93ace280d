//! Reads the fields of a JSON object one by one, so that an error names the field.
//!
//! A field that is null counts as absent, as OpenAI's clients expect. Unknown fields are nobody's
//! business.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// An object and where it lies in the body.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'v> {
    map: &'v Map<String, Value>,
    /// Empty for the body itself.
    path: String,
}

impl<'v> Fields<'v> {
    pub fn of_body(body: &'v Value) -> Result<Fields<'v>, ApiError> {
        match body {
            Value::Object(map) => Ok(Fields { map, path: String::new() }),
            _ => Err(ApiError::invalid("the body must be a JSON object")),
        }
    }

    /// The object `value`, which lies at `path`.
    pub fn of(value: &'v Value, path: impl Into<String>) -> Result<Fields<'v>, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            _ => Err(wrong_type(path, "an object", value)),
        }
    }

    /// A field's full name, for errors.
    pub fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn map(&self) -> &'v Map<String, Value> {
        self.map
    }

    pub fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Result<Option<&'v str>, ApiError> {
        self.as_type(name, "a string", Value::as_str)
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.as_type(name, "true or false", Value::as_bool)
    }

    pub fn list(&self, name: &str) -> Result<Option<&'v Vec<Value>>, ApiError> {
        self.as_type(name, "an array", Value::as_array)
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields<'v>>, ApiError> {
        self.get(name).map(|value| Fields::of(value, self.path(name))).transpose()
    }

    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(number) = self.as_type(name, "a number", Value::as_f64)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (least, most) = range.into_inner();
        let message = format!("{} is {number}; it must be from {least} to {most}", self.path(name));
        Err(ApiError::field(self.path(name), message))
    }

    pub fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i128>,
    ) -> Result<Option<i128>, ApiError> {
        let Some(number) = self.as_type(name, "an integer", whole_number)? else { return Ok(None) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (least, most) = range.into_inner();
        let message = format!("{} is {number}; it must be from {least} to {most}", self.path(name));
        Err(ApiError::field(self.path(name), message))
    }

    /// An integer from `least` up.
    pub fn count(&self, name: &str, least: u32) -> Result<Option<usize>, ApiError> {
        let number = self.integer(name, i128::from(least)..=i128::from(u32::MAX))?;
        Ok(number.map(|number| number as usize))
    }

    pub fn token_ids(&self, name: &str) -> Result<Option<Vec<u32>>, ApiError> {
        self.get(name).map(|value| token_ids(value, &self.path(name))).transpose()
    }

    /// A string, or an array of strings.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(texts)) => {
                let text = |(at, value): (usize, &Value)| match value {
                    Value::String(text) => Ok(text.clone()),
                    _ => Err(wrong_type(format!("{}[{at}]", self.path(name)), "a string", value)),
                };
                texts.iter().enumerate().map(text).collect()
            }
            Some(value) => {
                Err(wrong_type(self.path(name), "a string or an array of strings", value))
            }
        }
    }

    /// Fails if the field is there and is none of `harmless`.
    pub fn refuse(
        &self,
        name: &str,
        harmless: &[Value],
        why: &'static str,
    ) -> Result<(), ApiError> {
        match self.get(name) {
            Some(value) if !harmless.contains(value) => {
                Err(ApiError::unsupported(self.path(name), format!("{}: {why}", self.path(name))))
            }
            _ => Ok(()),
        }
    }

    pub fn missing(&self, name: &str) -> ApiError {
        ApiError::field(self.path(name), format!("{} is missing", self.path(name)))
    }

    fn as_type<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong_type(self.path(name), wanted, value))
    }
}

/// Token ids out of an array.
pub(crate) fn token_ids(value: &Value, path: &str) -> Result<Vec<u32>, ApiError> {
    let wrong = |value| wrong_type(path.to_owned(), "an array of token ids", value);
    let Value::Array(ids) = value else { return Err(wrong(value)) };
    let id = |value| whole_number(value).and_then(|id| u32::try_from(id).ok());
    ids.iter().map(|value| id(value).ok_or_else(|| wrong(value))).collect()
}

pub(crate) fn wrong_type(path: String, wanted: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ApiError::field(path.clone(), format!("{path} must be {wanted}, not {found}"))
}

/// JSON knows one kind of number, so `5.0` is an integer. Larger ones are taken only if they were
/// written as such: a float may have been rounded.
fn whole_number(value: &Value) -> Option<i128> {
    if let Some(number) = value.as_i64() {
        return Some(i128::from(number));
    }
    if let Some(number) = value.as_u64() {
        return Some(i128::from(number));
    }
    const EXACT_MAX: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
    let is_exact = |number: &f64| number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    value.as_f64().filter(is_exact).map(|number| number as i128)
}
