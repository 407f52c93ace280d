//! Whether a backend may be asked, by what became of the last requests there.
//!
//! Closed: asked as usual. When too many of the last requests failed it opens: not asked at all for
//! a time that doubles with every failed trial. Then it is half open: one request at a time may try,
//! and what becomes of it closes or opens it again. Knows outcomes and time, nothing of networks.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::config::BreakerConfig;

/// Of fewer outcomes no share is taken: two failures at the start say little.
const OUTCOMES_MIN: u32 = 5;
/// The time it stays open grows up to so many times the first one.
const LONGER_MAX: u32 = 16;

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Of requests while closed, the oldest first; true for a failure.
    outcomes: VecDeque<bool>,
    failures: u32,
    /// The factor on the time of the next opening.
    longer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed,
    Open { until: Instant },
    Trial,
}

/// What the breaker says to a request that wants to go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Permit {
    Go,
    /// It is the trial: what becomes of it must be told, or that it was cancelled.
    Trial,
    /// Not before this time; nothing while a trial is under way.
    Not(Option<Instant>),
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: State::Closed, outcomes: VecDeque::new(), failures: 0, longer: 1 }
    }
}

impl Breaker {
    /// What `take` would say now.
    pub(crate) fn look(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::Go,
            State::Open { until } if now < until => Permit::Not(Some(until)),
            State::Open { .. } => Permit::Trial,
            State::Trial => Permit::Not(None),
        }
    }

    pub(crate) fn take(&mut self, now: Instant) -> Permit {
        let permit = self.look(now);
        if permit == Permit::Trial {
            self.state = State::Trial;
        }
        permit
    }

    /// The trial ended without an outcome: another may try.
    pub(crate) fn cancelled(&mut self, now: Instant) {
        if self.state == State::Trial {
            self.state = State::Open { until: now };
        }
    }

    pub(crate) fn succeeded(&mut self, is_trial: bool, config: &BreakerConfig) {
        match (self.state, is_trial) {
            (State::Trial, true) => *self = Breaker::default(),
            (State::Closed, _) => self.count(false, config),
            // An old request that came back while it is open says nothing of now.
            _ => {}
        }
    }

    /// Returns whether it opened. `jitter` is from 0 to 1: gateways that opened together should not
    /// try together.
    pub(crate) fn failed(
        &mut self,
        is_trial: bool,
        config: &BreakerConfig,
        jitter: f64,
        now: Instant,
    ) -> bool {
        match (self.state, is_trial) {
            (State::Trial, true) => self.longer = (self.longer * 2).min(LONGER_MAX),
            (State::Closed, _) => {
                self.count(true, config);
                let counted = self.outcomes.len() as u32;
                let enough = counted >= OUTCOMES_MIN.min(config.window.max(1));
                if !enough || f64::from(self.failures) < config.failure_share * f64::from(counted) {
                    return false;
                }
            }
            _ => return false,
        }
        let open_for = config.open_for * self.longer;
        let until = now + open_for + open_for.mul_f64(jitter.clamp(0.0, 1.0) / 4.0);
        *self = Breaker { state: State::Open { until }, longer: self.longer, ..Breaker::default() };
        true
    }

    /// Of the last requests; nothing if there were none.
    pub(crate) fn failure_share(&self) -> Option<f64> {
        let counted = self.outcomes.len() as f64;
        (counted > 0.0).then(|| f64::from(self.failures) / counted)
    }

    fn count(&mut self, is_failure: bool, config: &BreakerConfig) {
        self.outcomes.push_back(is_failure);
        self.failures += u32::from(is_failure);
        while self.outcomes.len() > config.window.max(1) as usize {
            let left = self.outcomes.pop_front();
            self.failures -= u32::from(left == Some(true));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const CONFIG: BreakerConfig =
        BreakerConfig { failure_share: 0.5, window: 10, open_for: Duration::from_secs(1) };

    #[test]
    fn opens_by_share_and_closes_by_one_trial() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert!(!breaker.failed(false, &CONFIG, 0.0, now));
        }
        assert!(breaker.failed(false, &CONFIG, 0.0, now));
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.take(now), Permit::Not(Some(later)));
        assert_eq!(breaker.take(later), Permit::Trial);
        assert_eq!(breaker.take(later), Permit::Not(None));
        breaker.succeeded(true, &CONFIG);
        assert_eq!(breaker.take(later), Permit::Go);
    }

    #[test]
    fn failed_trials_double_the_time_up_to_sixteen_times() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            breaker.failed(false, &CONFIG, 0.0, now);
        }
        for expected in [1, 2, 4, 8, 16, 16] {
            let Permit::Not(Some(until)) = breaker.take(now) else { panic!("it is open") };
            assert_eq!(until - now, Duration::from_secs(expected));
            now = until;
            assert_eq!(breaker.take(now), Permit::Trial);
            breaker.failed(true, &CONFIG, 0.0, now);
        }
    }

    #[test]
    fn a_few_failures_among_many_successes_leave_it_closed() {
        let mut breaker = Breaker::default();
        for round in 0..100 {
            if round % 3 == 0 {
                assert!(!breaker.failed(false, &CONFIG, 0.0, Instant::now()));
            } else {
                breaker.succeeded(false, &CONFIG);
            }
        }
    }

    proptest! {
        /// Whatever becomes of requests and in whatever order: never two trials at once.
        #[test]
        fn there_is_never_more_than_one_trial(events in prop::collection::vec((0u8..5, 0u64..3000), 0..400)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            let mut under_way: Vec<bool> = Vec::new();
            for (event, milliseconds) in events {
                now += Duration::from_millis(milliseconds / 4);
                if event >= 3 {
                    match breaker.take(now) {
                        Permit::Go => under_way.push(false),
                        Permit::Trial => under_way.push(true),
                        Permit::Not(_) => {}
                    }
                } else if !under_way.is_empty() {
                    let is_trial = under_way.remove(milliseconds as usize % under_way.len());
                    match event {
                        0 => breaker.succeeded(is_trial, &CONFIG),
                        1 => drop(breaker.failed(is_trial, &CONFIG, 0.5, now)),
                        _ if is_trial => breaker.cancelled(now),
                        _ => {}
                    }
                }
                prop_assert!(under_way.iter().filter(|&&is_trial| is_trial).count() <= 1);
            }
        }
    }
}
