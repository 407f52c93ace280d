//! Named values as plugins take them, in a form that travels to the compile worker and into cache
//! keys. Knows no plugin's names.

use pjrt::Value;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Setting {
    Text(String),
    Integer(i64),
    Integers(Vec<i64>),
    Number(f64),
    Flag(bool),
}

/// In a fixed order, so that equal settings give equal cache keys.
pub type Settings = Vec<(String, Setting)>;

impl Setting {
    pub fn to_value(&self) -> Value {
        match self {
            Setting::Text(text) => Value::String(text.clone()),
            Setting::Integer(integer) => Value::Int64(*integer),
            Setting::Integers(integers) => Value::Int64List(integers.clone()),
            // PJRT's named values are single precision.
            Setting::Number(number) => Value::Float(*number as f32),
            Setting::Flag(flag) => Value::Bool(*flag),
        }
    }
}

pub fn to_values(settings: &Settings) -> Vec<(String, Value)> {
    settings.iter().map(|(name, setting)| (name.clone(), setting.to_value())).collect()
}
