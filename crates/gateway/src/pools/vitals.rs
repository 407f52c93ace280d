//! What is known of one backend by how it behaves: requests under way, health, breaker, times. One
//! lock, held for a few instructions, so that looking and taking a slot cannot disagree.
//!
//! Outlives a change of the config: a backend that stays keeps it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::breaker::{Breaker, Permit};
use super::health::{Condition, Finding, Health};
use super::latency::Latency;
use super::lease::{Fault, Served};
use crate::config::{BackendConfig, BreakerConfig, Continues, HealthConfig};

/// How long a backend is left alone that says 429 and not for how long; doubles while it goes on.
const PAUSE: Duration = Duration::from_secs(1);
/// No backend is believed that it needs longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Vitals {
    /// Of this process, never used twice.
    pub(crate) id: u64,
    inner: Mutex<Inner>,
    ill: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    in_flight: u32,
    /// The config does not name it any more.
    is_removed: bool,
    /// An operator wants it left alone.
    is_drained: bool,
    health: Health,
    breaker: Breaker,
    paused_until: Option<Instant>,
    /// Times in a row that it said 429.
    refusals: u32,
    latency: Latency,
    continues: Option<Continues>,
    /// The last failure, for the page.
    fault: String,
}

/// Whether a request may go to a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Look {
    Free(Reading),
    /// As many requests are there as may be.
    Full,
    /// Not before this time.
    Later(Instant),
    /// Ill, draining, removed, or a trial is under way.
    Away,
}

/// What a choice among backends goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) in_flight: u32,
    pub(crate) concurrency: u32,
    /// Seconds to the first token, and per further one, as peaks; nothing if unmeasured.
    pub(crate) ttft: Option<f64>,
    pub(crate) tpot: Option<f64>,
}

/// What objectives are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Means {
    /// Seconds, as averages.
    pub(crate) ttft: Option<f64>,
    pub(crate) tpot: Option<f64>,
    /// When the last of these times came.
    pub(crate) newest: Option<Instant>,
}

/// For the page and metrics.
pub(crate) struct Portrait {
    pub(crate) state: &'static str,
    pub(crate) why: String,
    pub(crate) in_flight: u32,
    pub(crate) ttft_p50: Option<Duration>,
    pub(crate) ttft_p99: Option<Duration>,
    pub(crate) tpot_p50: Option<Duration>,
    pub(crate) failure_share: Option<f64>,
}

impl Default for Vitals {
    fn default() -> Vitals {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Vitals { id, inner: Mutex::default(), ill: watch::Sender::new(false) }
    }
}

impl Inner {
    fn look(&self, limit: u32, now: Instant) -> Look {
        if self.is_removed || self.is_drained || !self.health.takes_requests() {
            return Look::Away;
        }
        if let Some(until) = self.paused_until.filter(|&until| now < until) {
            return Look::Later(until);
        }
        match self.breaker.look(now) {
            Permit::Not(None) => Look::Away,
            Permit::Not(Some(until)) => Look::Later(until),
            Permit::Go | Permit::Trial if self.in_flight >= limit => Look::Full,
            Permit::Go | Permit::Trial => Look::Free(Reading {
                in_flight: self.in_flight,
                concurrency: limit,
                ttft: self.latency.ttft.peak.peak(now),
                tpot: self.latency.tpot.peak.peak(now),
            }),
        }
    }

    fn is_well(&self, now: Instant) -> bool {
        self.health.takes_requests()
            && !self.is_removed
            && matches!(self.breaker.look(now), Permit::Go | Permit::Trial)
    }
}

impl Vitals {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn look(&self, config: &BackendConfig, now: Instant) -> Look {
        self.lock().look(config.concurrency, now)
    }

    /// A slot, and whether its request is a trial; it must be given back.
    pub(crate) fn take(&self, config: &BackendConfig, now: Instant) -> Option<bool> {
        let mut inner = self.lock();
        let Look::Free(_) = inner.look(config.concurrency, now) else { return None };
        let permit = inner.breaker.take(now);
        inner.in_flight += 1;
        Some(permit == Permit::Trial)
    }

    /// Gives a slot back. A trial whose outcome was not told counts as cancelled.
    pub(crate) fn release(&self, is_untold_trial: bool, now: Instant) {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        if is_untold_trial {
            inner.breaker.cancelled(now);
        }
    }

    pub(crate) fn first_token(&self, time: Duration, now: Instant) {
        self.lock().latency.ttft.observe(time, now);
    }

    /// `first` is the time to the first token of a stream, `whole` of the request.
    pub(crate) fn succeeded(
        &self,
        is_trial: bool,
        served: &Served,
        first: Option<Duration>,
        whole: Duration,
        config: &BreakerConfig,
        now: Instant,
    ) {
        let tokens = u32::try_from(served.completion_tokens).unwrap_or(u32::MAX);
        let mut inner = self.lock();
        inner.breaker.succeeded(is_trial, config);
        inner.refusals = 0;
        self.tell(&inner);
        match (first, served.generation) {
            (Some(_), Some(generation)) if tokens > 1 => {
                inner.latency.tpot.observe(generation / (tokens - 1), now);
            }
            (Some(_), _) => {}
            // Not streamed: the prompt's time cannot be told from the answer's. That makes it look a
            // little slow per token, never too fast.
            (None, _) if tokens > 0 => inner.latency.tpot.observe(whole / tokens, now),
            // Embeddings: all of it is the time to what was asked for.
            (None, _) => inner.latency.ttft.observe(whole, now),
        }
    }

