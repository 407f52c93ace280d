//! Metadata values and typed access to them.

use std::collections::HashMap;
use std::io::Read;

use super::GgufError;
use super::reader::Reader;

/// Longest accepted arrays. Vocabularies, the longest in practice, stay below a million entries.
const ARRAY_LENGTH_MAX: u64 = 1 << 24;

/// A metadata value. Integers of every width are widened, so that a key may be written with any of
/// them.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A homogeneous array.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    Strings(Vec<String>),
    Numbers(Numbers),
}

/// An array of numbers as the file holds it: widening each would let a hostile file claim eight
/// times its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Kind {
    fn of(type_number: u32) -> Option<Kind> {
        Some(match type_number {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    fn size_bytes(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
        }
    }

    /// The value whose little-endian bits are the low bits of `bits`.
    fn value(self, bits: u64) -> Value {
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Unsigned(bits),
            Kind::I8 => Value::Signed(i64::from(bits as u8 as i8)),
            Kind::I16 => Value::Signed(i64::from(bits as u16 as i16)),
            Kind::I32 => Value::Signed(i64::from(bits as u32 as i32)),
            Kind::I64 => Value::Signed(bits as i64),
            Kind::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Kind::F64 => Value::Float(f64::from_bits(bits)),
            Kind::Bool => Value::Bool(bits != 0),
        }
    }
}

impl From<&[i32]> for Numbers {
    fn from(values: &[i32]) -> Numbers {
        Numbers {
            kind: Kind::I32,
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

impl From<&[f32]> for Numbers {
    fn from(values: &[f32]) -> Numbers {
        Numbers {
            kind: Kind::F32,
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

impl Numbers {
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.size_bytes()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.kind.size_bytes()).map(|chunk| {
            let bits = chunk.iter().rev().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
            self.kind.value(bits)
        })
    }
}

impl Value {
    fn type_name(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(Array::Strings(_)) => "an array of strings",
            Value::Array(Array::Numbers(_)) => "an array of numbers",
        }
    }

    /// The value as an unsigned integer, when it is a non-negative integer.
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Value::Unsigned(value) => Some(*value),
            Value::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as a float, when it is a number.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Unsigned(value) => Some(*value as f64),
            Value::Signed(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }
}

pub(super) fn read<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Value, GgufError> {
    let what = "a metadata value";
    let type_number = reader.u32(what)?;
    match type_number {
        8 => Ok(Value::String(reader.string(what)?)),
        9 => read_array(reader, key).map(Value::Array),
        _ => {
            let Some(kind) = Kind::of(type_number) else {
                return Err(GgufError::ValueType { key: key.to_owned(), type_number });
            };
            let bits = match kind.size_bytes() {
                1 => u64::from(reader.u8(what)?),
                2 => u64::from(reader.u16(what)?),
                4 => u64::from(reader.u32(what)?),
                _ => reader.u64(what)?,
            };
            Ok(kind.value(bits))
        }
    }
}

fn read_array<R: Read>(reader: &mut Reader<R>, key: &str) -> Result<Array, GgufError> {
    let what = "a metadata array";
    let type_number = reader.u32(what)?;
    let length = reader.count("elements of one array", ARRAY_LENGTH_MAX)?;
    match type_number {
        8 => {
            // Each string takes at least its 8-byte length, so `length` is bounded by the file
            // before it allocates.
            if length.saturating_mul(8) > reader.remaining() {
                return Err(reader.truncated(what));
            }
            let mut strings = Vec::with_capacity(length as usize);
            for _ in 0..length {
                strings.push(reader.string("a string of a metadata array")?);
            }
            Ok(Array::Strings(strings))
        }
        9 => Err(GgufError::NestedArray { key: key.to_owned() }),
        _ => {
            let Some(kind) = Kind::of(type_number) else {
                return Err(GgufError::ValueType { key: key.to_owned(), type_number });
            };
            let bytes = reader.bytes(length * kind.size_bytes() as u64, what)?;
            Ok(Array::Numbers(Numbers { kind, bytes }))
        }
    }
}

/// The key-value part of a GGUF file. Accessors return `None` for a key that is absent and an error
/// for one of another type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    values: HashMap<String, Value>,
}

impl Metadata {
    pub fn new(values: HashMap<String, Value>) -> Metadata {
        Metadata { values }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Sets a key, replacing what it held.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        self.values.insert(key.into(), value);
    }

    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", Value::as_unsigned)
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", Value::as_float)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    pub fn numbers(&self, key: &str) -> Result<Option<&Numbers>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(Array::Numbers(values)) => Some(values),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(GgufError::WrongType {
                key: key.to_owned(),
                expected,
                found: value.type_name(),
            }),
        }
    }
}
