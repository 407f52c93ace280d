//! What a tenant has spent and what is reserved, day by day, and whether one more request fits.
//!
//! Which day a request belongs to is what the system's clock said when it was reserved, and the
//! reservation remembers it: a request that runs over midnight is paid from the day it began on. No
//! day is ever forgotten while the process lives, so a clock that jumps ahead spends from the days
//! (and months) it jumps to, and finds what was spent before when it comes back: a jump gives nobody
//! a budget twice.

use std::collections::BTreeMap;

use super::{Budget, LimitError, Period};
use crate::calendar::Day;
use crate::money::Money;

#[derive(Default)]
pub(crate) struct Spending {
    /// By records, or by requests that were settled.
    spent: BTreeMap<Day, Money>,
    /// Reserved by requests under way.
    held: BTreeMap<Day, Money>,
}

impl Spending {
    /// Whether `asked` fits into every budget on that day.
    pub(crate) fn check(
        &self,
        budgets: &[Budget],
        asked: Money,
        day: Day,
    ) -> Result<(), LimitError> {
        for &Budget { amount, period } in budgets {
            let left = amount - self.used(period, day);
            // A request that costs nothing is refused too once nothing is left.
            if asked > left || left <= Money::ZERO {
                return Err(LimitError::Budget { amount, period, left, asked });
            }
        }
        Ok(())
    }

    pub(crate) fn hold(&mut self, amount: Money, day: Day) {
        *self.held.entry(day).or_default() += amount;
    }

    pub(crate) fn release(&mut self, amount: Money, day: Day) {
        if let Some(held) = self.held.get_mut(&day) {
            *held = *held - amount;
            if *held <= Money::ZERO {
                self.held.remove(&day);
            }
        }
    }

    pub(crate) fn spend(&mut self, amount: Money, day: Day) {
        if amount != Money::ZERO {
            *self.spent.entry(day).or_default() += amount;
        }
    }

    /// What the database says of a day, in place of what was known.
    pub(crate) fn set_spent(&mut self, amount: Money, day: Day) {
        self.spent.insert(day, amount);
    }

    pub(crate) fn spent(&self, period: Period, day: Day) -> Money {
        sum(&self.spent, period, day)
    }

    pub(crate) fn held(&self, period: Period, day: Day) -> Money {
        sum(&self.held, period, day)
    }

    fn used(&self, period: Period, day: Day) -> Money {
        self.spent(period, day) + self.held(period, day)
    }
}

fn sum(amounts: &BTreeMap<Day, Money>, period: Period, day: Day) -> Money {
    match period {
        Period::Day => amounts.get(&day).copied().unwrap_or_default(),
        Period::Month => {
            amounts.range(day.month_start()..day.next_month()).map(|(_, amount)| *amount).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    #[test]
    fn days_and_months_are_counted_apart() {
        let budgets = [
            Budget { amount: Money(100), period: Period::Day },
            Budget { amount: Money(150), period: Period::Month },
        ];
        let mut spending = Spending::default();
        spending.spend(Money(60), day("2026-01-30"));
        spending.hold(Money(40), day("2026-01-30"));
        let refused = spending.check(&budgets, Money(1), day("2026-01-30"));
        assert!(matches!(refused, Err(LimitError::Budget { period: Period::Day, .. })));
        assert_eq!(spending.check(&budgets, Money(50), day("2026-01-31")), Ok(()));
        let refused = spending.check(&budgets, Money(51), day("2026-01-31"));
        let left = Money(50);
        assert!(
            matches!(refused, Err(LimitError::Budget { period: Period::Month, left: l, .. }) if l == left)
        );
        assert_eq!(spending.check(&budgets, Money(100), day("2026-02-01")), Ok(()));
        spending.release(Money(40), day("2026-01-30"));
        assert_eq!(spending.check(&budgets, Money(40), day("2026-01-30")), Ok(()));
    }

    #[test]
    fn a_clock_that_jumps_gives_no_budget_twice() {
        let budgets = [Budget { amount: Money(10), period: Period::Month }];
        let mut spending = Spending::default();
        spending.spend(Money(10), day("2026-01-31"));
        // A year ahead, and back.
        assert_eq!(spending.check(&budgets, Money(10), day("2027-01-31")), Ok(()));
        spending.spend(Money(10), day("2027-01-31"));
        assert!(spending.check(&budgets, Money(1), day("2026-01-31")).is_err());
        assert!(spending.check(&budgets, Money(1), day("2027-01-01")).is_err());
    }

    #[test]
    fn an_empty_budget_stops_free_requests_too() {
        let budgets = [Budget { amount: Money::ZERO, period: Period::Day }];
        assert!(Spending::default().check(&budgets, Money::ZERO, Day(0)).is_err());
    }
}
