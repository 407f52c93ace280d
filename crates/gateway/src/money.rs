//! Amounts of money, exact to a billionth of a US dollar: a token costs some hundred of those.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// So many billionths of a US dollar, and so it is kept: as an integer. Sums stop at the ends of the
/// range instead of wrapping.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Money(pub i64);

const PER_DOLLAR: f64 = 1e9;

impl Money {
    pub const ZERO: Money = Money(0);
    pub const MAX: Money = Money(i64::MAX);

    /// The nearest amount; what is not finite counts as nothing.
    pub fn from_dollars(dollars: f64) -> Money {
        // A cast from float stops at the ends of the range, and makes 0 of what is no number.
        Money((dollars * PER_DOLLAR).round() as i64)
    }

    pub fn dollars(self) -> f64 {
        self.0 as f64 / PER_DOLLAR
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Money;
    fn sub(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

/// With as many digits as it takes to see it: `$12.34`, `$0.000260`.
impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dollars = self.dollars();
        let sign = if self.0 < 0 { "-" } else { "" };
        let digits = match dollars.abs() {
            0.0 | 1.0.. => 2,
            0.01..1.0 => 4,
            _ => 9,
        };
        write!(formatter, "{sign}${:.digits$}", dollars.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_do_not_wrap() {
        assert_eq!(Money::from_dollars(0.1) + Money::from_dollars(0.2), Money(300_000_000));
        assert_eq!(Money::MAX + Money(1), Money::MAX);
        assert_eq!(Money::from_dollars(f64::NAN), Money::ZERO);
        assert_eq!(Money::from_dollars(12.345).to_string(), "$12.35");
        assert_eq!(Money(260).to_string(), "$0.000000260");
        assert_eq!((Money::ZERO - Money(50_000_000)).to_string(), "-$0.0500");
    }
}
