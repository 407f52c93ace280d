//! What the traffic of one model has shown: how long answers take, how long they are. Kept when the
//! config changes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cheapest::Steering;
use super::weighted::SmoothWeights;
use crate::pools::latency::Quantiles;
use crate::pools::lease::Served;

/// A new request changes the mean by so much.
const MEAN_WEIGHT: f64 = 0.01;
/// Of fewer times no quantile is told.
const TIMES_MIN: u64 = 20;

#[derive(Default)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    weights: SmoothWeights,
    steering: Steering,
    /// Of answers that came whole.
    whole: Quantiles,
    mix: Mix,
}

/// Tokens of a usual request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mix {
    pub(crate) prompt: f64,
    pub(crate) cached: f64,
    pub(crate) completion: f64,
}

impl Default for Mix {
    /// Until something is known: a page in, a paragraph out.
    fn default() -> Mix {
        Mix { prompt: 800.0, cached: 0.0, completion: 200.0 }
    }
}

impl Memory {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn next_by_weight(&self, weights: &[f64]) -> Option<usize> {
        self.with(|inner| inner.weights.next(weights))
    }

    pub(crate) fn steer<T>(&self, act: impl FnOnce(&mut Steering) -> T) -> T {
        self.with(|inner| act(&mut inner.steering))
    }

    pub(crate) fn mix(&self) -> Mix {
        self.with(|inner| inner.mix)
    }

    /// The time in which a share of `quantile` of whole answers came lately.
    pub(crate) fn usual_time(&self, quantile: f64, now: Instant) -> Option<Duration> {
        self.with(|inner| {
            let times = inner.whole.all(now);
            if times.count() >= TIMES_MIN { times.quantile(quantile) } else { None }
        })
    }

    pub(crate) fn served(&self, served: &Served, is_streamed: bool, whole: Duration, now: Instant) {
        self.with(|inner| {
            if !is_streamed {
                inner.whole.observe(whole, now);
            }
            let mean = |mean: &mut f64, value: u64| *mean += (value as f64 - *mean) * MEAN_WEIGHT;
            mean(&mut inner.mix.prompt, served.prompt_tokens);
            mean(&mut inner.mix.cached, served.cached_tokens);
            mean(&mut inner.mix.completion, served.completion_tokens);
        });
    }
}
