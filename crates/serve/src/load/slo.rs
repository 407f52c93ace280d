//! Service-level objectives: what a request must keep to for its user to be content.

use std::fmt;
use std::str::FromStr;

use super::error::LoadError;
use super::measure::Record;

/// Upper limits in seconds; what is not given is not asked of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    /// Until the first token.
    pub ttft_seconds: Option<f64>,
    /// For each token after the first, on average.
    pub tpot_seconds: Option<f64>,
    /// Until the answer's end.
    pub latency_seconds: Option<f64>,
}

impl Slo {
    /// Whether a request kept to all of it; one that failed did not.
    pub fn is_met_by(&self, record: &Record) -> bool {
        // An answer of one token has no time between tokens, so it cannot be too slow there.
        let keeps = |limit: Option<f64>, value: Option<f64>| match (limit, value) {
            (Some(limit), Some(value)) => value <= limit,
            _ => true,
        };
        let has_begun = self.ttft_seconds.is_none() || record.ttft_seconds().is_some();
        record.failure.is_none()
            && has_begun
            && keeps(self.ttft_seconds, record.ttft_seconds())
            && keeps(self.tpot_seconds, record.tpot_seconds())
            && keeps(self.latency_seconds, Some(record.latency_seconds()))
    }
}

impl FromStr for Slo {
    type Err = LoadError;

    /// `ttft=500ms,tpot=50ms`, `latency=10s`.
    fn from_str(text: &str) -> Result<Slo, LoadError> {
        let bad = || LoadError::Slo { text: text.to_string() };
        let mut slo = Slo::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(bad)?;
            let limit = match name.trim() {
                "ttft" => &mut slo.ttft_seconds,
                "tpot" => &mut slo.tpot_seconds,
                "latency" => &mut slo.latency_seconds,
                _ => return Err(bad()),
            };
            if limit.replace(seconds(value.trim()).ok_or_else(bad)?).is_some() {
                return Err(bad());
            }
        }
        Ok(slo)
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("TTFT", self.ttft_seconds),
            ("TPOT", self.tpot_seconds),
            ("latency", self.latency_seconds),
        ];
        let parts = parts.iter().filter_map(|(name, limit)| Some((name, (*limit)?)));
        for (number, (name, limit)) in parts.enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(formatter, "{comma}{name} ≤ {} ms", (limit * 1e6).round() / 1e3)?;
        }
        Ok(())
    }
}

/// `50ms` or `1.5s`. Without a unit one cannot know which is meant.
fn seconds(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let value: f64 = number.trim().parse().ok()?;
    (value.is_finite() && value > 0.0).then_some(value * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        let slo: Slo = "ttft=500ms, tpot=0.05s".parse().unwrap();
        assert_eq!((slo.ttft_seconds, slo.tpot_seconds), (Some(0.5), Some(0.05)));
        assert_eq!(slo.to_string(), "TTFT ≤ 500 ms, TPOT ≤ 50 ms");
        for wrong in ["", "ttft", "ttft=5", "ttft=-1s", "itl=1s", "ttft=1s,ttft=2s", "ttft=infs"] {
            let error = wrong.parse::<Slo>().unwrap_err().to_string();
            assert!(error.contains("ttft=500ms"), "{error}");
        }
    }

    #[test]
    fn a_request_keeps_to_all_limits_or_not() {
        let slo: Slo = "ttft=500ms,tpot=50ms".parse().unwrap();
        let record = Record {
            started: 1.0,
            first: Some(1.4),
            last: Some(2.0),
            ended: 2.1,
            output_tokens: 16,
            ..Record::default()
        };
        // (2.0 - 1.4) / 15 = 40 ms
        assert!(slo.is_met_by(&record));
        assert!(!slo.is_met_by(&Record { output_tokens: 11, ..record.clone() }));
        assert!(!slo.is_met_by(&Record { first: Some(1.6), ..record.clone() }));
        assert!(!slo.is_met_by(&Record { failure: Some("cut".to_string()), ..record.clone() }));
        assert!(!slo.is_met_by(&Record { first: None, ..record.clone() }));
        assert!(!"latency=1s".parse::<Slo>().unwrap().is_met_by(&record));
        assert!(slo.is_met_by(&Record { output_tokens: 1, last: Some(1.4), ..record }));
    }
}
