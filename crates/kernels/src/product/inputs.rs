//! Rows rounded to whole numbers with a scale per group, for products with quantized matrices.

use crate::pool::{self, Shared};
use crate::simd::{Kernel, LANES, Level, Simd};

/// The greatest whole number.
const GREATEST: f32 = 127.0;

/// Rows that are worth a part of their own.
const ROWS_PER_PART: usize = 16;

/// Rounded rows.
pub(super) struct Inputs {
    /// `[rows, k / 4]`, four signed bytes each, the first lowest.
    pub(super) words: Vec<i32>,
    /// `[rows, k / group]`: what a whole number is to be multiplied with.
    pub(super) scales: Vec<f32>,
    /// `[rows, k / group]`: the sum of the group's whole numbers, times the scale.
    pub(super) sums: Vec<f32>,
}

impl Inputs {
    /// Rounds `x [rows, k]`, where `k` is a multiple of `group` and `group` one of 16.
    pub(super) fn round(level: Level, x: &[f32], k: usize, group: usize) -> Inputs {
        let mut words = vec![0; x.len() / 4];
        let mut scales = vec![0.0; x.len() / group];
        let mut sums = vec![0.0; x.len() / group];
        let (to_words, to_scales, to_sums) =
            (Shared::new(&mut words), Shared::new(&mut scales), Shared::new(&mut sums));
        let size = ROWS_PER_PART * k;
        pool::run(x.len().div_ceil(size), &|part| {
            let start = part * size;
            let length = size.min(x.len() - start);
            // SAFETY: every part has its own rows.
            let (words, scales, sums) = unsafe {
                (
                    to_words.slice(start / 4, length / 4),
                    to_scales.slice(start / group, length / group),
                    to_sums.slice(start / group, length / group),
                )
            };
            level.run(Round { x: &x[start..start + length], group, words, scales, sums });
        });
        Inputs { words, scales, sums }
    }
}

struct Round<'a> {
    x: &'a [f32],
    group: usize,
    words: &'a mut [i32],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.group == LANES {
            round::<S, 1>(s, self);
        } else {
            round::<S, 2>(s, self);
        }
    }
}

/// Groups of `V` vectors.
#[inline(always)]
fn round<S: Simd, const V: usize>(s: S, part: Round<'_>) {
    let (vectors, _) = part.x.as_chunks::<LANES>();
    let (words, _) = part.words.as_chunks_mut::<4>();
    for group in 0..vectors.len() / V {
        let mut peak = s.splat(0.0);
        // Zero, unless there is an infinity or no number.
        let mut flaw = s.splat(0.0);
        for vector in 0..V {
            let x = s.load(&vectors[group * V + vector]);
            peak = s.max(s.max(x, s.sub(s.splat(0.0), x)), peak);
            flaw = s.mul_add(x, s.splat(0.0), flaw);
        }
        let peak = s.greatest(peak);
        let scale = peak / GREATEST + s.sum(flaw);
        let inverse = if peak > 0.0 { GREATEST / peak } else { 0.0 };
        let mut sum = 0;
        for vector in 0..V {
            let x = s.load(&vectors[group * V + vector]);
            let rounded = s.lanes(s.round(s.mul(x, s.splat(inverse))));
            let mut bytes = [0; LANES];
            for lane in 0..LANES {
                let whole = rounded[lane] as i32;
                sum += whole;
                bytes[lane] = whole as u8;
            }
            for (word, bytes) in words[group * V + vector].iter_mut().zip(bytes.as_chunks::<4>().0)
            {
                *word = i32::from_le_bytes(*bytes);
            }
        }
        part.scales[group] = scale;
        part.sums[group] = scale * sum as f32;
    }
}
