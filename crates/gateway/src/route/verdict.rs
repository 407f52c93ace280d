//! Whether a pool on trial does worse than the others, and by more than chance.
//!
//! Requests differ, so figures of a few hundred of them do: what is asked is not whether the figures
//! are worse, but whether the pool must be. Both tests leave three standard errors to chance, since
//! they are repeated with every request. Knows figures, not what follows from the verdict.

use std::time::Duration;

use super::figures::{Figures, Period};
use crate::pools::latency::Histogram;

/// Standard errors that are left to chance: one in 740 by a normal distribution.
const CHANCE: f64 = 3.0;
/// Of fewer times on either side nothing is said.
const TIMES_MIN: u64 = 30;

/// Beyond the others' share of failures by so much, no further requests are needed.
const PLAIN: f64 = 0.5;

/// What a pool on trial may do worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// Its share of failures may be higher by so much.
    pub(crate) failures_max: f64,
    /// Its median times may be longer by this factor.
    pub(crate) slower_max: f64,
}

/// In what it is worse, as a sentence for those who run the gateway; nothing if it need not be.
pub(crate) fn worse(period: &Period, bounds: Bounds) -> Option<String> {
    let Period { candidate, usual, .. } = period;
    if excess_at_least(candidate, usual) > bounds.failures_max {
        return Some(failures(period));
    }
    let times = [
        ("to the first token", &candidate.ttft, &usual.ttft),
        ("per token", &candidate.tpot, &usual.tpot),
        ("per token of whole answers", &candidate.whole, &usual.whole),
    ];
    times.into_iter().find_map(|(what, own, others)| {
        if factor_at_least(own, others)? <= bounds.slower_max {
            return None;
        }
        let (own, others) = (own.quantile(0.5)?, others.quantile(0.5)?);
        Some(format!("its median time {what} is {}, the others' {}", time(own), time(others)))
    })
}

/// As `worse`, before there are enough requests to say more: whether it fails most of them. A dozen
/// failures are enough for that, and a breaker that opens keeps a dead pool from getting many more.
pub(crate) fn broken(period: &Period) -> Option<String> {
    let excess = excess_at_least(&period.candidate, &period.usual);
    (excess > PLAIN).then(|| failures(period))
}

fn failures(period: &Period) -> String {
    let [own, others] =
        [&period.candidate, &period.usual].map(|figures| percent(figures.failure_share()));
    format!("{own} of its requests failed, {others} of the others'")
}

/// By how much its share of failures is higher, at least: the lower end of Newcombe's interval for the
/// difference of two shares ("Interval estimation for the difference between independent
/// proportions", Statistics in Medicine 17, 1998, method 10).
fn excess_at_least(candidate: &Figures, usual: &Figures) -> f64 {
    let (own, own_low, _) = wilson(candidate.failures, candidate.requests);
    let (others, _, others_high) = match usual.requests {
        // With nobody to compare it with, none of its failures are excused.
        0 => (0.0, 0.0, 0.0),
        requests => wilson(usual.failures, requests),
    };
    (own - others) - (own - own_low).hypot(others_high - others)
}

/// A share, and between what it is likely to be: Wilson's interval
/// (<https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval>).
fn wilson(hits: u64, of: u64) -> (f64, f64, f64) {
    if of == 0 {
        return (0.0, 0.0, 1.0);
    }
    let (count, squared) = (of as f64, CHANCE * CHANCE);
    let share = hits as f64 / count;
    let middle = share + squared / (2.0 * count);
    let reach = CHANCE * (share * (1.0 - share) / count + squared / (4.0 * count * count)).sqrt();
    let whole = 1.0 + squared / count;
    (share, ((middle - reach) / whole).max(0.0), ((middle + reach) / whole).min(1.0))
}

/// By what factor its median is longer, at least: the low end of where its median may be, by the high
/// end of where theirs may be. Where a median may be is a matter of ranks, whatever the distribution:
/// of `n` times so many are below it as of `n` coins show heads. Nothing if there are too few.
fn factor_at_least(own: &Histogram, others: &Histogram) -> Option<f64> {
    let reach = |times: &Histogram| {
        let count = times.count();
        (count >= TIMES_MIN).then(|| CHANCE * 0.5 / (count as f64).sqrt())
    };
    let low = own.quantile(0.5 - reach(own)?)?.as_secs_f64();
    let high = others.quantile(0.5 + reach(others)?)?.as_secs_f64();
    Some(low / high)
}

