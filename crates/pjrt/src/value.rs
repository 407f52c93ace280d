//! Named values: options that go into a plugin, attributes and figures that come out.

use crate::error::{Error, Result};
use crate::sys::{self, Arguments};
use crate::table::{slice, text};

/// The value of an option, an attribute or a figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text; plugins also put serialized messages here, whose bytes are then not all kept.
    String(String),
    /// A whole number.
    Int64(i64),
    /// Several whole numbers.
    Int64List(Vec<i64>),
    /// A fraction.
    Float(f32),
    /// Yes or no.
    Bool(bool),
}

/// The C form of some options. It points into them, so they must outlive its use.
pub(crate) fn to_raw(values: &[(String, Value)]) -> Vec<sys::NamedValue> {
    values
        .iter()
        .map(|(name, value)| {
            let mut raw = sys::NamedValue::new();
            raw.name = name.as_ptr();
            raw.name_size = name.len();
            (raw.value_type, raw.value, raw.value_size) = match value {
                Value::String(value) => {
                    (sys::VALUE_STRING, sys::ValueUnion { string: value.as_ptr() }, value.len())
                }
                Value::Int64(value) => (sys::VALUE_INT64, sys::ValueUnion { int64: *value }, 1),
                Value::Int64List(value) => (
                    sys::VALUE_INT64_LIST,
                    sys::ValueUnion { int64_list: value.as_ptr() },
                    value.len(),
                ),
                Value::Float(value) => (sys::VALUE_FLOAT, sys::ValueUnion { float: *value }, 1),
                Value::Bool(value) => (sys::VALUE_BOOL, sys::ValueUnion { boolean: *value }, 1),
            };
            raw
        })
        .collect()
}

/// Copies named values out of a plugin.
///
/// # Safety
/// `values` must be null or point to `count` values, valid for the duration of the call.
pub(crate) unsafe fn from_raw(
    values: *const sys::NamedValue,
    count: usize,
) -> Result<Vec<(String, Value)>> {
    // SAFETY: passed on from the caller.
    let values = unsafe { slice(values, count) };
    values
        .iter()
        .map(|raw| {
            // SAFETY: a named value points to its name.
            let name = unsafe { text(raw.name, raw.name_size) };
            // SAFETY: `value_type` says which member of the union was written, and lists and text
            // have `value_size` elements.
            let value = unsafe {
                match raw.value_type {
                    sys::VALUE_STRING => Value::String(text(raw.value.string, raw.value_size)),
                    sys::VALUE_INT64 => Value::Int64(raw.value.int64),
                    sys::VALUE_INT64_LIST => {
                        Value::Int64List(slice(raw.value.int64_list, raw.value_size).to_vec())
                    }
                    sys::VALUE_FLOAT => Value::Float(raw.value.float),
                    sys::VALUE_BOOL => Value::Bool(raw.value.boolean),
                    other => {
                        return Err(Error::broken(format!(
                            "the value `{name}` is of unknown type {other}"
                        )));
                    }
                }
            };
            Ok((name, value))
        })
        .collect()
}
