//! Which row is drawn when: a function of the draw's number alone, so that any step can be resumed
//! without replaying the ones before it, and every host finds its rows for itself.

/// Length of the pattern in which sources take turns: their shares are exact to one part in so many.
const PATTERN_LENGTH: usize = 1 << 16;
/// Feistel rounds. Four make a permutation that is hard to tell from a random one; more cost little.
const ROUNDS: u64 = 6;

/// A permutation of `0..count` that needs no memory: a Feistel network over the next even number of
/// bits, applied again while the result is not below `count` (cycle walking; fewer than four times
/// on average).
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    count: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// Another one for every `key`, in practice.
    pub(super) fn new(count: u64, key: u64) -> Permutation {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Permutation { count, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Where `index`, which is below the count, goes.
    pub(super) fn apply(&self, index: u64) -> u64 {
        let mut value = index;
        loop {
            value = self.rounds(value);
            if value < self.count {
                return value;
            }
        }
    }

    fn rounds(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let noise = mix(right ^ mix(self.key.wrapping_add(round))) & mask;
            (left, right) = (right, left ^ noise);
        }
        left << self.half_bits | right
    }
}

/// A key out of several numbers.
pub(super) fn key(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0x5EED, |key, number| mix(key ^ mix(*number)))
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

/// How sources take turns, in proportion to their weights and as evenly as can be.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// The source of each draw of the pattern, and how many draws of the pattern it had before.
    pattern: Vec<(usize, u64)>,
    /// Draws of each source in the whole pattern.
    counts: Vec<u64>,
}

impl Turns {
    /// `weights` are positive; there is at least one.
    pub(super) fn new(weights: &[f64]) -> Turns {
        let counts = shares(weights, if weights.len() == 1 { 1 } else { PATTERN_LENGTH });
        let length: u64 = counts.iter().sum();
        let mut given = vec![0; counts.len()];
        let mut pattern = Vec::with_capacity(length as usize);
        for draw in 1..=length {
            // The one that is furthest behind its share; the first of several.
            let behind = |source: &usize| {
                let due = u128::from(counts[*source]) * u128::from(draw);
                let had = u128::from(given[*source]) * u128::from(length);
                (due as i128 - had as i128, std::cmp::Reverse(*source))
            };
            let source = (0..counts.len()).max_by_key(behind).unwrap_or(0);
            pattern.push((source, given[source]));
            given[source] += 1;
        }
        Turns { pattern, counts }
    }

    /// The source of a draw, and how many draws it had before.
    pub(super) fn at(&self, draw: u64) -> (usize, u64) {
        let length = self.pattern.len() as u64;
        let (source, before) = self.pattern[(draw % length) as usize];
        (source, draw / length * self.counts[source] + before)
    }
}

/// `length` draws by largest remainder, at least one for each source.
fn shares(weights: &[f64], length: usize) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let spare = length.saturating_sub(weights.len()) as f64;
    let exact: Vec<f64> = weights.iter().map(|weight| weight / total * spare).collect();
    let mut counts: Vec<u64> = exact.iter().map(|share| 1 + *share as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|left, right| exact[*right].fract().total_cmp(&exact[*left].fract()));
    let missing = (length as u64).saturating_sub(counts.iter().sum());
    for source in order.into_iter().cycle().take(missing as usize) {
        counts[source] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_permutation_reaches_every_row_once(count in 1_u64..3000, key: u64) {
            let permutation = Permutation::new(count, key);
            let mut reached = vec![false; count as usize];
            for index in 0..count {
                let to = permutation.apply(index) as usize;
                prop_assert!(!std::mem::replace(&mut reached[to], true));
            }
        }

        #[test]
        fn sources_get_their_shares_at_any_time(
            weights in prop::collection::vec(0.01..10.0_f64, 1..6),
            draws in 1_u64..200_000,
        ) {
            let turns = Turns::new(&weights);
            let total: f64 = weights.iter().sum();
            for (source, weight) in weights.iter().enumerate() {
                // Draws that fell to this source, by the last one of them.
                let last = (0..draws).rev().map(|draw| turns.at(draw)).find(|at| at.0 == source);
                let had = last.map_or(0, |(_, before)| before + 1) as f64;
                let due = weight / total * draws as f64;
                let slack = 4.0 + draws as f64 * 1e-4;
                prop_assert!((had - due).abs() < slack, "{had} {due}");
            }
        }
    }

    #[test]
    fn draws_of_a_source_are_counted_without_gaps() {
        let turns = Turns::new(&[0.5, 2.0, 1.0]);
        let mut counts = [0; 3];
        for draw in 0..3 * PATTERN_LENGTH as u64 {
            let (source, before) = turns.at(draw);
            assert_eq!(before, counts[source]);
            counts[source] += 1;
        }
    }

    /// Not a statistical proof, but neighbours, keys and epochs must not look alike.
    #[test]
    fn permutations_are_well_mixed() {
        let count = 1000;
        let orders: Vec<Vec<u64>> = (0..20)
            .map(|epoch| {
                let permutation = Permutation::new(count, key(&[7, epoch, 0]));
                (0..count).map(|index| permutation.apply(index)).collect()
            })
            .collect();
        for (index, order) in orders.iter().enumerate() {
            let neighbours = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
            assert!(neighbours < 15, "{neighbours} neighbours stayed together");
            let fixed = (0..count).filter(|at| order[*at as usize] == *at).count();
            assert!(fixed < 12, "{fixed} rows stayed in place");
            let first_half = order[..500].iter().filter(|row| **row < 500).count();
            assert!((180..=320).contains(&first_half), "{first_half}");
            for other in &orders[..index] {
                let same = order.iter().zip(other).filter(|(left, right)| left == right).count();
                assert!(same < 15, "{same} rows alike in two epochs");
            }
        }
    }
}
