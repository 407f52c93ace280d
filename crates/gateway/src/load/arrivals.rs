//! When requests are due at a rate. The runtime's own clock ticks in milliseconds, which would send
//! requests in bunches; so a thread of its own sleeps from one to the next.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The times of a Poisson process with `rate` requests per second, each given when it has come.
pub(super) fn start(
    rate: f64,
    begin: Instant,
    end: Instant,
) -> io::Result<UnboundedReceiver<Instant>> {
    let (sender, receiver) = unbounded_channel();
    thread::Builder::new().name("arrivals".to_owned()).spawn(move || {
        for due in times(rate).map(|after| begin + after).take_while(|due| *due < end) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// From the beginning: the gaps are exponential with the mean 1 / rate. Always the same ones, so that
/// all that are compared are given the same.
fn times(rate: f64) -> impl Iterator<Item = Duration> {
    let mut state = 0_u64;
    let mut seconds = 0.0;
    std::iter::repeat_with(move || {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (((mixed ^ (mixed >> 31)) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        seconds -= share.ln() / rate;
        Duration::from_secs_f64(seconds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        let times: Vec<f64> = times(4.0).take(20_000).map(|time| time.as_secs_f64()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean - 0.25).abs() < 0.01, "{mean}");
        let longer = gaps.iter().filter(|gap| **gap > 0.25).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1_f64).exp()).abs() < 0.02, "{longer}");
    }
}
