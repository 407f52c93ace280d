//! The types that a buffer's elements can have, with the interface's two numberings of them.

use std::fmt;

macro_rules! element_types {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $bits:literal, $pjrt:literal, $ffi:literal;)*) => {
        /// Type of a buffer's elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ElementType {
            $($(#[$doc])* $name,)*
        }

        impl ElementType {
            /// Every type, in no particular order.
            pub const ALL: &'static [ElementType] = &[$(ElementType::$name,)*];

            /// Width of one value, in bits.
            pub fn bits(self) -> usize {
                match self { $(ElementType::$name => $bits,)* }
            }

            pub(crate) fn raw(self) -> i32 {
                match self { $(ElementType::$name => $pjrt,)* }
            }

            pub(crate) fn from_raw(number: i32) -> Option<ElementType> {
                match number { $($pjrt => Some(ElementType::$name),)* _ => None }
            }

            pub(crate) fn from_ffi(number: i32) -> Option<ElementType> {
                match number { $($ffi => Some(ElementType::$name),)* _ => None }
            }
        }

        impl fmt::Display for ElementType {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(match self { $(ElementType::$name => $text,)* })
            }
        }
    };
}

// name, StableHLO's name, bits, number in PJRT_Buffer_Type, number in XLA_FFI_DataType
element_types! {
    /// Booleans, one byte each.
    Pred, "i1", 8, 1, 1;
    /// Signed 2-bit integers.
    S2, "i2", 2, 24, 26;
    /// Signed 4-bit integers.
    S4, "i4", 4, 21, 21;
    /// Signed 8-bit integers.
    S8, "i8", 8, 2, 2;
    /// Signed 16-bit integers.
    S16, "i16", 16, 3, 3;
    /// Signed 32-bit integers.
    S32, "i32", 32, 4, 4;
    /// Signed 64-bit integers.
    S64, "i64", 64, 5, 5;
    /// Unsigned 2-bit integers.
    U2, "ui2", 2, 25, 27;
    /// Unsigned 4-bit integers.
    U4, "ui4", 4, 22, 22;
    /// Unsigned 8-bit integers.
    U8, "ui8", 8, 6, 6;
    /// Unsigned 16-bit integers.
    U16, "ui16", 16, 7, 7;
    /// Unsigned 32-bit integers.
    U32, "ui32", 32, 8, 8;
    /// Unsigned 64-bit integers.
    U64, "ui64", 64, 9, 9;
    /// IEEE half precision.
    F16, "f16", 16, 10, 10;
    /// IEEE single precision.
    F32, "f32", 32, 11, 11;
    /// IEEE double precision.
    F64, "f64", 64, 12, 12;
    /// The upper half of an `F32`.
    Bf16, "bf16", 16, 13, 16;
    /// Complex numbers of two `F32`.
    C64, "complex<f32>", 64, 14, 15;
    /// Complex numbers of two `F64`.
    C128, "complex<f64>", 128, 15, 18;
    /// 8-bit floats by sign, exponent and mantissa bits: 1, 5, 2, with infinities.
    F8E5m2, "f8E5M2", 8, 16, 19;
    /// 1, 4, 3, finite, with NaN.
    F8E4m3fn, "f8E4M3FN", 8, 17, 20;
    /// 1, 4, 3, bias 11, finite, no negative zero.
    F8E4m3b11fnuz, "f8E4M3B11FNUZ", 8, 18, 23;
    /// 1, 5, 2, finite, no negative zero.
    F8E5m2fnuz, "f8E5M2FNUZ", 8, 19, 24;
    /// 1, 4, 3, finite, no negative zero.
    F8E4m3fnuz, "f8E4M3FNUZ", 8, 20, 25;
    /// 1, 4, 3, with infinities.
    F8E4m3, "f8E4M3", 8, 26, 28;
    /// 1, 3, 4, with infinities.
    F8E3m4, "f8E3M4", 8, 27, 29;
    /// A power of two: the shared scale of the MX formats.
    F8E8m0fnu, "f8E8M0FNU", 8, 28, 33;
    /// 4-bit floats of the MX formats: 1, 2, 1.
    F4E2m1fn, "f4E2M1FN", 4, 29, 32;
}

impl ElementType {
    /// Bytes that one value takes in host memory. Values narrower than a byte take a whole one there,
    /// however tightly a device packs them.
    pub fn size_bytes(self) -> usize {
        self.bits().div_ceil(8)
    }

    /// Bytes that an array of these dimensions takes in host memory; none if a dimension is negative
    /// or the product does not fit.
    pub fn array_bytes(self, dimensions: &[i64]) -> Option<usize> {
        dimensions.iter().try_fold(self.size_bytes(), |bytes, &dimension| {
            bytes.checked_mul(usize::try_from(dimension).ok()?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ElementType;

    #[test]
    fn numbers_are_unique_and_round_trip() {
        for &element_type in ElementType::ALL {
            assert_eq!(ElementType::from_raw(element_type.raw()), Some(element_type));
        }
        for number in 0..64 {
            let matches = ElementType::ALL.iter().filter(|t| t.raw() == number).count();
            assert!(matches <= 1, "PJRT number {number} is taken by {matches} types");
        }
    }

    #[test]
    fn array_bytes_refuses_what_does_not_fit() {
        assert_eq!(ElementType::F32.array_bytes(&[2, 3]), Some(24));
        assert_eq!(ElementType::S4.array_bytes(&[5]), Some(5));
        assert_eq!(ElementType::F32.array_bytes(&[]), Some(4));
        assert_eq!(ElementType::F32.array_bytes(&[-1]), None);
        assert_eq!(ElementType::F64.array_bytes(&[i64::MAX, 2]), None);
    }
}
