//! How long a backend takes: averages, and quantiles of the last minutes.
//!
//! Knows times only, not whose.

use std::time::Duration;

use tokio::time::Instant;

/// After so long about two thirds of what was known are replaced by what is seen.
const MEMORY: Duration = Duration::from_secs(10);
/// Unseen, a mean fades so slowly: a backend that was slow and is asked no more counts as worth a
/// try after some minutes, not at once.
const FADING: Duration = Duration::from_secs(300);
/// A quantile is of the last one to two of these.
const WINDOW: Duration = Duration::from_secs(60);

/// An average in which old times count less and less: an observation that comes `elapsed` after the
/// one before weighs `1 - exp(-elapsed / MEMORY)`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ewma {
    seconds: f64,
    last: Option<Instant>,
}

impl Ewma {
    /// Peak-EWMA (as Finagle's load balancer has it): a longer time than the average is taken at
    /// once, so that a server that begins to stall is avoided from the first sign on.
    pub(crate) fn observe_peak(&mut self, time: Duration, now: Instant) {
        if self.last.is_some() && time.as_secs_f64() <= self.seconds {
            self.observe(time, now);
        } else {
            (self.seconds, self.last) = (time.as_secs_f64(), Some(now));
        }
    }

    pub(crate) fn observe(&mut self, time: Duration, now: Instant) {
        let seconds = time.as_secs_f64();
        let kept = self.last.map_or(0.0, |last| faded(last, now, MEMORY));
        self.seconds = seconds + (self.seconds - seconds) * kept;
        self.last = Some(now);
    }

    /// In seconds, faded as a peak does: the server is worth a try again within the minute. Nothing
    /// without any observation.
    pub(crate) fn peak(&self, now: Instant) -> Option<f64> {
        self.last.map(|last| self.seconds * faded(last, now, MEMORY))
    }

    /// When the last observation came.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// In seconds; nothing without any observation.
    pub(crate) fn mean(&self, now: Instant) -> Option<f64> {
        self.last.map(|last| self.seconds * faded(last, now, FADING))
    }
}

fn faded(last: Instant, now: Instant, time: Duration) -> f64 {
    (-now.saturating_duration_since(last).as_secs_f64() / time.as_secs_f64()).exp()
}

const SHORTEST_SECONDS: f64 = 100e-6;
/// Two neighbouring buckets differ by this factor, so a quantile is right to about 5 %.
const STEP: f64 = 1.1;
/// 0.1 ms * 1.1^168 is about 15 minutes.
const BUCKETS: usize = 169;

/// Times by their order of magnitude, in 0.7 kB.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Box<[u32; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]) }
    }
}

impl Histogram {
    pub(crate) fn observe(&mut self, time: Duration) {
        let ratio = time.as_secs_f64() / SHORTEST_SECONDS;
        let bucket = if ratio <= 1.0 { 0.0 } else { (ratio.ln() / STEP.ln()).round() };
        let count = &mut self.counts[(bucket as usize).min(BUCKETS - 1)];
        *count = count.saturating_add(1);
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|&count| u64::from(count)).sum()
    }

    /// The time that a share of `quantile` (0 to 1) of the observations did not exceed.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        })?;
        Some(Duration::from_secs_f64(SHORTEST_SECONDS * STEP.powi(bucket as i32)))
    }

    fn with(&self, other: &Histogram) -> Histogram {
        let mut sum = self.clone();
        for (count, more) in sum.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
        sum
    }
}

/// Quantiles of times over a sliding window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quantiles {
    current: Histogram,
    before: Histogram,
    began: Option<Instant>,
}

impl Quantiles {
    pub(crate) fn observe(&mut self, time: Duration, now: Instant) {
        self.turn(now);
        self.current.observe(time);
    }

    /// All times of the window.
    pub(crate) fn all(&mut self, now: Instant) -> Histogram {
        self.turn(now);
        self.current.with(&self.before)
    }

    fn turn(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let elapsed = now.saturating_duration_since(began);
        if elapsed < WINDOW {
            return;
        }
        self.before = std::mem::take(&mut self.current);
        if elapsed >= 2 * WINDOW {
            self.before = Histogram::default();
        }
        self.began = Some(now);
    }
}

/// All times of one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    /// Until the first token of a stream.
    pub(crate) ttft: Times,
    /// Per further token; of answers that are not streamed, their whole time by their tokens.
    pub(crate) tpot: Times,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// For choosing among servers.
    pub(crate) peak: Ewma,
    /// For objectives: one slow answer among many does not break them.
    pub(crate) mean: Ewma,
    pub(crate) lately: Quantiles,
}

impl Times {
    pub(crate) fn observe(&mut self, time: Duration, now: Instant) {
        self.peak.observe_peak(time, now);
        self.mean.observe(time, now);
        self.lately.observe(time, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_peak_is_taken_at_once_and_decays_by_time() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        assert_eq!(ewma.peak(start), None);
        ewma.observe_peak(seconds(0.1), start);
        ewma.observe_peak(seconds(2.0), start + seconds(1.0));
        assert_eq!(ewma.peak(start + seconds(1.0)), Some(2.0));
        // Good news right after it hardly counts; ten seconds later, most of it does.
        ewma.observe_peak(seconds(0.1), start + seconds(1.01));
        assert!(ewma.peak(start + seconds(1.01)).is_some_and(|now| now > 1.9));
        ewma.observe_peak(seconds(0.1), start + seconds(31.0));
        assert!(ewma.peak(start + seconds(31.0)).is_some_and(|now| (0.1..0.3).contains(&now)));
        // Nobody asked it since: it fades.
        assert!(ewma.peak(start + seconds(91.0)).is_some_and(|now| now < 0.001));
        assert!(ewma.mean(start + seconds(91.0)).is_some_and(|now| now > 0.1));
    }

    #[test]
    fn one_outlier_among_many_hardly_moves_the_mean() {
        let start = Instant::now();
        let mut ewma = Ewma::default();
        for tenth in 0..300 {
            let time = if tenth == 250 { 5.0 } else { 0.1 };
            ewma.observe(seconds(time), start + seconds(f64::from(tenth) / 10.0));
        }
        let mean = ewma.mean(start + seconds(29.9)).expect("there are times");
        assert!((0.1..0.2).contains(&mean), "{mean}");
    }

    #[test]
    fn quantiles_are_right_to_five_percent_and_of_the_last_minutes() {
        let start = Instant::now();
        let mut times = Quantiles::default();
        for milliseconds in 1..=1000 {
            times.observe(Duration::from_millis(milliseconds), start);
        }
        for (quantile, expected) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let got = times.all(start).quantile(quantile).expect("there are times").as_secs_f64();
            assert!((got / expected - 1.0).abs() < 0.06, "{quantile}: {got}");
        }
        assert_eq!(times.all(start + 3 * WINDOW).quantile(0.5), None);
        times.observe(Duration::ZERO, start + 3 * WINDOW);
        times.observe(Duration::MAX, start + 3 * WINDOW);
        assert_eq!(times.all(start + 3 * WINDOW).count(), 2);
    }
}
