//! How much a pool does: requests, tokens and failures of the last minutes, and the most work per
//! second that it has kept up.
//!
//! Knows counts and time, nothing of prices.

use std::time::Duration;

use tokio::time::Instant;

use super::price::work;
use crate::pools::lease::Served;

const BUCKET: Duration = Duration::from_secs(10);
/// Five minutes: requests that took so long are still spread over the time they took.
const BUCKETS: u64 = 30;
/// What is kept up for a minute counts as sustained: less could be a few answers that ended together.
const SUSTAINED: usize = 6;
/// The share of the last minutes is of so many buckets: two minutes.
const RECENT: u64 = 12;
/// A pool that lost half of its servers should not be believed for ever to be as fast as it was.
const HALF_LIFE: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    /// Bucket `n` of time is at `n % BUCKETS`.
    buckets: [Bucket; BUCKETS as usize],
    start: Option<Instant>,
    /// The bucket that is being filled.
    current: u64,
    sustained: Option<(f64, Instant)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    requests: f64,
    failures: f64,
    tokens: f64,
    work: f64,
}

/// Of the last two minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Recent {
    pub(crate) requests: f64,
    pub(crate) failures: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) tokens_per_second: f64,
}

impl Traffic {
    /// Its work is spread over the time that it took.
    pub(crate) fn served(&mut self, served: &Served, took: Duration, now: Instant) {
        self.turn(now);
        let tokens = (served.prompt_tokens + served.completion_tokens) as f64;
        let work = work(served.prompt_tokens, served.cached_tokens, served.completion_tokens);
        let at = self.since_start(now);
        // What was done before the first bucket is in none: put into it, it would look like a rush.
        let begin = at - took.as_secs_f64();
        let first = (begin.max(0.0) / BUCKET.as_secs_f64()) as u64;
        let first = first.max(self.current.saturating_sub(BUCKETS - 1));
        for number in first..=self.current {
            let from = number as f64 * BUCKET.as_secs_f64();
            let part = at.min(from + BUCKET.as_secs_f64()) - begin.max(from);
            // An answer that took no time at all belongs to the bucket it ended in.
            let share =
                if took.is_zero() { 1.0 } else { (part / took.as_secs_f64()).clamp(0.0, 1.0) };
            let bucket = &mut self.buckets[(number % BUCKETS) as usize];
            bucket.tokens += tokens * share;
            bucket.work += work * share;
        }
        self.buckets[(self.current % BUCKETS) as usize].requests += 1.0;
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.turn(now);
        let bucket = &mut self.buckets[(self.current % BUCKETS) as usize];
        bucket.requests += 1.0;
        bucket.failures += 1.0;
    }

    /// Work per second; nothing before a first minute has passed.
    pub(crate) fn sustained(&mut self, now: Instant) -> Option<f64> {
        self.turn(now);
        let (rate, at) = self.sustained?;
        Some(rate * forgotten(now.saturating_duration_since(at)))
    }

    pub(crate) fn recent(&mut self, now: Instant) -> Recent {
        self.turn(now);
        let first = (self.current + 1).saturating_sub(RECENT);
        let mut sum = Bucket::default();
        for number in first..=self.current {
            let bucket = &self.buckets[(number % BUCKETS) as usize];
            sum.requests += bucket.requests;
            sum.failures += bucket.failures;
            sum.tokens += bucket.tokens;
        }
        let seconds = self.since_start(now) - first as f64 * BUCKET.as_secs_f64();
        // At the very start a single request would look like many a second.
        let seconds = seconds.max(BUCKET.as_secs_f64());
        Recent {
            requests: sum.requests,
            failures: sum.failures,
            requests_per_second: sum.requests / seconds,
            tokens_per_second: sum.tokens / seconds,
        }
    }

    fn since_start(&mut self, now: Instant) -> f64 {
        let start = *self.start.get_or_insert(now);
        now.saturating_duration_since(start).as_secs_f64()
    }

    /// Closes the buckets that are over. A closed minute is measured once the work of requests that
    /// ended later can hardly add to it any more, or is simply measured again.
    fn turn(&mut self, now: Instant) {
        let number = (self.since_start(now) / BUCKET.as_secs_f64()) as u64;
        if number <= self.current {
            return;
        }
        self.measure(now);
        for fresh in (self.current + 1).max(number.saturating_sub(BUCKETS - 1))..=number {
            self.buckets[(fresh % BUCKETS) as usize] = Bucket::default();
        }
        self.current = number;
    }

    /// The best whole minute among those that are remembered.
    fn measure(&mut self, now: Instant) {
        let first = (self.current + 1).saturating_sub(BUCKETS);
        let works: Vec<f64> = (first..=self.current)
            .map(|number| self.buckets[(number % BUCKETS) as usize].work)
            .collect();
        let best =
            works.windows(SUSTAINED).map(|minute| minute.iter().sum::<f64>()).fold(0.0, f64::max);
        let rate = best / (SUSTAINED as f64 * BUCKET.as_secs_f64());
        let known = self
            .sustained
            .map_or(0.0, |(rate, at)| rate * forgotten(now.saturating_duration_since(at)));
        if rate > known {
            self.sustained = Some((rate, now));
        }
    }
}

fn forgotten(elapsed: Duration) -> f64 {
    0.5f64.powf(elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(completion_tokens: u64) -> Served {
        Served { completion_tokens, ..Served::default() }
    }

    #[test]
    fn the_highest_minute_is_kept_and_slowly_forgotten() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        // 200 tokens a second for two minutes, each answer over 20 s; then next to nothing.
        for second in 0..120 {
            traffic.served(&served(200), Duration::from_secs(20), at(second));
        }
        for second in 120..600 {
            traffic.served(&served(1), Duration::from_secs(1), at(second));
        }
        let rate = traffic.sustained(at(600)).expect("a minute was measured");
        assert!((190.0..=210.0).contains(&rate), "{rate}");
        let later = traffic.sustained(at(600 + 24 * 3600)).expect("it is remembered");
        assert!((0.45..0.55).contains(&(later / rate)), "{later}");
    }

    #[test]
    fn a_burst_of_long_answers_does_not_count_as_sustained() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        traffic.recent(start);
        // Sixty answers of 1,000 tokens that ran side by side for four minutes: 250 tokens a second.
        let end = start + Duration::from_secs(240);
        for _ in 0..60 {
            traffic.served(&served(1000), Duration::from_secs(240), end);
        }
        let rate = traffic.sustained(end + Duration::from_secs(20)).expect("measured");
        assert!((240.0..=260.0).contains(&rate), "{rate}");
    }

    #[test]
    fn recent_counts_are_of_two_minutes() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        for second in 0..600 {
            traffic.served(&served(10), Duration::ZERO, start + Duration::from_secs(second));
        }
        traffic.failed(start + Duration::from_secs(599));
        let recent = traffic.recent(start + Duration::from_secs(599));
        assert!((0.9..1.1).contains(&recent.requests_per_second), "{recent:?}");
        assert!((9.0..11.0).contains(&recent.tokens_per_second), "{recent:?}");
        assert_eq!(recent.failures, 1.0);
    }
}
