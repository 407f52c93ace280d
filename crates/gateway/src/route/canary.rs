//! A pool that gets a share of a model's requests, until it does worse than the others. Then it gets
//! none until somebody says so.
//!
//! Decides who goes there and when that ends; how a request gets there is the matter of `route.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::figures::{Comparison, Did, FiguresView, Side};
use super::verdict::{Bounds, broken, worse};
use super::weighted::Share;
use crate::config::Canary;

pub(crate) struct CanaryTrial {
    model: String,
    config: Canary,
    share: Share,
    /// Beside the lock, for those who only ask whether they may go there.
    is_rolled_back: AtomicBool,
    state: Mutex<State>,
}

struct State {
    comparison: Comparison,
    /// Since it was last begun.
    requests: u64,
    totals: Totals,
    /// Why it was rolled back, if it was.
    why: Option<String>,
}

/// Since the config has it.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    requests: u64,
    failures: u64,
}

/// What the page and the metrics show of a canary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CanaryView {
    pub model: String,
    pub pool: String,
    /// Of the model's requests.
    pub share: f64,
    /// `on trial` before it is judged, `as good`, or `rolled back`.
    pub verdict: &'static str,
    pub why: String,
    /// Its requests since it was last begun.
    pub requests: u64,
    /// Since the config has it, for counters.
    pub requests_total: u64,
    pub failures_total: u64,
    /// Of its last requests: so many as it is judged after, to twice that.
    #[serde(flatten)]
    pub figures: FiguresView,
}

impl CanaryTrial {
    pub(crate) fn new(model: &str, config: &Canary) -> CanaryTrial {
        let comparison = Comparison::new(u64::from(config.requests_min));
        CanaryTrial {
            model: model.to_owned(),
            config: config.clone(),
            share: Share::default(),
            is_rolled_back: AtomicBool::new(false),
            state: Mutex::new(State {
                comparison,
                requests: 0,
                totals: Totals::default(),
                why: None,
            }),
        }
    }

    pub(crate) fn config(&self) -> &Canary {
        &self.config
    }

    pub(crate) fn is_rolled_back(&self) -> bool {
        self.is_rolled_back.load(Ordering::Acquire)
    }

