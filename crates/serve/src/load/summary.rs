//! What a measurement says, in figures.

use std::collections::BTreeMap;

use serde::Serialize;

use super::measure::{Measured, Pace, Record};
use super::slo::Slo;
use super::statistics::Distribution;

/// One measurement. Times are in milliseconds; distributions are over requests that succeeded, and
/// none where there were no values.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How many clients there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Requests per second that were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// From the first request to the last answer.
    pub seconds: f64,
    pub succeeded: usize,
    pub failed: usize,
    /// Requests that were dropped because the measurement was stopped.
    pub dropped: usize,
    /// Why requests failed, and how many for each reason.
    pub failures: BTreeMap<String, usize>,
    /// None where the server does not say how long prompts are.
    pub input_tokens: Option<usize>,
    /// How many of them the server had computed before; none if it does not say.
    pub cached_input_tokens: Option<usize>,
    pub output_tokens: usize,
    pub requests_per_second: f64,
    pub input_tokens_per_second: Option<f64>,
    pub output_tokens_per_second: f64,
    /// Time to the first token.
    pub ttft_ms: Option<Distribution>,
    /// Time per output token after the first, a value per request.
    pub tpot_ms: Option<Distribution>,
    /// Time between chunks, each of which is a token for most servers, all requests together.
    pub itl_ms: Option<Distribution>,
    pub latency_ms: Option<Distribution>,
    pub goodput: Option<Goodput>,
}

/// How many requests kept to the objectives. Those that failed did not.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goodput {
    pub requests: usize,
    /// Of all requests, from 0 to 1.
    pub share: f64,
    pub requests_per_second: f64,
}

impl Summary {
    pub fn of(measured: &Measured, slo: Option<&Slo>) -> Summary {
        let all = &measured.records;
        let (good, bad): (Vec<&Record>, Vec<&Record>) =
            all.iter().partition(|record| record.failure.is_none());
        let mut failures = BTreeMap::new();
        for failure in bad.iter().filter_map(|record| record.failure.clone()) {
            *failures.entry(failure).or_insert(0) += 1;
        }
        let total = |value: fn(&Record) -> Option<usize>| -> Option<usize> {
            good.iter().map(|record| value(record)).sum()
        };
        let (input_tokens, cached) =
            (total(|record| record.input_tokens), total(|record| record.cached_tokens));
        let output_tokens = good.iter().map(|record| record.output_tokens).sum();
        let seconds = measured.seconds;
        let per_second = |count: usize| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let spread = |value: fn(&Record) -> Option<f64>| {
            Distribution::of(good.iter().filter_map(|record| Some(value(record)? * 1e3)))
        };
        let gaps = good.iter().flat_map(|record| &record.gaps).map(|gap| f64::from(*gap) * 1e3);
        let (concurrency, rate) = match measured.pace {
            Pace::Clients(clients) => (Some(clients), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        Summary {
            concurrency,
            rate,
            seconds,
            succeeded: good.len(),
            failed: bad.len(),
            dropped: measured.dropped,
            failures,
            input_tokens: input_tokens.filter(|_| !good.is_empty()),
            cached_input_tokens: cached.filter(|_| !good.is_empty()),
            output_tokens,
            requests_per_second: per_second(good.len()),
            input_tokens_per_second: input_tokens.filter(|_| !good.is_empty()).map(per_second),
            output_tokens_per_second: per_second(output_tokens),
            ttft_ms: spread(Record::ttft_seconds),
            tpot_ms: spread(Record::tpot_seconds),
            itl_ms: Distribution::of(gaps),
            latency_ms: spread(|record| Some(record.latency_seconds())),
            goodput: slo.map(|slo| {
                let requests = all.iter().filter(|record| slo.is_met_by(record)).count();
                let share = requests as f64 / all.len().max(1) as f64;
                Goodput { requests, share, requests_per_second: per_second(requests) }
            }),
        }
    }

    /// `8 clients`, `2.5/s`.
    pub fn name(&self) -> String {
        match (self.concurrency, self.rate) {
            (Some(1), _) => "1 client".to_string(),
            (Some(clients), _) => format!("{clients} clients"),
            (None, Some(rate)) => format!("{rate}/s"),
            (None, None) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(started: f64, ttft: f64, output_tokens: usize) -> Record {
        let gaps = vec![0.1; output_tokens - 1];
        let last = started + ttft + 0.1 * (output_tokens - 1) as f64;
        Record {
            started,
            first: Some(started + ttft),
            last: Some(last),
            ended: last,
            gaps,
            input_tokens: Some(10),
            cached_tokens: None,
            output_tokens,
            failure: None,
        }
    }

    #[test]
    fn figures_of_a_measurement() {
        let cut = Record {
            failure: Some("cut".to_string()),
            ended: 5.0,
            started: 1.0,
            ..Record::default()
        };
        let records = vec![record(0.0, 0.5, 11), record(1.0, 1.5, 21), cut];
        let measured = Measured { pace: Pace::Clients(2), seconds: 5.0, records, dropped: 1 };
        let slo = "ttft=1s".parse().unwrap();
        let summary = Summary::of(&measured, Some(&slo));
        assert_eq!((summary.succeeded, summary.failed, summary.dropped), (2, 1, 1));
        assert_eq!(summary.failures["cut"], 1);
        assert_eq!((summary.input_tokens, summary.output_tokens), (Some(20), 32));
        assert_eq!(summary.cached_input_tokens, None);
        assert!((summary.output_tokens_per_second - 6.4).abs() < 1e-9);
        assert!((summary.ttft_ms.unwrap().mean - 1000.0).abs() < 1e-9);
        assert!((summary.tpot_ms.unwrap().p99 - 100.0).abs() < 1e-6);
        assert_eq!(summary.itl_ms.unwrap().count, 30);
        let goodput = summary.goodput.unwrap();
        assert_eq!((goodput.requests, goodput.requests_per_second), (1, 0.2));
        assert!((goodput.share - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(summary.name(), "2 clients");
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["concurrency"], 2);
        assert!(json.get("rate").is_none() && json["ttft_ms"]["p50"].is_number());
    }

    #[test]
    fn nothing_measured_is_nothing() {
        let measured =
            Measured { pace: Pace::Rate(0.5), seconds: 0.0, records: Vec::new(), dropped: 0 };
        let summary = Summary::of(&measured, Some(&Slo::default()));
        assert_eq!((summary.ttft_ms, summary.input_tokens), (None, None));
        assert_eq!(summary.output_tokens_per_second, 0.0);
        assert_eq!(summary.name(), "0.5/s");
        assert!(!serde_json::to_string(&summary).unwrap().contains("NaN"));
    }
}
