//! From times to figures.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Seen;

/// What a measurement came to. All times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub seconds: f64,
    /// Requests that were due.
    pub due: usize,
    pub succeeded: usize,
    pub failed: usize,
    /// Neither answered nor refused in the end.
    pub unanswered: usize,
    /// A few of the reasons.
    pub failures: Vec<String>,
    /// Answers that were whole before the time was over, per second.
    pub answers_per_second: f64,
    pub first_byte_ms: Option<Spread>,
    pub whole_ms: Option<Spread>,
    /// How late the generator itself was to look after a request. Included in the other times.
    pub late_ms: Option<Spread>,
    /// Of streams, when the first, the second, ... event came; as many as every answer had.
    pub events_ms: Vec<Spread>,
    /// The fewest and the most events of an answer.
    pub events: [usize; 2],
}

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// Of values in seconds, in milliseconds. None for no values.
    fn of(seconds: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = seconds.into_iter().collect();
        values.sort_by(f64::total_cmp);
        // The smallest value that so many percent do not exceed.
        let percentile = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1);
            values.get(rank - 1).map(|seconds| (seconds * 1e6).round() / 1e3)
        };
        Some(Spread {
            p50: percentile(50)?,
            p90: percentile(90)?,
            p99: percentile(99)?,
            max: percentile(100)?,
        })
    }
}

impl Outcome {
    pub(super) fn of(seen: Seen, to: Instant, duration: Duration) -> Outcome {
        let Seen { answers, failures, failed, due, late } = seen;
        let seconds = duration.as_secs_f64();
        let in_time =
            answers.iter().filter(|answer| answer.ended_at.is_some_and(|at| at < to)).count();
        let counts = answers.iter().map(|answer| answer.events.len());
        let events = [counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0)];
        let at = |index: usize| {
            let times = answers.iter().filter_map(|answer| answer.events.get(index));
            Spread::of(times.map(|seconds| f64::from(*seconds)))
        };
        Outcome {
            seconds,
            due,
            succeeded: answers.len(),
            failed,
            unanswered: due.saturating_sub(answers.len() + failed),
            failures,
            answers_per_second: (in_time as f64 / seconds * 10.0).round() / 10.0,
            first_byte_ms: Spread::of(answers.iter().map(|answer| answer.first_byte)),
            whole_ms: Spread::of(answers.iter().map(|answer| answer.end)),
            late_ms: Spread::of(late),
            events_ms: (0..events[0]).filter_map(at).collect(),
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let spread = Spread::of((1..=200).rev().map(|value| f64::from(value) / 1e3)).unwrap();
        assert_eq!(spread, Spread { p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 });
        let one = Spread::of([0.0025]).unwrap();
        assert_eq!((one.p50, one.max), (2.5, 2.5));
        assert_eq!(Spread::of([]), None);
    }
}
