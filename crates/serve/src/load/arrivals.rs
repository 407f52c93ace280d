//! When requests come in an open loop, and the random numbers behind all of a measurement.

/// Random numbers that a seed decides. SplitMix64 (Steele, Lea and Flood, 2014): what is drawn here
/// need be even and repeatable, not secret.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// `stream` keeps apart what is drawn for different ends from one seed.
    pub(super) fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but without, `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        // The upper half of a product of 128 bits: even enough for any list in memory.
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// A number above 0 and at most 1.
    fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// Seconds from the beginning at which requests of a Poisson process come: the times between them
/// are exponential with the mean 1 / rate.
#[derive(Debug)]
pub(super) struct Arrivals {
    random: Random,
    rate: f64,
    seconds: f64,
}

impl Arrivals {
    /// `rate` is in requests per second, and above 0.
    pub(super) fn new(rate: f64, seed: u64) -> Arrivals {
        Arrivals { random: Random::new(seed, 1), rate, seconds: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.seconds += -self.random.share().ln() / self.rate;
        Some(self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        let times: Vec<f64> = Arrivals::new(4.0, 7).take(20_000).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
        // An exponential distribution's deviation is its mean.
        assert!((variance.sqrt() - 0.25).abs() < 0.01, "{variance}");
        let longer = gaps.iter().filter(|gap| **gap > 0.25).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1f64).exp()).abs() < 0.02, "{longer}");
    }

    #[test]
    fn a_seed_decides() {
        let times = |seed| Arrivals::new(1.0, seed).take(3).collect::<Vec<_>>();
        assert_eq!(times(3), times(3));
        assert_ne!(times(3), times(4));
    }

    #[test]
    fn draws_are_even() {
        let (mut random, mut counts) = (Random::new(0, 2), [0usize; 7]);
        for _ in 0..70_000 {
            counts[random.below(7)] += 1;
        }
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 500), "{counts:?}");
    }
}
