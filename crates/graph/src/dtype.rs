//! Element types of tensors, with the names that StableHLO gives them. Knows nothing of shapes.

use std::fmt;

/// The type of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    Bool,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl DType {
    /// Size of one element in a buffer, in bytes (a `Bool` takes a whole byte).
    pub fn bytes(self) -> usize {
        match self {
            DType::Bool | DType::S8 | DType::U8 => 1,
            DType::S16 | DType::U16 | DType::F16 | DType::Bf16 => 2,
            DType::S32 | DType::U32 | DType::F32 => 4,
            DType::S64 | DType::U64 | DType::F64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
    }

    pub fn is_unsigned(self) -> bool {
        matches!(self, DType::U8 | DType::U16 | DType::U32 | DType::U64)
    }

    pub fn is_integer(self) -> bool {
        !self.is_float() && self != DType::Bool
    }

    /// The element type as MLIR spells it, such as `bf16` or `ui32`.
    pub fn mlir(self) -> &'static str {
        match self {
            DType::Bool => "i1",
            DType::S8 => "i8",
            DType::S16 => "i16",
            DType::S32 => "i32",
            DType::S64 => "i64",
            DType::U8 => "ui8",
            DType::U16 => "ui16",
            DType::U32 => "ui32",
            DType::U64 => "ui64",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }

    /// The value nearest to `value` that this type can hold. Integers wrap around, as XLA's do; a
    /// float turned into an integer is truncated toward zero.
    pub fn round(self, value: f64) -> f64 {
        match self {
            DType::Bool => f64::from(value != 0.0),
            DType::S8 => f64::from(value as i64 as i8),
            DType::S16 => f64::from(value as i64 as i16),
            DType::S32 => f64::from(value as i64 as i32),
            DType::S64 => value as i64 as f64,
            DType::U8 => f64::from(value as i64 as u8),
            DType::U16 => f64::from(value as i64 as u16),
            DType::U32 => f64::from(value as i64 as u32),
            DType::U64 => value as u64 as f64,
            DType::F16 => half::f16::from_f64(value).to_f64(),
            DType::Bf16 => half::bf16::from_f64(value).to_f64(),
            DType::F32 => f64::from(value as f32),
            DType::F64 => value,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DType::Bool => "bool",
            DType::S8 => "s8",
            DType::S16 => "s16",
            DType::S32 => "s32",
            DType::S64 => "s64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        })
    }
}