    /// Which side the next request is on; nothing after a rollback.
    pub(crate) fn next_side(&self) -> Option<Side> {
        if self.is_rolled_back() {
            return None;
        }
        Some(if self.share.hit(self.config.share) { Side::Candidate } else { Side::Usual })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first try of a request, there or elsewhere.
    pub(crate) fn note(&self, side: Side, did: &Did) {
        let mut state = self.lock();
        if side == Side::Candidate {
            state.totals.requests += 1;
            state.totals.failures += u64::from(*did == Did::Failed);
        }
        // The figures stay those that it was rolled back for.
        if state.why.is_some() {
            return;
        }
        state.comparison.note(side, did);
        if side == Side::Usual {
            return;
        }
        state.requests += 1;
        let lately = state.comparison.lately();
        let Canary { requests_min, failures_max, slower_max, .. } = self.config;
        let found = match lately.candidate.requests < u64::from(requests_min) {
            true => broken(lately),
            false => worse(lately, Bounds { failures_max, slower_max }),
        };
        if let Some(why) = found {
            self.is_rolled_back.store(true, Ordering::Release);
            let (model, pool, requests) = (&self.model, &self.config.pool, state.requests);
            tracing::warn!(
                target: "fungible::gateway",
                model, pool, requests, why, "a canary is rolled back: it gets no further requests"
            );
            state.why = Some(why);
        }
    }

    /// From the beginning, whatever was.
    pub(crate) fn try_again(&self) {
        let mut state = self.lock();
        state.comparison = Comparison::new(u64::from(self.config.requests_min));
        state.requests = 0;
        state.why = None;
        self.is_rolled_back.store(false, Ordering::Release);
        let (model, pool) = (&self.model, &self.config.pool);
        tracing::info!(target: "fungible::gateway", model, pool, "a canary is judged anew");
    }

    /// `is_well`: whether its pool has a backend that is.
    pub(crate) fn view(&self, is_well: bool) -> CanaryView {
        let state = self.lock();
        let lately = state.comparison.lately();
        let (so_far, needed) = (lately.candidate.requests, u64::from(self.config.requests_min));
        let (verdict, why) = match &state.why {
            Some(why) => ("rolled back", why.clone()),
            None if !is_well => ("on trial", "none of its servers is well".to_owned()),
            None if so_far < needed => {
                ("on trial", format!("judged after {needed} requests, {so_far} so far"))
            }
            None => ("as good", format!("by its last {so_far} requests")),
        };
        CanaryView {
            model: self.model.clone(),
            pool: self.config.pool.clone(),
            share: self.config.share,
            verdict,
            why,
            requests: state.requests,
            requests_total: state.totals.requests,
            failures_total: state.totals.failures,
            figures: FiguresView::of(lately),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::figures::Time;
    use super::*;

    const CONFIG: fn() -> Canary = || Canary {
        pool: "new".to_owned(),
        model: "chat".to_owned(),
        share: 0.25,
        requests_min: 100,
        failures_max: 0.01,
        slower_max: 1.5,
    };

    fn served(milliseconds: u64) -> Did {
        let per_token = Duration::from_millis(milliseconds);
        Did::Served { time: Time::Whole { per_token }, tokens: 1, cost: None }
    }

    /// Requests until it is rolled back, of at most 1,000.
    fn run(trial: &CanaryTrial, own: &Did, others: &Did) -> Option<usize> {
        (0..1_000).find(|_| {
            match trial.next_side() {
                Some(Side::Candidate) => trial.note(Side::Candidate, own),
                Some(Side::Usual) => trial.note(Side::Usual, others),
                None => return true,
            }
            false
        })
    }

    #[test]
    fn it_is_judged_after_its_requests_and_rolled_back_until_told() {
        let trial = CanaryTrial::new("chat", &CONFIG());
        assert_eq!(trial.view(true).verdict, "on trial");
        assert_eq!(run(&trial, &served(10), &served(10)), None);
        let view = trial.view(true);
        assert_eq!((view.verdict, view.requests), ("as good", 250));
        let after = run(&trial, &Did::Failed, &served(10));
        assert!(after.is_some_and(|after| after < 100), "{after:?}");
        let view = trial.view(true);
        assert_eq!(view.verdict, "rolled back");
        assert!(view.why.contains("of its requests failed, 0.0 % of the others'"), "{}", view.why);
        // An answer that was under way changes nothing.
        trial.note(Side::Candidate, &served(10));
        assert_eq!(trial.view(true).figures, view.figures);
        assert_eq!(trial.next_side(), None);
        trial.try_again();
        let again = trial.view(true);
        assert_eq!((again.verdict, again.requests), ("on trial", 0));
        assert_eq!(again.requests_total, view.requests_total + 1, "counters do not go back");
        assert_eq!(run(&trial, &served(40), &served(10)), Some(400), "after 100 of its requests");
        assert!(trial.view(true).why.contains("whole answers"), "{}", trial.view(true).why);
    }

    #[test]
    fn one_that_is_dead_is_not_asked_a_hundred_times() {
        let trial = CanaryTrial::new("chat", &CONFIG());
        assert!(run(&trial, &Did::Failed, &served(10)).is_some());
        let view = trial.view(true);
        assert_eq!(view.verdict, "rolled back");
        assert!((10..20).contains(&view.requests), "{}", view.requests);
        // If the others fail as much, it is something else.
        let trial = CanaryTrial::new("chat", &CONFIG());
        assert_eq!(run(&trial, &Did::Failed, &Did::Failed), None);
    }

    #[test]
    fn streams_are_not_compared_with_whole_answers() {
        let trial = CanaryTrial::new("chat", &CONFIG());
        let tpot = Some(Duration::from_millis(500));
        let time = Time::Stream { ttft: Duration::from_secs(5), tpot };
        let stream = Did::Served { time, tokens: 1, cost: None };
        assert_eq!(run(&trial, &stream, &served(1)), None);
        assert_eq!(trial.view(true).verdict, "as good");
        assert_eq!(trial.view(false).why, "none of its servers is well");
    }
}
