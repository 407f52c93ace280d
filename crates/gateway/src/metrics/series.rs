//! Counters and histograms by model and pool.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use web::exposition::{Histogram, Kind, Page, labels};

use crate::money::Money;
use crate::record::Record;

/// Further tenants share a line without a name, so that a page stays of a size that can be fetched.
const TENANTS_MAX: usize = 1000;

/// Seconds: from a gateway's own answers to those of a model that thinks for minutes.
const FIRST_BYTE: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0,
    10.0, 30.0, 60.0,
];
const DURATION: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0,
];

/// What was counted. An empty name of a pool is of requests that none answered.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Few enough to look at each; found without making texts.
    series: Vec<Series>,
    tenants: HashSet<String>,
}

#[derive(Debug)]
struct Series {
    model: String,
    pool: String,
    requests: BTreeMap<(&'static str, u16), u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    cost: HashMap<String, Money>,
    saved: Money,
    energy_joules: f64,
    attempts: u64,
    continuations: u64,
    first_byte: Histogram,
    duration: Histogram,
}

impl Counted {
    /// Counts a request; `model` is the record's if that may stand in a label.
    pub fn add(&mut self, model: &str, record: &Record) {
        let is_named = self.tenants.contains(&record.tenant) || {
            let has_room = self.tenants.len() < TENANTS_MAX;
            has_room && self.tenants.insert(record.tenant.clone())
        };
        let tenant = if is_named { record.tenant.as_str() } else { "" };
        let series = self.series_of(model, &record.pool);
        // Who answers with a status that there is not shall not make a line of it.
        let status = if (100..600).contains(&record.status) { record.status } else { 0 };
        *series.requests.entry((record.outcome.name(), status)).or_default() += 1;
        series.prompt_tokens += record.prompt_tokens;
        series.cached_tokens += record.cached_tokens;
        series.completion_tokens += record.completion_tokens;
        match series.cost.get_mut(tenant) {
            Some(cost) => *cost += record.cost,
            None => {
                series.cost.insert(tenant.to_owned(), record.cost);
            }
        }
        series.saved += record.saved;
        series.energy_joules += record.energy_joules.unwrap_or(0.0);
        series.attempts += u64::from(record.attempts);
        series.continuations += u64::from(record.continuations);
        if let Some(milliseconds) = record.first_byte_milliseconds {
            series.first_byte.observe_time(Duration::from_millis(milliseconds));
        }
        series.duration.observe_time(Duration::from_millis(record.duration_milliseconds));
    }

    fn series_of(&mut self, model: &str, pool: &str) -> &mut Series {
        let found = self.series.iter().position(|one| one.model == model && one.pool == pool);
        let place = found.unwrap_or_else(|| {
            self.series.push(Series::new(model, pool));
            self.series.len() - 1
        });
        &mut self.series[place]
    }

    pub fn write(&self, page: &mut Page) {
        let name = "fungible_gateway_requests_total";
        page.head(name, "requests that are over", Kind::Counter);
        for one in &self.series {
            for ((outcome, status), count) in &one.requests {
                let more = [("outcome", *outcome), ("status", &status.to_string())];
                page.line(name, &one.labels(&more), count);
            }
        }
        let name = "fungible_gateway_tokens_total";
        let help = "tokens: of prompts (cached ones among them), cached, of answers";
        page.head(name, help, Kind::Counter);
        for one in &self.series {
            for (kind, count) in [
                ("prompt", one.prompt_tokens),
                ("cached", one.cached_tokens),
                ("completion", one.completion_tokens),
            ] {
                page.line(name, &one.labels(&[("kind", kind)]), count);
            }
        }
        let name = "fungible_gateway_cost_usd_total";
        page.head(name, "what requests cost, in US dollars", Kind::Counter);
        for one in &self.series {
            for (tenant, cost) in &one.cost {
                page.line(name, &one.labels(&[("tenant", tenant)]), cost.dollars());
            }
        }
        type Value = fn(&Series) -> f64;
        let sums: [(&str, &str, Value); 4] = [
            (
                "fungible_gateway_saved_usd_total",
                "what the dearest healthy pool would have cost, less what was paid, in US dollars",
                |one| one.saved.dollars(),
            ),
            (
                "fungible_gateway_energy_joules_total",
                "energy, estimated from the pools' power",
                |one| one.energy_joules,
            ),
            ("fungible_gateway_attempts_total", "backends that were asked", |one| {
                one.attempts as f64
            }),
            (
                "fungible_gateway_continuations_total",
                "times that an answer went on at another backend after it had begun",
                |one| one.continuations as f64,
            ),
        ];
        for (name, help, value) in sums {
            page.head(name, help, Kind::Counter);
            for one in &self.series {
                page.line(name, &one.labels(&[]), value(one));
            }
        }
        type Spread = fn(&Series) -> &Histogram;
        let spreads: [(&str, &str, Spread); 2] = [
            (
                "fungible_gateway_first_byte_seconds",
                "from a request's arrival to the first byte of its answer's body",
                |one| &one.first_byte,
            ),
            ("fungible_gateway_duration_seconds", "from a request's arrival to its end", |one| {
                &one.duration
            }),
        ];
        for (name, help, histogram) in spreads {
            page.head(name, help, Kind::Histogram);
            for one in &self.series {
                histogram(one).write(page, name, &one.labels(&[]));
            }
        }
    }
}

impl Series {
    fn new(model: &str, pool: &str) -> Series {
        Series {
            model: model.to_owned(),
            pool: pool.to_owned(),
            requests: BTreeMap::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            cost: HashMap::new(),
            saved: Money::ZERO,
            energy_joules: 0.0,
            attempts: 0,
            continuations: 0,
            first_byte: Histogram::new(FIRST_BYTE),
            duration: Histogram::new(DURATION),
        }
    }

    fn labels(&self, more: &[(&str, &str)]) -> String {
        let mut pairs = vec![("model", self.model.as_str()), ("pool", self.pool.as_str())];
        pairs.extend_from_slice(more);
        labels(&pairs)
    }
}
