//! One pool at run time: its backends, what it does, what its tokens cost now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Backend;
use super::lease::Served;
use super::price;
use super::traffic::{Recent, Traffic};
use super::vitals::Means;
use crate::config::{PoolConfig, Price};
use crate::money::Money;

pub struct Pool {
    config: PoolConfig,
    backends: Vec<Arc<Backend>>,
    meter: Arc<PoolMeter>,
}

/// What outlives a change of the config.
#[derive(Default)]
pub(crate) struct PoolMeter {
    traffic: Mutex<Traffic>,
    fed: RwLock<Option<FedPrice>>,
}

/// A price from the feed, and until when it steers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FedPrice {
    pub(crate) price: Price,
    /// How old it was when it came. With the monotonic clock from then on, a jump of the system's
    /// clock cannot make it young again.
    pub(crate) age: Duration,
    pub(crate) received: Instant,
    pub(crate) age_max: Duration,
}

impl FedPrice {
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.received)
    }

    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.age(now) > self.age_max
    }
}

impl PoolMeter {
    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn served(&self, served: &Served, took: Duration, now: Instant) {
        self.traffic().served(served, took, now);
    }

    pub(crate) fn failed(&self, now: Instant) {
        self.traffic().failed(now);
    }

    pub(crate) fn recent(&self, now: Instant) -> Recent {
        self.traffic().recent(now)
    }

    pub(crate) fn fed(&self) -> Option<FedPrice> {
        *self.fed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn feed(&self, fed: Option<FedPrice>) {
        *self.fed.write().unwrap_or_else(PoisonError::into_inner) = fed;
    }
}

impl Pool {
    pub(super) fn new(
        config: &PoolConfig,
        backends: Vec<Arc<Backend>>,
        meter: Arc<PoolMeter>,
    ) -> Pool {
        Pool { config: config.clone(), backends, meter }
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    pub(crate) fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    pub(crate) fn meter(&self) -> &Arc<PoolMeter> {
        &self.meter
    }

    /// What these tokens cost here now; `cached` is part of `prompt`. Nothing (zero) if the price is
    /// unknown. The formula is at the top of `price.rs`.
    pub fn cost(&self, prompt: u64, cached: u64, completion: u64) -> Money {
        self.known_cost(prompt, cached, completion).unwrap_or(Money::ZERO)
    }

    pub(crate) fn known_cost(&self, prompt: u64, cached: u64, completion: u64) -> Option<Money> {
        let throughput = self.throughput();
        price::cost(&self.price(), self.config.chips, throughput, prompt, cached, completion)
    }

    /// Estimated: the pool's power by its part of the work that it does under load. Nothing if the
    /// power or the throughput is not known.
    pub fn energy_joules(&self, prompt: u64, cached: u64, completion: u64) -> Option<f64> {
        let watts = self.config.watts_per_chip? * f64::from(self.config.chips);
        price::energy(watts, self.throughput(), prompt, cached, completion)
    }

    /// The feed's price while it is young enough, else the config's.
    pub(crate) fn price(&self) -> Price {
        let now = Instant::now();
        match self.meter.fed() {
            Some(fed) if !fed.is_stale(now) => fed.price,
            _ => self.config.price,
        }
    }

    /// Times of its backends that are well, averaged over those of which some are known.
    pub(crate) fn means(&self, now: Instant) -> Means {
        let well = self.backends.iter().map(|backend| backend.vitals());
        let means: Vec<Means> =
            well.filter(|vitals| vitals.is_well(now)).map(|vitals| vitals.means(now)).collect();
        let average = |of: fn(&Means) -> Option<f64>| {
            let (sum, count) = means
                .iter()
                .filter_map(of)
                .fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
            (count > 0.0).then_some(sum / count)
        };
        Means {
            ttft: average(|means| means.ttft),
            tpot: average(|means| means.tpot),
            newest: means.iter().filter_map(|means| means.newest).max(),
        }
    }

    /// Work per second under load.
    pub(crate) fn throughput(&self) -> Option<f64> {
        let measured = self.meter.traffic().sustained(Instant::now());
        match (measured, self.config.tokens_per_second) {
            (Some(measured), Some(told)) => Some(measured.max(told)),
            (measured, told) => measured.or(told),
        }
    }
}
