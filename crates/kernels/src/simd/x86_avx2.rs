//! Two 256-bit registers per vector.

use std::arch::x86_64::*;

use super::x86::instructions;
use super::{Kernel, LANES, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Avx2> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Avx2(()))
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inside<K: Kernel>(simd: Avx2, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only where these were detected.
        unsafe { inside(self, kernel) }
    }
}

type Floats = [__m256; 2];
type Ints = [__m256i; 2];

impl Simd for Avx2 {
    type Floats = Floats;
    type Ints = Ints;
    type Bytes = Ints;

    const IS_WIDE: bool = false;

    instructions! {
        fn splat(self, value: f32) -> Floats { [_mm256_set1_ps(value); 2] }
        fn load(self, from: &[f32; LANES]) -> Floats {
            [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
        }
        fn store(self, value: Floats, to: &mut [f32; LANES]) -> () {
            {
                _mm256_storeu_ps(to.as_mut_ptr(), value[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), value[1]);
            }
        }
        fn add(self, a: Floats, b: Floats) -> Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn sub(self, a: Floats, b: Floats) -> Floats {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }
        fn mul(self, a: Floats, b: Floats) -> Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn div(self, a: Floats, b: Floats) -> Floats {
            [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
        }
        fn max(self, a: Floats, b: Floats) -> Floats {
            [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
        }
        fn min(self, a: Floats, b: Floats) -> Floats {
            [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
        }
        fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn round(self, a: Floats) -> Floats {
            [
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[0]),
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a[1]),
            ]
        }
        fn power_of_two(self, a: Floats) -> Floats {
            [power_of_two(a[0]), power_of_two(a[1])]
        }
        fn where_greater(self, a: Floats, bound: f32, value: Floats) -> Floats {
            {
                let bound = _mm256_set1_ps(bound);
                [
                    _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], bound), value[0]),
                    _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[1], bound), value[1]),
                ]
            }
        }
        fn zip(self, a: Floats, b: Floats) -> (Floats, Floats) {
            (zip(a[0], b[0]), zip(a[1], b[1]))
        }
        fn load_f16(self, from: &[u16; LANES]) -> Floats {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(8).cast())),
            ]
        }
        fn load_bf16(self, from: &[u16; LANES]) -> Floats {
            [
                widen(_mm_loadu_si128(from.as_ptr().cast())),
                widen(_mm_loadu_si128(from.as_ptr().add(8).cast())),
            ]
        }
        fn load_bf16_pairs(self, from: &[u16; 2 * LANES]) -> (Floats, Floats) {
            {
                let low = _mm256_loadu_si256(from.as_ptr().cast());
                let high = _mm256_loadu_si256(from.as_ptr().add(LANES).cast());
                let (low_first, low_second) = pairs(low);
                let (high_first, high_second) = pairs(high);
                ([low_first, high_first], [low_second, high_second])
            }
        }
        fn load_bytes(self, from: &[u8; 4 * LANES]) -> Ints {
            [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from.as_ptr().add(2 * LANES).cast()),
            ]
        }
        fn low_halves(self, bytes: Ints) -> Ints {
            {
                let mask = _mm256_set1_epi8(15);
                [_mm256_and_si256(bytes[0], mask), _mm256_and_si256(bytes[1], mask)]
            }
        }
        fn high_halves(self, bytes: Ints) -> Ints {
            {
                let mask = _mm256_set1_epi8(15);
                [
                    _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[0]), mask),
                    _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[1]), mask),
                ]
            }
        }
        fn zero_ints(self) -> Ints { [_mm256_setzero_si256(); 2] }
        fn dot(self, sum: Ints, bytes: Ints, word: i32) -> Ints {
            {
                let word = _mm256_set1_epi32(word);
                [dot(sum[0], bytes[0], word), dot(sum[1], bytes[1], word)]
            }
        }
        fn dot_small(self, sum: Ints, bytes: Ints, word: i32) -> Ints {
            {
                let word = _mm256_set1_epi32(word);
                [dot_small(sum[0], bytes[0], word), dot_small(sum[1], bytes[1], word)]
            }
        }
        fn to_floats(self, ints: Ints) -> Floats {
            [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])]
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn power_of_two(a: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
}

#[inline]
#[target_feature(enable = "avx2")]
fn zip(a: __m256, b: __m256) -> Floats {
    // Unpacking works on each half by itself.
    let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(halves: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn pairs(words: __m256i) -> (__m256, __m256) {
    let first = _mm256_slli_epi32::<16>(words);
    let second = _mm256_and_si256(words, _mm256_set1_epi32(-0x1_0000));
    (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
}

/// In two steps of 16 bits, even and odd bytes: the one instruction for bytes saturates.
#[inline]
#[target_feature(enable = "avx2")]
fn dot(sum: __m256i, bytes: __m256i, word: __m256i) -> __m256i {
    let even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
    let odd = _mm256_srli_epi16::<8>(bytes);
    let word_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(word));
    let word_odd = _mm256_srai_epi16::<8>(word);
    let even = _mm256_madd_epi16(even, word_even);
    let odd = _mm256_madd_epi16(odd, word_odd);
    _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
}

/// Two products of at most 15 * 128 do not saturate 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_small(sum: __m256i, bytes: __m256i, word: __m256i) -> __m256i {
    let halves = _mm256_maddubs_epi16(bytes, word);
    _mm256_add_epi32(sum, _mm256_madd_epi16(halves, _mm256_set1_epi16(1)))
}
