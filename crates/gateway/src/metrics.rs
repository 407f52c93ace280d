//! What is counted of ended requests: for Prometheus, and per ten seconds for the admin page.
//!
//! Learns of a request from its [`Record`] only, when it is over. Knows no text, no key, and no backend
//! but by the name of its pool. Clients cannot make it grow: a model that is not served has no name here.

mod gauges;
mod series;
mod traffic;
mod trials;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use web::exposition::{Kind, Page, labels};

use crate::record::Record;
pub use gauges::{BackendGauge, Gauges};
use series::Counted;
pub use traffic::{Traffic, TrafficView};

/// Counters of one gateway since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Names that may stand in labels.
    models: RwLock<HashSet<String>>,
    counted: Mutex<Counted>,
    traffic: Traffic,
    /// Second tries that the retry budget did not allow.
    pub retries_refused: AtomicU64,
    /// Requests that a second backend was asked for while the first had not answered.
    pub hedges: AtomicU64,
    /// Requests that were refused because too many waited.
    pub shed: AtomicU64,
}

impl Metrics {
    /// Says which models there are; at the start, and after each reading of the file. What was counted
    /// of a model that is gone stays.
    pub fn know<'a>(&self, models: impl Iterator<Item = &'a str>) {
        let mut known = self.models.write().unwrap_or_else(PoisonError::into_inner);
        *known = models.map(str::to_owned).collect();
    }

    /// Counts a request that is over.
    pub fn ended(&self, record: &Record) {
        let is_known = {
            let known = self.models.read().unwrap_or_else(PoisonError::into_inner);
            known.contains(&record.model)
        };
        let model = if is_known { record.model.as_str() } else { "" };
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).add(model, record);
        self.traffic.add(record);
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Everything, in Prometheus' text format.
    pub fn page(&self, gauges: &Gauges<'_>) -> String {
        let mut page = Page::new();
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).write(&mut page);
        for (name, help, count) in [
            (
                "fungible_gateway_retries_refused_total",
                "further tries that the retry budget did not allow",
                &self.retries_refused,
            ),
            (
                "fungible_gateway_hedges_total",
                "requests that a second backend was asked for before the first had answered",
                &self.hedges,
            ),
            ("fungible_gateway_shed_total", "requests refused because too many waited", &self.shed),
        ] {
            page.value(Kind::Counter, name, help, "", count.load(Ordering::Relaxed));
        }
        gauges.write(&mut page);
        let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
        page.value(Kind::Gauge, "fungible_gateway_info", "the program's version", &version, 1);
        page.into_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Money;
    use crate::record::Outcome;

    fn record(model: &str, pool: &str) -> Record {
        Record {
            tenant: "acme".to_owned(),
            model: model.to_owned(),
            pool: pool.to_owned(),
            status: 200,
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 5,
            duration_milliseconds: 300,
            first_byte_milliseconds: Some(100),
            attempts: 2,
            continuations: 1,
            cost: Money::from_dollars(0.25),
            saved: Money::from_dollars(0.5),
            energy_joules: Some(12.5),
            ..Record::default()
        }
    }

    /// Every line that is no comment, without `fungible_gateway_`.
    fn lines(metrics: &Metrics, gauges: &Gauges<'_>) -> Vec<String> {
        let page = metrics.page(gauges);
        let values = page.lines().filter(|line| !line.starts_with('#'));
        values.map(|line| line.trim_start_matches("fungible_gateway_").to_owned()).collect()
    }

    #[test]
    fn what_ended_is_counted_by_model_and_pool() {
        let metrics = Metrics::default();
        metrics.know(["chat"].into_iter());
        metrics.ended(&record("chat", "tpu"));
        metrics.ended(&record("chat", "tpu"));
        metrics.ended(&Record { outcome: Outcome::Refused, status: 429, ..record("chat", "") });
        let backends =
            vec![BackendGauge { pool: "tpu", backend: "a:1", state: "open", in_flight: 3 }];
        let gauges = Gauges { backends, records_waiting: 7, ..Gauges::default() };
        let lines = lines(&metrics, &gauges);
        for line in [
            r#"requests_total{model="chat",pool="tpu",outcome="complete",status="200"} 2"#,
            r#"requests_total{model="chat",pool="",outcome="refused",status="429"} 1"#,
            r#"tokens_total{model="chat",pool="tpu",kind="prompt"} 20"#,
            r#"tokens_total{model="chat",pool="tpu",kind="cached"} 8"#,
            r#"tokens_total{model="chat",pool="tpu",kind="completion"} 10"#,
            r#"cost_usd_total{model="chat",pool="tpu",tenant="acme"} 0.5"#,
            r#"saved_usd_total{model="chat",pool="tpu"} 1"#,
            r#"energy_joules_total{model="chat",pool="tpu"} 25"#,
            r#"attempts_total{model="chat",pool="tpu"} 4"#,
            r#"continuations_total{model="chat",pool="tpu"} 2"#,
            r#"first_byte_seconds_bucket{model="chat",pool="tpu",le="0.05"} 0"#,
            r#"first_byte_seconds_bucket{model="chat",pool="tpu",le="0.1"} 2"#,
            r#"duration_seconds_count{model="chat",pool="tpu"} 2"#,
            r#"backend_state{pool="tpu",backend="a:1",state="open"} 1"#,
            r#"backend_state{pool="tpu",backend="a:1",state="well"} 0"#,
            r#"in_flight{pool="tpu",backend="a:1"} 3"#,
            "records_waiting 7",
            "shed_total 0",
        ] {
            assert!(lines.iter().any(|one| one == line), "{line} in {lines:#?}");
        }
    }

    #[test]
    fn clients_cannot_make_lines() {
        let metrics = Metrics::default();
        metrics.know(["chat"].into_iter());
        metrics.ended(&record("chat", "tpu"));
        metrics.ended(&record("unknown", ""));
        let before = lines(&metrics, &Gauges::default()).len();
        for number in 0..5000_u16 {
            metrics.ended(&record(&format!("made-up-{number}\"}} 1\n"), ""));
            metrics.ended(&Record { status: 6000 + number, ..record("unknown", "") });
        }
        // One more: of the statuses that there are not.
        assert_eq!(lines(&metrics, &Gauges::default()).len(), before + 1);
        for number in 0..5000 {
            let tenant = format!("tenant-{number}");
            metrics.ended(&Record { tenant, ..record("chat", "tpu") });
        }
        let costs = lines(&metrics, &Gauges::default())
            .iter()
            .filter(|line| line.starts_with("cost_usd_total{model=\"chat\""))
            .count();
        assert_eq!(costs, 1001);
    }
}
