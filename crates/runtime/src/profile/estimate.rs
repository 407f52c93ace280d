//! A time with the range that it may be wrong in. Knows not where times come from.

use std::ops::{Add, AddAssign, Mul};

/// Seconds: what is likely, and the shortest and longest that would not surprise. Sums add ends to
/// ends, as if everything were wrong in the same direction, since errors of one model are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub low: f64,
    pub likely: f64,
    pub high: f64,
}

impl Estimate {
    pub fn each(&self, other: &Estimate, with: impl Fn(f64, f64) -> f64) -> Estimate {
        Estimate {
            low: with(self.low, other.low),
            likely: with(self.likely, other.likely),
            high: with(self.high, other.high),
        }
    }

    /// The longer of two, at each end.
    pub fn max(&self, other: &Estimate) -> Estimate {
        self.each(other, f64::max)
    }
}

impl Add for Estimate {
    type Output = Estimate;

    fn add(self, other: Estimate) -> Estimate {
        self.each(&other, |a, b| a + b)
    }
}

impl AddAssign for Estimate {
    fn add_assign(&mut self, other: Estimate) {
        *self = *self + other;
    }
}

impl Mul<f64> for Estimate {
    type Output = Estimate;

    fn mul(self, times: f64) -> Estimate {
        Estimate { low: self.low * times, likely: self.likely * times, high: self.high * times }
    }
}
