//! What all requests share.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use web::traces::Tracer;

use crate::admission::Admission;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::pools::Pools;
use crate::relay::Budgets;
use crate::tenants::{Known, Limits, Tenant, Tenants};

/// A gateway that is open.
pub struct Shared {
    config: RwLock<Arc<Config>>,
    pub pools: Arc<Pools>,
    pub admission: Admission,
    pub metrics: Arc<Metrics>,
    pub ledger: Ledger,
    pub(crate) budgets: Budgets,
    /// If spans are collected; set before the first request.
    pub tracer: OnceLock<Tracer>,
}

/// Who asks without a key, where that is allowed.
const ANONYMOUS: &str = "anonymous";

impl Shared {
    pub fn new(config: Config, pools: Arc<Pools>, ledger: Ledger, metrics: Arc<Metrics>) -> Shared {
        let limits = config.limits;
        metrics.know(config.models.iter().map(|model| model.name.as_str()));
        Shared {
            pools,
            admission: Admission::new(limits.in_flight_max, limits.waiting_max, limits.wait_max),
            metrics,
            ledger,
            budgets: Budgets::new(),
            tracer: OnceLock::new(),
            config: RwLock::new(Arc::new(config)),
        }
    }

    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What requests from now on go by.
    pub fn set_config(&self, config: Config) {
        let limits = config.limits;
        self.metrics.know(config.models.iter().map(|model| model.name.as_str()));
        self.admission.change(limits.in_flight_max, limits.waiting_max, limits.wait_max);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    pub fn tenants(&self) -> &Arc<Tenants> {
        self.ledger.tenants()
    }

    pub fn meter(&self) -> &Meter {
        self.ledger.meter()
    }

    /// The tenant of requests without a key: the one that was given limits under this name, else one
    /// without any.
    pub fn anonymous(&self) -> Option<Known> {
        if !self.config().anonymous {
            return None;
        }
        let tenant = self.tenants().named(ANONYMOUS).unwrap_or_else(|| {
            Arc::new(Tenant {
                name: ANONYMOUS.to_owned(),
                models: Vec::new(),
                priority: 0,
                limits: Limits::default(),
                budgets: Vec::new(),
                pools: Vec::new(),
                logs_prompts: false,
                is_suspended: false,
            })
        });
        Some(Known { tenant, key: Arc::from("") })
    }
}
