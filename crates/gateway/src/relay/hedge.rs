//! A second backend for whole answers that take unusually long: the first good answer wins, and the
//! other request is cancelled.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant, sleep};

use super::attempt::{Failed, Set};
use super::errand::Errand;
use super::whole::{Answer, attempt};
use crate::pools::Lease;

/// Second requests that may be made at once after a quiet time.
const SAVED_MAX: f64 = 10.0;

/// Keeps second requests to a share of all.
#[derive(Debug)]
pub(crate) struct HedgeBudget {
    credit: Mutex<f64>,
}

impl HedgeBudget {
    pub fn new() -> HedgeBudget {
        HedgeBudget { credit: Mutex::new(1.0) }
    }

    /// A request came that may make `share_max` of a second one.
    fn request(&self, share_max: f64) {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        *credit = (*credit + share_max).min(SAVED_MAX);
    }

    fn take(&self) -> bool {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = *credit >= 1.0;
        if fits {
            *credit -= 1.0;
        }
        fits
    }
}

/// Asks the backend of `lease`, and another one if that takes longer than usual.
pub(super) async fn ask(errand: &mut Errand, lease: Lease) -> (Lease, Result<Answer, Failed>) {
    let silence = errand.model().silence;
    // Of a pool on trial the slowest answers are to be known, too.
    let delay = if lease.is_on_trial() { None } else { delay(errand) };
    let Some(delay) = delay else {
        let result = attempt(&errand.ask, &lease, &Set::new(), silence, errand.deadline).await;
        return (lease, result);
    };
    // Both futures own what they need, so that the errand stays free.
    let shared = std::sync::Arc::clone(&errand.shared);
    let ask = std::sync::Arc::clone(&errand.ask);
    let deadline = errand.deadline;
    let run = async |lease: Lease| {
        let result = attempt(&ask, &lease, &Set::new(), silence, deadline).await;
        (lease, result)
    };
    let mut first = pin!(run(lease));
    tokio::select! {
        biased;
        done = first.as_mut() => return done,
        () = sleep(delay) => {}
    }
    let second = if shared.budgets.hedges.take() { errand.route.next() } else { None };
    let Some(second) = second else { return first.await };
    errand.began(&second);
    shared.metrics.hedges.fetch_add(1, Ordering::Relaxed);
    let mut second = pin!(run(second));
    let (done, other_is_second) = tokio::select! {
        done = first.as_mut() => (done, true),
        done = second.as_mut() => (done, false),
    };
    match done {
        (lease, Err(Failed::Elsewhere { fault, message })) => {
            errand.failed(lease, fault, &message);
            if other_is_second { second.await } else { first.await }
        }
        // The other one is cancelled by being dropped.
        done => done,
    }
}

/// How long an answer may take before it counts as unusual.
fn delay(errand: &Errand) -> Option<Duration> {
    let hedge = errand.model().hedge?;
    errand.shared.budgets.hedges.request(hedge.share_max);
    let delay = errand.route.usual_time(hedge.quantile)?;
    (Instant::now() + delay < errand.deadline).then_some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_requests_are_a_share_of_all() {
        let budget = HedgeBudget::new();
        let mut hedged = 0;
        for _ in 0..1_000 {
            budget.request(0.05);
            hedged += u32::from(budget.take());
        }
        assert!((49..=51).contains(&hedged), "{hedged}");
    }
}
