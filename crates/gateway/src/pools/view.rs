//! What the page and the metrics show of pools.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Table;
use super::backend::Backend;
use super::pool::Pool;
use super::price;
use crate::money::Money;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PoolView {
    pub name: String,
    pub provider: String,
    pub chip: String,
    pub region: String,
    pub chips: u32,
    /// In words.
    pub price: String,
    /// What a token costs now; nothing if that is unknown.
    pub usd_per_million_input: Option<f64>,
    pub usd_per_million_output: Option<f64>,
    /// Of the feed's price; nothing if there is none.
    pub price_age_seconds: Option<f64>,
    /// The feed's price is too old: the config's is used.
    pub is_price_stale: bool,
    /// Means of the last two minutes, as is `share` (of all pools' requests; nothing without any).
    pub requests_per_second: f64,
    pub tokens_per_second: f64,
    pub share: Option<f64>,
    /// Work per second under load, which prices per chip-hour are shared out by.
    pub sustained_tokens_per_second: Option<f64>,
    pub in_flight: u32,
    pub backends: Vec<BackendView>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendView {
    pub name: String,
    pub url: String,
    /// `well`, `ill`, `open`, `half-open` or `draining`.
    pub state: &'static str,
    pub why: String,
    pub in_flight: u32,
    pub concurrency: u32,
    /// Of the last one to two minutes.
    pub ttft_p50_seconds: Option<f64>,
    pub ttft_p99_seconds: Option<f64>,
    pub tpot_p50_seconds: Option<f64>,
    /// Of the last requests that the breaker looks at.
    pub failure_share: Option<f64>,
}

pub(super) fn pools(table: &Table) -> Vec<PoolView> {
    let now = Instant::now();
    let mut views: Vec<PoolView> = table.pools.iter().map(|one| pool(one, now)).collect();
    let all: f64 = views.iter().map(|view| view.requests_per_second).sum();
    for view in &mut views {
        view.share = (all > 0.0).then(|| view.requests_per_second / all);
    }
    views
}

fn pool(pool: &Pool, now: Instant) -> PoolView {
    let config = pool.config();
    let recent = pool.meter().recent(now);
    let fed = pool.meter().fed();
    let backends: Vec<BackendView> = pool.backends().iter().map(|one| backend(one, now)).collect();
    let per_million = |cost: Option<Money>| cost.map(Money::dollars);
    PoolView {
        name: config.name.clone(),
        provider: config.provider.clone(),
        chip: config.chip.clone(),
        region: config.region.clone(),
        chips: config.chips,
        price: price::text(&pool.price()),
        usd_per_million_input: per_million(pool.known_cost(1_000_000, 0, 0)),
        usd_per_million_output: per_million(pool.known_cost(0, 0, 1_000_000)),
        price_age_seconds: fed.map(|fed| fed.age(now).as_secs_f64()),
        is_price_stale: fed.is_some_and(|fed| fed.is_stale(now)),
        requests_per_second: recent.requests_per_second,
        tokens_per_second: recent.tokens_per_second,
        share: None,
        sustained_tokens_per_second: pool.throughput(),
        in_flight: backends.iter().map(|backend| backend.in_flight).sum(),
        backends,
    }
}

fn backend(backend: &Backend, now: Instant) -> BackendView {
    let portrait = backend.vitals().portrait(now);
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    BackendView {
        name: backend.name().to_owned(),
        url: backend.url().to_owned(),
        state: portrait.state,
        why: portrait.why,
        in_flight: portrait.in_flight,
        concurrency: backend.config().concurrency,
        ttft_p50_seconds: seconds(portrait.ttft_p50),
        ttft_p99_seconds: seconds(portrait.ttft_p99),
        tpot_p50_seconds: seconds(portrait.tpot_p50),
        failure_share: portrait.failure_share,
    }
}
