//! The gateway at a glance: is anything wrong, what was spent today, which models are served.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::usage;
use crate::config::{Database, Policy};
use crate::metrics::{BackendGauge, Gauges};
use crate::pools::PoolView;
use crate::shared::Shared;

/// Today's sums are asked of the database so often, however many look.
const TODAY_AGE: Duration = Duration::from_secs(15);

pub(super) struct Overview {
    begun: Instant,
    today: tokio::sync::Mutex<Option<(Instant, Value)>>,
    /// Why the config was not taken when it was last read.
    config_error: Mutex<Option<String>>,
}

impl Overview {
    pub fn new() -> Overview {
        Overview {
            begun: Instant::now(),
            today: tokio::sync::Mutex::default(),
            config_error: Mutex::default(),
        }
    }

    pub fn reloaded(&self, error: Option<String>) {
        *self.config_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub async fn show(&self, shared: &Shared) -> Value {
        let config = shared.config();
        let meter = shared.meter();
        let kind = match config.database {
            Database::Sqlite(_) => "SQLite",
            Database::Postgres(_) => "PostgreSQL",
        };
        let error = self.config_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "up_seconds": self.begun.elapsed().as_secs_f64(),
            "waiting": shared.admission.waiting(),
            "database": {
                "kind": kind,
                "is_away": meter.is_away(),
                "records_waiting": meter.waiting(),
                "records_max": config.limits.records_max,
            },
            "today": self.today(shared).await,
            "models": models(shared),
            "config_error": error,
        })
    }

    /// The sums of today; those of before while the database is away, or nothing.
    async fn today(&self, shared: &Shared) -> Value {
        let mut known = self.today.lock().await;
        match &*known {
            Some((at, sums)) if at.elapsed() < TODAY_AGE => return sums.clone(),
            _ => {}
        }
        let old = known.take().map_or(Value::Null, |(_, sums)| sums);
        let sums = usage::today(&shared.ledger).await.unwrap_or(old);
        *known = Some((Instant::now(), sums.clone()));
        sums
    }
}

/// The models, with how many of their backends are well.
fn models(shared: &Shared) -> Vec<Value> {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let models = shared.pools.models();
    let model = models.iter().map(|model| {
        let (well, all) = shared.pools.well(&model.name).unwrap_or_default();
        let pools: Vec<&str> = model.pools.iter().map(|of| of.pool.as_str()).collect();
        let policy = match model.policy {
            Policy::Cheapest => "cheapest",
            Policy::Fastest => "fastest",
            Policy::Affinity => "affinity",
            Policy::Weighted => "weighted",
            Policy::Ordered => "ordered",
        };
        json!({
            "name": model.name,
            "pools": pools,
            "policy": policy,
            "ttft_seconds": seconds(model.ttft),
            "tpot_seconds": seconds(model.tpot),
            "well": well,
            "backends": all,
        })
    });
    model.collect()
}

/// What is so at the moment, for the metrics.
pub(super) fn gauges<'a>(shared: &'a Shared, pools: &'a [PoolView]) -> Gauges<'a> {
    let backends = pools.iter().flat_map(|pool| {
        pool.backends.iter().map(|backend| BackendGauge {
            pool: &pool.name,
            backend: &backend.name,
            state: backend.state,
            in_flight: u64::from(backend.in_flight),
        })
    });
    Gauges {
        backends: backends.collect(),
        mirrors: shared.pools.mirrors(),
        canaries: shared.pools.canaries(),
        records_waiting: shared.meter().waiting(),
        waiting: shared.admission.waiting(),
        spans: shared.tracer.get().map(|tracer| &*tracer.counts),
    }
}
