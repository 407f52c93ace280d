//! One 512-bit register per vector, with instructions for products of bytes.

use std::arch::x86_64::*;

use super::x86::instructions;
use super::{Kernel, LANES, Simd};

/// Proof that the processor has AVX-512 with VNNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Avx512> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Avx512(()))
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn inside<K: Kernel>(simd: Avx512, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only where these were detected.
        unsafe { inside(self, kernel) }
    }
}

impl Simd for Avx512 {
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;

    const IS_WIDE: bool = true;

    instructions! {
        fn splat(self, value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(self, from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn store(self, value: __m512, to: &mut [f32; LANES]) -> () {
            _mm512_storeu_ps(to.as_mut_ptr(), value)
        }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn round(self, a: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn power_of_two(self, a: __m512) -> __m512 { _mm512_scalef_ps(_mm512_set1_ps(1.0), a) }
        fn where_greater(self, a: __m512, bound: f32, value: __m512) -> __m512 {
            _mm512_maskz_mov_ps(
                _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, _mm512_set1_ps(bound)),
                value,
            )
        }
        fn zip(self, a: __m512, b: __m512) -> (__m512, __m512) {
            {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
            }
        }
        fn load_f16(self, from: &[u16; LANES]) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))
        }
        fn load_bf16(self, from: &[u16; LANES]) -> __m512 {
            {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
        }
        fn load_bf16_pairs(self, from: &[u16; 2 * LANES]) -> (__m512, __m512) {
            {
                let pairs = _mm512_loadu_si512(from.as_ptr().cast());
                let first = _mm512_slli_epi32::<16>(pairs);
                let second = _mm512_and_si512(pairs, _mm512_set1_epi32(-0x1_0000));
                (_mm512_castsi512_ps(first), _mm512_castsi512_ps(second))
            }
        }
        fn load_bytes(self, from: &[u8; 4 * LANES]) -> __m512i {
            _mm512_loadu_si512(from.as_ptr().cast())
        }
        fn low_halves(self, bytes: __m512i) -> __m512i {
            _mm512_and_si512(bytes, _mm512_set1_epi8(15))
        }
        fn high_halves(self, bytes: __m512i) -> __m512i {
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15))
        }
        fn zero_ints(self) -> __m512i { _mm512_setzero_si512() }
        fn dot(self, sum: __m512i, bytes: __m512i, word: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi32(word))
        }
        fn dot_small(self, sum: __m512i, bytes: __m512i, word: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, bytes, _mm512_set1_epi32(word))
        }
        fn to_floats(self, ints: __m512i) -> __m512 { _mm512_cvtepi32_ps(ints) }
    }
}