fn percent(share: Option<f64>) -> String {
    match share {
        Some(share) => format!("{:.1} %", share * 100.0),
        None => "none".to_owned(),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1000.0),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::figures::{Comparison, Did, Side, Time};

    const BOUNDS: Bounds = Bounds { failures_max: 0.01, slower_max: 1.5 };
    const REQUESTS_MIN: u64 = 200;

    /// What a pool is like.
    #[derive(Clone, Copy)]
    struct Nature {
        failures: f64,
        seconds: f64,
    }

    /// The candidate's requests until it was found worse; nothing if it never was.
    fn judged(seed: u64, own: Nature, others: Nature, requests: u64) -> Option<(u64, String)> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut comparison = Comparison::new(REQUESTS_MIN);
        let mut draw = |nature: Nature| {
            if chance.f64() < nature.failures {
                return Did::Failed;
            }
            // Times have long tails: some take ten times as long as the median.
            let factor = (1.0 / (1.0 - chance.f64())).min(50.0);
            let ttft = Duration::from_secs_f64(nature.seconds * factor);
            let tpot = Some(Duration::from_secs_f64(nature.seconds / 10.0));
            Did::Served { time: Time::Stream { ttft, tpot }, tokens: 10, cost: None }
        };
        for number in 1..=requests {
            comparison.note(Side::Candidate, &draw(own));
            for _ in 0..9 {
                comparison.note(Side::Usual, &draw(others));
            }
            let lately = comparison.lately();
            if lately.candidate.requests < REQUESTS_MIN {
                continue;
            }
            if let Some(why) = worse(lately, BOUNDS) {
                return Some((number, why));
            }
        }
        None
    }

    #[test]
    fn what_is_as_good_stays_whatever_chance_does() {
        for (seed, failures) in [(1, 0.0), (2, 0.001), (3, 0.003), (4, 0.001), (5, 0.003)] {
            let nature = Nature { failures, seconds: 0.2 };
            assert_eq!(judged(seed, nature, nature, 20_000), None, "{failures}");
        }
        // Slower and worse, but not by more than is allowed.
        let own = Nature { failures: 0.004, seconds: 0.25 };
        let others = Nature { failures: 0.001, seconds: 0.2 };
        assert_eq!(judged(6, own, others, 20_000), None);
    }

    #[test]
    fn what_is_worse_is_found_soon() {
        let usual = Nature { failures: 0.002, seconds: 0.2 };
        for seed in 0..20 {
            let fails = Nature { failures: 0.08, ..usual };
            let (after, why) = judged(seed, fails, usual, 1_000).expect("it fails");
            assert!(after < 600 && why.contains("of its requests failed"), "{after} {why}");
            let slow = Nature { seconds: 0.5, ..usual };
            let (after, why) = judged(seed, slow, usual, 1_000).expect("it is slow");
            assert!(after < 600 && why.contains("its median time"), "{after} {why}");
        }
    }

    #[test]
    fn one_unlucky_request_does_not_count() {
        let figures = |requests, failures| {
            let mut figures = Figures::default();
            (figures.requests, figures.failures) = (requests, failures);
            figures
        };
        let excess = |own, others| excess_at_least(&own, &others);
        assert!(excess(figures(20, 1), figures(400, 0)) < 0.01);
        assert!(excess(figures(200, 4), figures(4_000, 0)) < 0.01);
        assert!(excess(figures(200, 6), figures(3_800, 0)) < 0.01);
        assert!(excess(figures(200, 7), figures(3_800, 0)) > 0.01);
        assert!(excess(figures(200, 12), figures(4_000, 4)) > 0.01);
        // All fail, and there is next to nobody, or nobody, to compare with.
        assert!(excess(figures(200, 200), figures(1, 0)) > 0.01);
        assert!(excess(figures(200, 200), figures(0, 0)) > 0.9);
        // Ten that all fail are plain, five are not, nor are most of them.
        assert!(excess(figures(10, 10), figures(100, 0)) > PLAIN);
        assert!(excess(figures(5, 5), figures(1_000, 0)) < PLAIN);
        assert!(excess(figures(20, 14), figures(1_000, 0)) < PLAIN);
        // If all others fail as well, it is not the pool.
        assert!(excess(figures(200, 100), figures(200, 100)) < 0.0);
    }

    #[test]
    fn shares_lie_within_their_interval() {
        for (hits, of) in [(0, 1), (1, 1), (0, 1_000), (1_000, 1_000), (3, 7), (500, 1_000)] {
            let (share, low, high) = wilson(hits, of);
            assert!((0.0..=share + 1e-12).contains(&low), "{hits} of {of}: {low}");
            assert!((share - 1e-12..=1.0).contains(&high), "{hits} of {of}: {high}");
        }
        assert_eq!(wilson(0, 0), (0.0, 0.0, 1.0));
    }
}
