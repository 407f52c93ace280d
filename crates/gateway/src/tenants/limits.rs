//! A tenant's last minute: requests and tokens second by second, so that no sixty seconds hold more
//! than its limits. On the monotonic clock: a jump of the system's does nothing here.

use std::time::Duration;

use tokio::time::Instant;

/// A minute and the second that is running: what came at any time of a second counts until a minute
/// after that second's end.
const SECONDS: u64 = 61;

#[derive(Clone, Copy, Default)]
struct Second {
    /// Which second of the clock it holds.
    number: u64,
    requests: u64,
    tokens: u64,
}

pub(crate) struct Minute {
    started: Instant,
    seconds: [Second; SECONDS as usize],
}

/// Where a request was counted, to correct it later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    second: u64,
    tokens: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Quantity {
    Requests,
    Tokens,
}

impl Minute {
    pub(crate) fn new(now: Instant) -> Minute {
        Minute { started: now, seconds: [Second::default(); SECONDS as usize] }
    }

    /// Requests and tokens of the last minute.
    pub(crate) fn sums(&self, now: Instant) -> (u64, u64) {
        self.living(self.number(now)).fold((0, 0), |(requests, tokens), second| {
            (requests + second.requests, tokens.saturating_add(second.tokens))
        })
    }

    pub(crate) fn count(&mut self, tokens: u64, now: Instant) -> Counted {
        let number = self.number(now);
        let second = &mut self.seconds[(number % SECONDS) as usize];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        second.requests += 1;
        second.tokens = second.tokens.saturating_add(tokens);
        Counted { second: number, tokens }
    }

    /// Puts the tokens that a request did take in place of those it was counted with.
    pub(crate) fn correct(&mut self, counted: Counted, tokens: u64) {
        if let Some(second) = self.still(counted) {
            second.tokens = second.tokens.saturating_sub(counted.tokens).saturating_add(tokens);
        }
    }

    /// As if the request had never come.
    pub(crate) fn forget(&mut self, counted: Counted) {
        if let Some(second) = self.still(counted) {
            second.requests = second.requests.saturating_sub(1);
            second.tokens = second.tokens.saturating_sub(counted.tokens);
        }
    }

    /// How long it takes until `asked` more fit below the limit, if nothing else comes; a minute if
    /// they never do.
    pub(crate) fn wait(&self, what: Quantity, limit: u64, asked: u64, now: Instant) -> Duration {
        let (requests, tokens) = self.sums(now);
        let mut sum = match what {
            Quantity::Requests => requests,
            Quantity::Tokens => tokens,
        };
        let mut living: Vec<&Second> = self.living(self.number(now)).collect();
        living.sort_unstable_by_key(|second| second.number);
        for second in living {
            sum -= match what {
                Quantity::Requests => second.requests,
                Quantity::Tokens => second.tokens.min(sum),
            };
            if sum.saturating_add(asked) <= limit {
                let free = self.started + Duration::from_secs(second.number + SECONDS);
                return free.saturating_duration_since(now);
            }
        }
        Duration::from_secs(60)
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }

    fn living(&self, number: u64) -> impl Iterator<Item = &Second> {
        self.seconds.iter().filter(move |second| second.number + SECONDS > number)
    }

    fn still(&mut self, counted: Counted) -> Option<&mut Second> {
        let second = &mut self.seconds[(counted.second % SECONDS) as usize];
        (second.number == counted.second).then_some(second)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_minute_old_counts_no_more() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut minute = Minute::new(start);
        minute.count(10, at(0.5));
        let second = minute.count(20, at(10.0));
        assert_eq!(minute.sums(at(59.9)), (2, 30));
        assert_eq!(minute.sums(at(61.0)), (1, 20));
        assert_eq!(minute.wait(Quantity::Requests, 2, 1, at(20.0)), Duration::from_secs(41));
        assert_eq!(minute.wait(Quantity::Tokens, 30, 15, at(20.0)), Duration::from_secs(51));
        assert_eq!(minute.wait(Quantity::Tokens, 30, 31, at(20.0)), Duration::from_secs(60));
        minute.correct(second, 5);
        assert_eq!(minute.sums(at(20.0)), (2, 15));
        minute.forget(second);
        // Its tokens had been corrected already, so nothing goes below nothing.
        assert_eq!(minute.sums(at(20.0)), (1, 10));
        // A correction that comes after the minute changes nobody else's second.
        minute.count(7, at(71.0));
        minute.correct(second, 1000);
        assert_eq!(minute.sums(at(71.0)), (1, 7));
    }

    proptest! {
        /// Against the definition: what came in the last sixty seconds is never left out, and what
        /// is older than sixty-one never counted.
        #[test]
        fn no_sixty_seconds_are_undercounted(gaps in prop::collection::vec(0u64..20_000, 1..200)) {
            let start = Instant::now();
            let mut minute = Minute::new(start);
            let mut times = Vec::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                minute.count(3, start + Duration::from_millis(now));
                times.push(now);
                let within = |span: u64| {
                    times.iter().filter(|time| **time + span > now).count() as u64
                };
                let (requests, tokens) = minute.sums(start + Duration::from_millis(now));
                prop_assert!(requests >= within(60_000) && requests <= within(61_000));
                prop_assert_eq!(tokens, requests * 3);
            }
        }
    }
}
