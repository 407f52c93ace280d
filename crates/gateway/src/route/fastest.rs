//! The least expected time: of two backends at random, the better one. Asking all of them and taking the
//! best would send everybody to the same one until it says otherwise.
//!
//! "The power of two choices in randomized load balancing" (Mitzenmacher, 2001), by peak-EWMA times the
//! requests that stand before this one, as Finagle's balancer has it. Knows readings, not whose.

use crate::pools::vitals::Reading;

/// One that has never answered and has requests already counts as slow as this for each: what is tried
/// first should be tried by few.
const UNKNOWN_SECONDS: f64 = 10.0;

/// Seconds until a whole answer of `tokens` is there, if this request goes behind those that are under way.
fn expected(reading: &Reading, tokens: f64) -> f64 {
    let known = match (reading.ttft, reading.tpot) {
        (None, None) => None,
        (ttft, tpot) => Some(ttft.unwrap_or(0.0) + tpot.unwrap_or(0.0) * tokens),
    };
    let before = f64::from(reading.in_flight);
    match known {
        Some(seconds) => seconds * (before + 1.0),
        None => UNKNOWN_SECONDS * before,
    }
}

/// Which of them. `dice(n)` is a random number below `n`; `tokens` those of a usual answer.
pub(crate) fn of_two(
    readings: &[Reading],
    tokens: f64,
    mut dice: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let count = readings.len();
    if count < 2 {
        return (count == 1).then_some(0);
    }
    let first = dice(count);
    let second = (first + 1 + dice(count - 1)) % count;
    let is_better = expected(&readings[second], tokens) < expected(&readings[first], tokens);
    Some(if is_better { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(in_flight: u32, ttft: Option<f64>, tpot: Option<f64>) -> Reading {
        Reading { in_flight, concurrency: 100, ttft, tpot }
    }

    #[test]
    fn the_better_of_two_by_time_and_queue() {
        let quick = reading(9, Some(0.1), None);
        let slow = reading(0, Some(0.9), None);
        let [first, second] = [0, 1]
            .map(|begin| of_two(&[quick, slow], 100.0, |count| if count == 2 { begin } else { 0 }));
        // A second for the tenth in the queue, 0.9 s for the first.
        assert_eq!((first, second), (Some(1), Some(1)));
        let alone = of_two(&[slow], 1.0, |_| 0);
        assert_eq!((alone, of_two(&[], 1.0, |_| 0)), (Some(0), None));
    }

    #[test]
    fn who_is_not_known_is_tried_by_one() {
        let known = reading(0, None, Some(0.01));
        let pick = |unknown: Reading| of_two(&[known, unknown], 100.0, |_| 0);
        assert_eq!(pick(reading(0, None, None)), Some(1));
        assert_eq!(pick(reading(1, None, None)), Some(0));
    }

    #[test]
    fn load_goes_by_speed() {
        // Served in turn at 30, 20 and 10 requests a second; every 5 ms one comes.
        let rates = [30.0, 20.0, 10.0];
        let mut under_way: [Vec<f64>; 3] = Default::default();
        let mut counts = [0; 3];
        let mut random = fastrand::Rng::with_seed(7);
        for step in 0..12_000 {
            let now = f64::from(step) * 0.02;
            let readings: Vec<Reading> = rates
                .iter()
                .zip(&mut under_way)
                .map(|(rate, ends)| {
                    ends.retain(|end| *end > now);
                    reading(ends.len() as u32, Some(1.0 / rate), None)
                })
                .collect();
            let chosen = of_two(&readings, 0.0, |count| random.usize(..count)).unwrap();
            let last = under_way[chosen].last().copied().unwrap_or(now);
            under_way[chosen].push(last.max(now) + 1.0 / rates[chosen]);
            counts[chosen] += 1;
        }
        assert!(counts[0] > counts[1] && counts[1] > counts[2], "{counts:?}");
        assert!(under_way.iter().all(|ends| ends.len() < 30), "nobody is swamped");
    }
}
