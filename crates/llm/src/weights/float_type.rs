//! The floating-point types that weights can be converted to, and the check that every number is
//! finite.

use std::fmt;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use super::Encoding;

/// A floating-point type that weights can be converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatType {
    F32,
    F16,
    Bf16,
}

impl FloatType {
    pub const fn size_bytes(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }

    pub(super) const fn encoding(self) -> Encoding {
        match self {
            FloatType::F32 => Encoding::F32,
            FloatType::F16 => Encoding::F16,
            FloatType::Bf16 => Encoding::Bf16,
        }
    }
}

impl fmt::Display for FloatType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FloatType::F32 => "f32",
            FloatType::F16 => "f16",
            FloatType::Bf16 => "bf16",
        })
    }
}

/// Without an early exit, so that it runs at vector speed: adding one to an all-ones exponent
/// carries into the sign.
pub(super) fn all_finite(values: &[f32]) -> bool {
    let carried = values
        .iter()
        .fold(0, |carried, value| carried | ((value.to_bits() & 0x7f80_0000) + 0x0080_0000));
    carried & 0x8000_0000 == 0
}

pub(super) fn position_of_non_finite_bits(float_type: FloatType, bits: &[u16]) -> Option<usize> {
    let exponent = if float_type == FloatType::F16 { 0x7c00u16 } else { 0x7f80 };
    let lowest = exponent & exponent.wrapping_neg();
    let carried = bits.iter().fold(0, |carried, bits| carried | ((bits & exponent) + lowest));
    if carried & 0x8000 == 0 {
        return None;
    }
    bits.iter().position(|bits| bits & exponent == exponent)
}

pub(super) fn widen(float_type: FloatType, bits: u16) -> f32 {
    if float_type == FloatType::F16 {
        f16::from_bits(bits).to_f32()
    } else {
        bf16::from_bits(bits).to_f32()
    }
}

pub(super) fn round_to_16_bits(float_type: FloatType, values: &[f32], bits: &mut [u16]) {
    if float_type == FloatType::F16 {
        bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
    } else {
        bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values);
    }
}
