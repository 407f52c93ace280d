//! What one tenant has under way, asked in the last minute and spent: the counters behind its limits.
//! Nothing is taken of any unless all of them allow it. Knows no database.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::budget::Spending;
use super::limits::{Counted, Minute, Quantity};
use super::{Charge, Estimate, LimitError, Period, Tenant};
use crate::calendar::Day;
use crate::money::Money;

pub(crate) struct Account {
    counters: Mutex<Counters>,
}

struct Counters {
    minute: Minute,
    in_flight: u32,
    spending: Spending,
}

/// What a request has of its tenant's account until it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    day: Day,
    cost: Money,
    counted: Counted,
}

/// The counters at one moment, to be shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
    pub(crate) in_flight: u32,
}

impl Account {
    pub(crate) fn new() -> Account {
        let minute = Minute::new(Instant::now());
        let counters = Counters { minute, in_flight: 0, spending: Spending::default() };
        Account { counters: Mutex::new(counters) }
    }

    /// Takes what a request may need, or nothing. The lock is what 200 concurrent clients of one
    /// tenant meet at: of a budget each sees what all before it have reserved.
    pub(crate) fn reserve(
        &self,
        tenant: &Tenant,
        estimate: Estimate,
        day: Day,
    ) -> Result<Held, LimitError> {
        let now = Instant::now();
        let mut counters = self.counters();
        counters.check(tenant, estimate, day, now)?;
        Ok(counters.take(estimate, day, now))
    }

    /// Takes it without asking: somebody else has allowed it.
    pub(crate) fn take(&self, estimate: Estimate, day: Day) -> Held {
        self.counters().take(estimate, day, Instant::now())
    }

    pub(crate) fn settle(&self, held: Held, charge: Charge) {
        let mut counters = self.counters();
        counters.end(held);
        counters.minute.correct(held.counted, charge.tokens);
        counters.spending.spend(charge.cost, held.day);
    }

    pub(crate) fn give_back(&self, held: Held) {
        let mut counters = self.counters();
        counters.end(held);
        counters.minute.forget(held.counted);
    }

    pub(crate) fn set_spent(&self, amount: Money, day: Day) {
        self.counters().spending.set_spent(amount, day);
    }

    pub(crate) fn standing(&self) -> Standing {
        let counters = self.counters();
        let (requests, tokens) = counters.minute.sums(Instant::now());
        Standing { requests, tokens, in_flight: counters.in_flight }
    }

    /// Spent and reserved.
    pub(crate) fn spending(&self, period: Period, day: Day) -> (Money, Money) {
        let counters = self.counters();
        (counters.spending.spent(period, day), counters.spending.held(period, day))
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn check(
        &self,
        tenant: &Tenant,
        estimate: Estimate,
        day: Day,
        now: Instant,
    ) -> Result<(), LimitError> {
        let limits = &tenant.limits;
        if let Some(limit) = limits.concurrency
            && self.in_flight >= limit
        {
            return Err(LimitError::Concurrency { limit });
        }
        if limits.requests_per_minute.is_some() || limits.tokens_per_minute.is_some() {
            let (requests, tokens) = self.minute.sums(now);
            if let Some(limit) = limits.requests_per_minute
                && requests >= limit
            {
                let retry_after = self.minute.wait(Quantity::Requests, limit, 1, now);
                return Err(LimitError::Requests { limit, retry_after });
            }
            let asked = estimate.tokens;
            if let Some(limit) = limits.tokens_per_minute
                && tokens.saturating_add(asked) > limit
            {
                let retry_after = self.minute.wait(Quantity::Tokens, limit, asked, now);
                return Err(LimitError::Tokens { limit, asked, retry_after });
            }
        }
        self.spending.check(&tenant.budgets, estimate.cost, day)
    }

    fn take(&mut self, estimate: Estimate, day: Day, now: Instant) -> Held {
        let counted = self.minute.count(estimate.tokens, now);
        self.in_flight += 1;
        self.spending.hold(estimate.cost, day);
        Held { day, cost: estimate.cost, counted }
    }

    fn end(&mut self, held: Held) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.spending.release(held.cost, held.day);
    }
}
