//! From a block's products to weights: scale, cap, who sees whom, and the running softmax.

use std::ops::Range;

use super::exponential::{exponential, hyperbolic_tangent};
use super::{BLOCK, Scores};
use crate::simd::{LANES, Simd};

const VECTORS: usize = BLOCK / LANES;

/// What is known of a row's softmax so far.
pub(super) struct Running<'a> {
    /// The greatest score.
    pub(super) peak: &'a mut f32,
    /// The sum of the exponentials of the scores' distances from it, by lane.
    pub(super) sum: &'a mut [f32; LANES],
}

/// Turns products with a block of keys into weights, zero outside of `seen`. Returns what earlier weights are to be
/// multiplied with, now that the peak may be another.
#[inline(always)]
pub(super) fn weigh<S: Simd>(
    s: S,
    scores: &Scores,
    block: &mut [f32; BLOCK],
    seen: Range<usize>,
    running: Running<'_>,
) -> f32 {
    let (vectors, _) = block.as_chunks_mut::<LANES>();
    for vector in vectors.iter_mut() {
        let mut score = s.mul(s.load(vector), s.splat(scores.scale));
        if scores.soft_cap != 0.0 {
            let cap = s.splat(scores.soft_cap);
            score = s.mul(hyperbolic_tangent(s, s.div(score, cap)), cap);
        }
        s.store(score, vector);
    }
    block[..seen.start].fill(f32::NEG_INFINITY);
    block[seen.end..].fill(f32::NEG_INFINITY);
    let (vectors, _) = block.as_chunks_mut::<LANES>();
    let mut peak = s.splat(*running.peak);
    for vector in vectors.iter() {
        peak = s.max(s.load(vector), peak);
    }
    let new_peak = s.greatest(peak);
    let peak = s.splat(new_peak);
    let mut sums = [s.splat(0.0); VECTORS];
    for (vector, sum) in vectors.iter_mut().zip(&mut sums) {
        *sum = exponential(s, s.sub(s.load(vector), peak));
        s.store(*sum, vector);
    }
    let faded = exponential(s, s.sub(s.splat(*running.peak), peak));
    let mut sum = s.mul(s.load(running.sum), faded);
    for more in sums {
        sum = s.add(sum, more);
    }
    s.store(sum, running.sum);
    *running.peak = new_peak;
    s.lanes(faded)[0]
}
