//! Shares of traffic, exact over time: of ten requests by 7:3 seven and three go each way, spread
//! out, whatever is random elsewhere.
//!
//! Knows weights, not what they are of.

use std::sync::atomic::{AtomicU64, Ordering};

/// Smooth weighted round robin: each gains its weight, the richest is taken and pays the sum. The
/// same rule as in nginx's upstreams.
#[derive(Clone, Debug, Default)]
pub(crate) struct SmoothWeights {
    credit: Vec<f64>,
}

impl SmoothWeights {
    /// One of those whose weight is above zero; nothing if there is none.
    pub(crate) fn next(&mut self, weights: &[f64]) -> Option<usize> {
        self.credit.resize(weights.len(), 0.0);
        let mut sum = 0.0;
        let mut best: Option<usize> = None;
        for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            sum += weight;
            self.credit[index] += weight;
            if best.is_none_or(|best| self.credit[index] > self.credit[best]) {
                best = Some(index);
            }
        }
        self.credit[best?] -= sum;
        best
    }
}

/// Says yes to a share of questions.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// In units of 2^-64; a yes is an overflow.
    sum: AtomicU64,
}

impl Share {
    pub(crate) fn hit(&self, share: f64) -> bool {
        if share >= 1.0 {
            return true;
        }
        // The cast stops at the ends of the range; no number counts as zero.
        let step = (share * 2f64.powi(64)) as u64;
        self.sum.fetch_add(step, Ordering::Relaxed).overflowing_add(step).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exact_and_spread_out() {
        let mut smooth = SmoothWeights::default();
        let taken: Vec<usize> = (0..10).filter_map(|_| smooth.next(&[7.0, 0.0, 3.0])).collect();
        assert_eq!(taken.iter().filter(|&&index| index == 0).count(), 7);
        assert_eq!(taken.iter().filter(|&&index| index == 2).count(), 3);
        assert!(!taken.windows(2).any(|pair| pair == [2, 2]), "{taken:?}");
        assert_eq!(smooth.next(&[0.0, 0.0]), None);
    }

    #[test]
    fn shares_are_exact() {
        for (share_of, expected) in [(0.05, 50), (0.5, 500), (1.0, 1000), (0.0, 0), (f64::NAN, 0)] {
            let share = Share::default();
            let hits = (0..1000).filter(|_| share.hit(share_of)).count() as i64;
            assert!((hits - expected).abs() <= 1, "{share_of}: {hits}");
        }
    }
}
