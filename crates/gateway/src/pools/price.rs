//! What tokens cost, in money and in energy.
//!
//! A pool with a price per token costs what its price list says. A pool with a price per chip-hour
//! costs the same every second, whatever it does, so a token's part of that has to be worked out:
//!
//! ```text
//! work [token]       = completion + PROMPT_WEIGHT * (prompt - cached) + CACHED_WEIGHT * cached
//! cost [USD]         = USD per chip-hour * chips / 3600 / throughput [token/s] * work
//! energy [J]         = watts per chip * chips / throughput [token/s] * work
//! ```
//!
//! `throughput` is the work per second that the pool does **under load**: the highest sustained one
//! that was measured, or the config's `tokens_per_second` until that has been exceeded. Never the
//! momentary one: a pool that is used little would look dear for each token, be given less to do,
//! and look dearer still.
//!
//! Knows no backends and no routes.

use crate::config::Price;
use crate::money::Money;

/// What a token of the prompt counts against a generated one. It costs less because a prompt is
/// computed all at once, while each generated token reads all the weights again. The ratio is that of
/// a public price list (OpenAI, GPT-4.1, April 2025: 2.00 in, 0.50 cached, 8.00 out, USD per million).
pub const PROMPT_WEIGHT: f64 = 2.0 / 8.0;
/// What a token of the prompt counts that was in the backend's cache already.
pub const CACHED_WEIGHT: f64 = 0.5 / 8.0;

const PER_MILLION: f64 = 1e-6;
const SECONDS_PER_HOUR: f64 = 3600.0;

/// Tokens, as much as generating so many would be. `cached` is part of `prompt`.
pub fn work(prompt: u64, cached: u64, completion: u64) -> f64 {
    let cached = cached.min(prompt);
    completion as f64 + PROMPT_WEIGHT * (prompt - cached) as f64 + CACHED_WEIGHT * cached as f64
}

/// Nothing if the price, or the throughput that it takes, is not known. `throughput` is work per
/// second of the whole pool.
pub fn cost(
    price: &Price,
    chips: u32,
    throughput: Option<f64>,
    prompt: u64,
    cached: u64,
    completion: u64,
) -> Option<Money> {
    let dollars = match price {
        Price::Unknown => return None,
        Price::Tokens { input, cached_input, output } => {
            let cached = cached.min(prompt);
            (input.dollars() * (prompt - cached) as f64
                + cached_input.dollars() * cached as f64
                + output.dollars() * completion as f64)
                * PER_MILLION
        }
        Price::ChipHour(price) => {
            let per_second = price.dollars() * f64::from(chips) / SECONDS_PER_HOUR;
            per_second / throughput.filter(|&rate| rate > 0.0)? * work(prompt, cached, completion)
        }
    };
    Some(Money::from_dollars(dollars))
}

/// In joules; nothing if the throughput is not known.
pub fn energy(
    watts: f64,
    throughput: Option<f64>,
    prompt: u64,
    cached: u64,
    completion: u64,
) -> Option<f64> {
    Some(watts / throughput.filter(|&rate| rate > 0.0)? * work(prompt, cached, completion))
}

/// As the page shows it: `2.70 usd/chip-hour`.
pub fn text(price: &Price) -> String {
    match price {
        Price::ChipHour(price) => format!("{:.2} usd/chip-hour", price.dollars()),
        Price::Tokens { input, cached_input, output } => format!(
            "{} in, {} cached, {} out usd/million",
            input.dollars(),
            cached_input.dollars(),
            output.dollars()
        ),
        Price::Unknown => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chip_hours_are_shared_out_by_work_under_load() {
        // 8 chips at $3.60 an hour are $0.008 a second; 1,000 tokens a second are $8 a million.
        let price = Price::ChipHour(Money::from_dollars(3.6));
        let cost = |prompt, cached, completion| {
            cost(&price, 8, Some(1000.0), prompt, cached, completion).expect("all is known")
        };
        assert_eq!(cost(0, 0, 1_000_000), Money::from_dollars(8.0));
        assert_eq!(cost(1_000_000, 0, 0), Money::from_dollars(2.0));
        assert_eq!(cost(1_000_000, 1_000_000, 0), Money::from_dollars(0.5));
        assert_eq!(cost(1_000_000, u64::MAX, 0), Money::from_dollars(0.5));
        assert_eq!(super::cost(&price, 8, None, 1, 0, 1), None);
        assert_eq!(super::cost(&price, 8, Some(0.0), 1, 0, 1), None);
        assert_eq!(energy(2000.0, Some(1000.0), 4000, 0, 1000), Some(4000.0));
    }

    #[test]
    fn prices_per_token_are_plain() {
        let dollars = Money::from_dollars;
        let price = Price::Tokens {
            input: dollars(3.0),
            cached_input: dollars(0.3),
            output: dollars(15.0),
        };
        assert_eq!(
            cost(&price, 1, None, 1000, 500, 100),
            Some(Money(1_500_000 + 150_000 + 1_500_000))
        );
        assert_eq!(cost(&Price::Unknown, 1, Some(1.0), 1, 0, 1), None);
    }
}
