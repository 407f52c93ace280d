//! From times of a few programs to the time of one that was not run, with a range. Pure.

use serde::{Deserialize, Serialize};

/// Two processes that run the same program on the same machine differ by this share, which more runs in
/// one process do not show: where their memory happens to lie, and in how large pages.
const BETWEEN_PROCESSES: f64 = 0.05;

/// Errors of this many standard deviations count: about 19 times in 20 it is less.
const DEVIATIONS: f64 = 2.0;

/// A time that a program is expected to take, and the range that it should be found in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    pub seconds: f64,
    pub low_seconds: f64,
    pub high_seconds: f64,
}

impl Estimate {
    /// Of two estimates of the same.
    #[must_use]
    pub fn mean(self, other: Estimate) -> Estimate {
        self.toward(other, 0.5)
    }

    /// What lies on the straight line through two estimates, `at` of the way from this one to `other`;
    /// beyond 1 it is behind `other`.
    #[must_use]
    pub fn toward(self, other: Estimate, at: f64) -> Estimate {
        let mix = |one: f64, two: f64| (one + (two - one) * at).max(0.0);
        Estimate {
            seconds: mix(self.seconds, other.seconds),
            low_seconds: mix(self.low_seconds, other.low_seconds),
            high_seconds: mix(self.high_seconds, other.high_seconds),
        }
    }
}

/// Times of one program, in seconds, run by run.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// None without runs.
    pub fn median(&self) -> Option<f64> {
        median(self.0.clone())
    }

    /// The standard error of the median. The spread is taken from the median distance to the median, so
    /// that one run beside which something else was at work does not count for more than that.
    fn error(&self) -> f64 {
        let Some(middle) = self.median() else { return f64::INFINITY };
        let distances = self.0.iter().map(|seconds| (seconds - middle).abs()).collect();
        // Both factors hold for times with a normal distribution.
        let deviation = 1.4826 * median(distances).unwrap_or(0.0);
        1.2533 * deviation / (self.0.len() as f64).sqrt()
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => None,
        0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

/// The sum of medians, each times its factor. None without runs, or where noise outweighs what was
/// measured, so that the sum is no time.
pub fn combine(terms: &[(f64, &Times)]) -> Option<Estimate> {
    let mut seconds = 0.0;
    let mut variance = 0.0;
    for (factor, times) in terms {
        seconds += factor * times.median()?;
        variance += (factor * times.error()).powi(2);
    }
    let margin = DEVIATIONS * variance.sqrt() + BETWEEN_PROCESSES * seconds;
    (seconds > 0.0).then_some(Estimate {
        seconds,
        low_seconds: (seconds - margin).max(0.0),
        high_seconds: seconds + margin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(all: &[f64]) -> Times {
        let mut times = Times::default();
        all.iter().for_each(|&seconds| times.add(seconds));
        times
    }

    #[test]
    fn a_run_that_was_disturbed_changes_little() {
        let quiet = combine(&[(1.0, &times(&[1.0, 1.01, 0.99, 1.0, 1.0]))]).unwrap();
        let disturbed = combine(&[(1.0, &times(&[1.0, 1.01, 0.99, 9.0, 1.0]))]).unwrap();
        assert_eq!(quiet.seconds, disturbed.seconds);
        assert!((quiet.high_seconds - disturbed.high_seconds).abs() < 0.02);
    }

    #[test]
    fn noise_that_is_multiplied_shows_in_the_range() {
        let (few, more) = (times(&[1.0, 1.1, 0.9, 1.0]), times(&[2.0, 2.1, 1.9, 2.0]));
        let near = combine(&[(0.0, &few), (1.0, &more)]).unwrap();
        let far = combine(&[(-9.0, &few), (10.0, &more)]).unwrap();
        assert!((far.seconds - 11.0).abs() < 1e-9);
        let width =
            |estimate: Estimate| (estimate.high_seconds - estimate.low_seconds) / estimate.seconds;
        assert!(width(far) > 1.5 * width(near), "{far:?} {near:?}");
    }

    #[test]
    fn what_is_no_time_is_none() {
        assert_eq!(combine(&[(1.0, &times(&[]))]), None);
        assert_eq!(combine(&[(1.0, &times(&[1.0])), (-1.0, &times(&[2.0]))]), None);
    }

    #[test]
    fn a_line_goes_on_behind_its_second_point() {
        let at = |seconds: f64| Estimate { seconds, low_seconds: seconds, high_seconds: seconds };
        assert_eq!(at(1.0).toward(at(2.0), 3.0), at(4.0));
        assert_eq!(at(2.0).toward(at(1.0), 9.0).seconds, 0.0);
    }
}
