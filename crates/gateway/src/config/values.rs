//! Values as people write them: times, money, prices, secrets, shares.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, de::MapAccess};

use super::{Price, Secret};
use crate::money::Money;

/// `500ms`, `30s`, `5m`, `1h`, `2d`.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|sign: char| sign.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.trim().parse().ok()?;
    let seconds = match unit.trim() {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    // Beyond a year something else was meant.
    let time = number * seconds;
    (0.0..=366.0 * 86400.0).contains(&time).then(|| Duration::from_secs_f64(time))
}

/// `2.70 usd`, `$2.70`, `50usd`.
pub fn parse_money(text: &str) -> Option<Money> {
    let text = text.trim().to_ascii_lowercase();
    let number = match text.strip_prefix('$') {
        Some(number) => number,
        None => text.strip_suffix("usd")?,
    };
    let dollars: f64 = number.trim().parse().ok()?;
    (0.0..=1e9).contains(&dollars).then(|| Money::from_dollars(dollars))
}

/// An amount for a unit: `2.70 usd/chip-hour`.
fn parse_rate(text: &str, units: &[&str]) -> Option<Money> {
    let (amount, unit) = text.split_once('/')?;
    units.contains(&unit.trim()).then(|| parse_money(amount))?
}

const PER_CHIP_HOUR: [&str; 3] = ["chip-hour", "chip-h", "chip/h"];
const PER_MILLION: [&str; 4] = ["million", "M", "1M", "million tokens"];

pub(super) struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let expected = "expected a time with its unit, such as \"500ms\", \"30s\" or \"5m\"";
        text(deserializer, expected, |text| parse_time(text).map(Time))
    }
}

/// Between 0 and 1.
pub(super) struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let share = f64::deserialize(deserializer)?;
        match (0.0..=1.0).contains(&share) {
            true => Ok(Share(share)),
            false => {
                Err(de::Error::custom(format_args!("expected a share from 0 to 1, not {share}")))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Price, D::Error> {
        struct Prices;
        impl<'de> Visitor<'de> for Prices {
            type Value = Price;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(
                    "a price such as \"2.70 usd/chip-hour\", or { input = \"0.20 usd/million\", output = \"0.60 usd/million\" }",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Price, E> {
                parse_rate(text, &PER_CHIP_HOUR)
                    .map(Price::ChipHour)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Price, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Tokens {
                    input: PerMillion,
                    cached_input: Option<PerMillion>,
                    output: PerMillion,
                }
                let tokens = Tokens::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Price::Tokens {
                    input: tokens.input.0,
                    cached_input: tokens.cached_input.unwrap_or(tokens.input).0,
                    output: tokens.output.0,
                })
            }
        }
        deserializer.deserialize_any(Prices)
    }
}

#[derive(Clone, Copy)]
struct PerMillion(Money);

impl<'de> Deserialize<'de> for PerMillion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PerMillion, D::Error> {
        let expected = "expected a price of a million tokens, such as \"0.20 usd/million\"";
        text(deserializer, expected, |text| parse_rate(text, &PER_MILLION).map(PerMillion))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        struct Secrets;
        impl<'de> Visitor<'de> for Secrets {
            type Value = Secret;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("{ file = \"PATH\" } or { variable = \"NAME\" }")
            }

            // The text itself must not be shown: it is a secret.
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Secret, E> {
                Err(E::custom(
                    "a secret does not stand in the config; give { file = \"PATH\" } or { variable = \"NAME\" }",
                ))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Place {
                    file: Option<std::path::PathBuf>,
                    variable: Option<String>,
                }
                let place = Place::deserialize(de::value::MapAccessDeserializer::new(map))?;
                match (place.file, place.variable) {
                    (Some(file), None) => Ok(Secret::File(file)),
                    (None, Some(variable)) => Ok(Secret::Variable(variable)),
                    _ => Err(de::Error::custom("expected either `file` or `variable`")),
                }
            }
        }
        deserializer.deserialize_any(Secrets)
    }
}

/// A value that is written as a text, or the sentence that says what was expected.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| de::Error::custom(format_args!("{expected}, not \"{text}\"")))
}