    /// `since_send` is how long it was waited for. Returns whether its breaker opened.
    pub(crate) fn failed(
        &self,
        is_trial: bool,
        fault: &Fault,
        since_send: Duration,
        config: &BreakerConfig,
        now: Instant,
    ) -> bool {
        let mut inner = self.lock();
        match fault {
            Fault::RateLimited(pause) => {
                let usual = PAUSE * 2u32.saturating_pow(inner.refusals.min(6));
                let pause = pause.unwrap_or(usual).min(PAUSE_MAX);
                inner.refusals = inner.refusals.saturating_add(1);
                let until = now + pause.mul_f64(1.0 + fastrand::f64() / 10.0);
                inner.paused_until = inner.paused_until.max(Some(until));
                // Who answers so is alive.
                inner.breaker.succeeded(is_trial, config);
                self.tell(&inner);
                false
            }
            fault if !fault.blames_backend() => {
                inner.breaker.succeeded(is_trial, config);
                false
            }
            fault => {
                inner.fault = fault.to_string();
                if *fault == Fault::Timeout {
                    // At least so long: a slow backend that is given up on must not look fast.
                    inner.latency.ttft.peak.observe_peak(since_send, now);
                    inner.latency.ttft.mean.observe(since_send, now);
                }
                inner.breaker.failed(is_trial, config, fastrand::f64(), now)
            }
        }
    }

    /// Returns whether it takes requests now and did not before, or the other way round.
    pub(crate) fn found(&self, finding: Finding, config: &HealthConfig) -> bool {
        let mut inner = self.lock();
        let changed = inner.health.found(finding, config);
        self.tell(&inner);
        changed
    }

    /// Tells those who wait for it to become ill.
    fn tell(&self, inner: &Inner) {
        let is_ill = matches!(inner.health.condition(), Condition::Ill(_));
        self.ill.send_if_modified(|ill| std::mem::replace(ill, is_ill) != is_ill);
    }

    /// Resolves when it is found ill.
    pub(crate) async fn until_ill(&self) {
        // The sender lives as long as this does.
        let _ = self.ill.subscribe().wait_for(|is_ill| *is_ill).await;
    }

    /// Returns whether that changed anything.
    pub(crate) fn drain(&self, is_drained: bool) -> bool {
        std::mem::replace(&mut self.lock().is_drained, is_drained) != is_drained
    }

    pub(crate) fn is_well(&self, now: Instant) -> bool {
        self.lock().is_well(now)
    }

    pub(crate) fn means(&self, now: Instant) -> Means {
        let inner = self.lock();
        let (ttft, tpot) = (&inner.latency.ttft.mean, &inner.latency.tpot.mean);
        Means { ttft: ttft.mean(now), tpot: tpot.mean(now), newest: ttft.last().max(tpot.last()) }
    }

    pub(crate) fn condition(&self) -> Condition {
        self.lock().health.condition().clone()
    }

    pub(crate) fn remove(&self) {
        self.lock().is_removed = true;
    }

    pub(crate) fn continues(&self) -> Option<Continues> {
        self.lock().continues
    }

    pub(crate) fn set_continues(&self, continues: Continues) {
        self.lock().continues = Some(continues);
    }

    pub(crate) fn portrait(&self, now: Instant) -> Portrait {
        let mut inner = self.lock();
        let (state, why) = inner.state(now);
        let ttfts = inner.latency.ttft.lately.all(now);
        Portrait {
            state,
            why,
            in_flight: inner.in_flight,
            ttft_p50: ttfts.quantile(0.5),
            ttft_p99: ttfts.quantile(0.99),
            tpot_p50: inner.latency.tpot.lately.all(now).quantile(0.5),
            failure_share: inner.breaker.failure_share(),
        }
    }
}

impl Inner {
    fn state(&self, now: Instant) -> (&'static str, String) {
        let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
        match self.health.condition() {
            _ if self.is_drained => {
                let left = self.in_flight;
                return ("draining", format!("drained by an operator; {left} requests are left"));
            }
            _ if self.is_removed => {
                return ("draining", "the config does not name it any more".to_owned());
            }
            Condition::Ill(why) => return ("ill", why.clone()),
            Condition::Draining => {
                return ("draining", "it answers 503: it takes no new requests".to_owned());
            }
            Condition::Unknown | Condition::Well => {}
        }
        match self.breaker.look(now) {
            Permit::Not(Some(until)) => {
                let why = format!("{}; tried again in {:.0} s", self.fault, left(until).ceil());
                return ("open", why);
            }
            Permit::Not(None) => return ("half-open", format!("{}; one trial", self.fault)),
            Permit::Trial => return ("half-open", format!("{}; a trial is due", self.fault)),
            Permit::Go => {}
        }
        match self.paused_until.filter(|&until| now < until) {
            Some(until) => {
                ("open", format!("it said 429; left alone for {:.0} s", left(until).ceil()))
            }
            None if *self.health.condition() == Condition::Unknown => {
                ("well", "not probed yet".to_owned())
            }
            None => ("well", String::new()),
        }
    }
}
