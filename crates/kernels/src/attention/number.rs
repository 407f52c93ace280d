//! The numbers of pages, as vectors. Knows one head of one token at a time.

use crate::simd::{LANES, Simd};

/// A kind of number in pages.
pub(super) trait Number {
    type Kept: Copy + Default;

    fn load<S: Simd>(s: S, from: &[Self::Kept; LANES]) -> S::Floats;
}

pub(super) struct OfF32;
pub(super) struct OfBf16;
pub(super) struct OfF16;

impl Number for OfF32 {
    type Kept = f32;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32; LANES]) -> S::Floats {
        s.load(from)
    }
}

impl Number for OfBf16 {
    type Kept = u16;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16; LANES]) -> S::Floats {
        s.load_bf16(from)
    }
}

impl Number for OfF16 {
    type Kept = u16;

    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16; LANES]) -> S::Floats {
        s.load_f16(from)
    }
}

/// The 16 numbers from number `16 * chunk` of a head on, with zeros behind its end.
#[inline(always)]
pub(super) fn load_part<S: Simd, N: Number>(s: S, head: &[N::Kept], chunk: usize) -> S::Floats {
    let (whole, rest) = head.as_chunks();
    if let Some(part) = whole.get(chunk) {
        return N::load(s, part);
    }
    let mut padded = [N::Kept::default(); LANES];
    if chunk == whole.len() {
        padded[..rest.len()].copy_from_slice(rest);
    }
    N::load(s, &padded)
}

/// Asks for a head's memory.
#[inline(always)]
pub(super) fn prefetch<S: Simd, T>(s: S, numbers: &[T], place: usize, head_dim: usize) {
    for at in (place..place.saturating_add(head_dim)).step_by(64 / size_of::<T>()) {
        s.prefetch(numbers, at);
    }
}
