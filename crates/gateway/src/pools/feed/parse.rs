//! What a feed of prices says: `{"time": "2026-11-23T17:00:00Z", "prices": {"POOL": PRICE}}`, with prices as
//! the config has them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::calendar::parse_time;
use crate::config::Price;

/// Clocks differ a little; by more than this, one of them is wrong.
const AHEAD_MAX_MILLISECONDS: i64 = 60_000;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feed {
    /// Of the prices, now.
    pub(super) age: Duration,
    pub(super) prices: BTreeMap<String, Price>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error("it is longer than a megabyte")]
    TooLong,
    #[error(
        "it is not what a feed says, as in {{\"time\": \"2026-11-23T17:00:00Z\", \"prices\": {{\"POOL\": \"2.70 usd/chip-hour\"}}}}"
    )]
    Form(#[from] serde_json::Error),
    #[error("its time `{0}` is none; write it as 2026-11-23T17:00:00Z")]
    Time(String),
    #[error("its time `{0}` is in the future; one of both clocks is wrong")]
    Future(String),
}

#[derive(Deserialize)]
struct Written {
    time: String,
    prices: BTreeMap<String, Price>,
}

/// `now_milliseconds` since 1970.
pub(super) fn parse(bytes: &[u8], now_milliseconds: i64) -> Result<Feed, FeedError> {
    let Written { time, prices } = serde_json::from_slice(bytes)?;
    let short = || time.chars().take(40).collect::<String>();
    let at = parse_time(&time).ok_or_else(|| FeedError::Time(short()))?;
    let age = now_milliseconds.saturating_sub(at);
    if age < -AHEAD_MAX_MILLISECONDS {
        return Err(FeedError::Future(short()));
    }
    Ok(Feed { age: Duration::from_millis(age.max(0).unsigned_abs()), prices })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::money::Money;

    const NOW: i64 = 1_700_000_000_000;

    fn said(time: &str, price: &str) -> Result<Feed, FeedError> {
        parse(format!("{{\"time\": \"{time}\", \"prices\": {{\"a\": {price}}}}}").as_bytes(), NOW)
    }

    #[test]
    fn prices_are_written_as_in_the_config() {
        let feed = said("2023-11-14T22:12:20Z", "\"2.48 usd/chip-hour\"").unwrap();
        assert_eq!(feed.age, Duration::from_secs(60));
        assert_eq!(feed.prices["a"], Price::ChipHour(Money::from_dollars(2.48)));
        let tokens = "{\"input\": \"0.20 usd/million\", \"output\": \"0.60 usd/million\"}";
        let feed = said("2023-11-14T23:13:50+01:00", tokens).unwrap();
        assert_eq!(feed.age, Duration::ZERO, "half a minute ahead is a clock");
        assert!(matches!(feed.prices["a"], Price::Tokens { .. }));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let why = |time: &str, price: &str| {
            let error = said(time, price).unwrap_err();
            super::super::with_causes(&error)
        };
        let right = "2023-11-14T22:12:20Z";
        assert!(why(right, "\"2.48\"").contains("usd/chip-hour"));
        assert!(why(right, "2.48").contains("invalid type"));
        assert!(why("yesterday", "\"1 usd/chip-hour\"").contains("`yesterday` is none"));
        assert!(why("2023-11-14T23:12:20Z", "\"1 usd/chip-hour\"").contains("in the future"));
        assert!(parse(b"<html>", NOW).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_stumble(bytes in proptest::collection::vec(any::<u8>(), 0..200), now in any::<i64>()) {
            let _ = parse(&bytes, now);
        }

        #[test]
        fn no_time_makes_it_stumble(time in "[0-9TZ:.+-]{0,30}", now in any::<i64>()) {
            let _ = parse(format!("{{\"time\": \"{time}\", \"prices\": {{}}}}").as_bytes(), now);
        }
    }
}
