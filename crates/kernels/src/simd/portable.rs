//! Vectors as arrays, for processors of which nothing is known.

use half::{bf16, f16};

use super::{LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

#[inline(always)]
fn map(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Simd for Portable {
    type Floats = [f32; LANES];
    type Ints = [i32; LANES];
    type Bytes = [u8; 4 * LANES];

    const IS_WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        map(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // Rounded twice: without the instruction, one rounding is a slow function.
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn round(self, a: Self::Floats) -> Self::Floats {
        a.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn power_of_two(self, a: Self::Floats) -> Self::Floats {
        a.map(|a| f32::from_bits(((a as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn where_greater(self, a: Self::Floats, bound: f32, value: Self::Floats) -> Self::Floats {
        map(a, value, |a, value| if a > bound { value } else { 0.0 })
    }

    #[inline(always)]
    fn zip(self, a: Self::Floats, b: Self::Floats) -> (Self::Floats, Self::Floats) {
        let at = |place: usize| if place.is_multiple_of(2) { a[place / 2] } else { b[place / 2] };
        (std::array::from_fn(at), std::array::from_fn(|lane| at(lane + LANES)))
    }

    #[inline(always)]
    fn load_f16(self, from: &[u16; LANES]) -> Self::Floats {
        from.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u16; LANES]) -> Self::Floats {
        from.map(|bits| bf16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn load_bf16_pairs(self, from: &[u16; 2 * LANES]) -> (Self::Floats, Self::Floats) {
        let at = |place: usize| bf16::from_bits(from[place]).to_f32();
        (std::array::from_fn(|lane| at(2 * lane)), std::array::from_fn(|lane| at(2 * lane + 1)))
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes {
        *from
    }

    #[inline(always)]
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|byte| byte & 15)
    }

    #[inline(always)]
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|byte| byte >> 4)
    }

    #[inline(always)]
    fn zero_ints(self) -> Self::Ints {
        [0; LANES]
    }

    #[inline(always)]
    fn dot(self, sum: Self::Ints, bytes: Self::Bytes, word: i32) -> Self::Ints {
        let word = word.to_le_bytes();
        std::array::from_fn(|lane| {
            let mut sum = sum[lane];
            for (part, byte) in word.iter().enumerate() {
                sum += i32::from(bytes[4 * lane + part]) * i32::from(byte.cast_signed());
            }
            sum
        })
    }

    #[inline(always)]
    fn dot_small(self, sum: Self::Ints, bytes: Self::Bytes, word: i32) -> Self::Ints {
        self.dot(sum, bytes, word)
    }

    #[inline(always)]
    fn to_floats(self, ints: Self::Ints) -> Self::Floats {
        ints.map(|value| value as f32)
    }
}
