//! What stands behind the gateway at run time: pools, their backends, how they are.
//!
//! Changes with the config while it runs: what stays keeps what is known of it, what went takes no
//! new request. Which backend a request goes to is decided in `route.rs`.

pub(crate) mod backend;
mod breaker;
mod client;
mod feed;
mod health;
pub(crate) mod latency;
pub(crate) mod lease;
mod pool;
pub mod price;
pub mod probe;
mod rounds;
mod tls;
mod traffic;
mod view;
pub(crate) mod vitals;
mod waiting;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::backend::Backend;
pub use self::client::{ClientError, SendError};
pub use self::lease::{Fault, Lease, Served};
pub use self::pool::Pool;
pub use self::tls::BackendTlsError;
pub use self::view::{BackendView, PoolView};
use self::waiting::Waiting;
use crate::config::{Config, ModelConfig, PriceFeed, nearest};
use crate::route::canary::CanaryTrial;
use crate::route::entry::{Entry, Member, OnTrial};
use crate::route::mirror::MirrorTrial;
pub use crate::route::{CanaryView, MirrorView, Route, RouteAsk, RouteError};
use crate::secrets::Secrets;

/// A model as the config has it, and as `Route::model` tells it.
pub type Model = ModelConfig;

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    #[error("the backend {backend} of the pool {pool} cannot be used")]
    Backend {
        pool: String,
        backend: String,
        #[source]
        source: Box<ClientError>,
    },
    #[error("the model {model} names the pool {pool}, which there is not")]
    UnknownPool { model: String, pool: String },
}

pub struct Pools {
    table: watch::Sender<Arc<Table>>,
    /// One change at a time.
    changing: Mutex<()>,
    secrets: Arc<Secrets>,
    waiting: Arc<Waiting>,
}

/// What looks after pools in the background.
pub struct PoolTasks {
    /// Stopped when dropped.
    _tasks: JoinSet<()>,
}

/// One state of the config at run time.
#[derive(Default)]
pub(crate) struct Table {
    pools: Vec<Arc<Pool>>,
    entries: Vec<Arc<Entry>>,
    prices: Option<PriceFeed>,
    by_name: HashMap<String, usize>,
}

impl Table {
    pub(crate) fn entry(&self, model: &str) -> Option<&Arc<Entry>> {
        self.by_name.get(model).and_then(|&index| self.entries.get(index))
    }

    fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.name() == name)
    }

    fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.pools.iter().flat_map(|pool| pool.backends())
    }
}

impl Pools {
    /// Starts no task and connects to nobody.
    ///
    /// # Errors
    /// An address, authority or certificate of a backend is unusable.
    pub fn new(config: &Config, secrets: &Arc<Secrets>) -> Result<Arc<Pools>, PoolsError> {
        let pools = Pools {
            table: watch::Sender::default(),
            changing: Mutex::default(),
            secrets: Arc::clone(secrets),
            waiting: Arc::default(),
        };
        pools.reload(config)?;
        Ok(Arc::new(pools))
    }

    /// Begins to ask backends how they are, and to look after prices. Ends when the result is dropped.
    pub fn start(self: &Arc<Pools>) -> PoolTasks {
        let mut tasks = JoinSet::new();
        tasks.spawn(rounds::probe_all(Arc::clone(self)));
        tasks.spawn(feed::follow(Arc::clone(self)));
        PoolTasks { _tasks: tasks }
    }

    /// Takes no new requests there, or does so again; returns whether there is such a backend.
    pub fn drain(&self, backend: &str, is_drained: bool) -> bool {
        let table = self.table();
        let mut is_known = false;
        for backend in table.backends().filter(|one| one.name() == backend) {
            is_known = true;
            if backend.vitals().drain(is_drained) {
                let (backend, is_drained) = (backend.name(), is_drained);
                tracing::info!(target: "fungible::gateway", backend, is_drained, "by an operator");
            }
            backend.offer();
        }
        is_known
    }

    /// For the page and the metrics, in the order of the config.
    pub fn view(&self) -> Vec<PoolView> {
        view::pools(&self.table())
    }

    /// Whether a model has a backend that is well: its number, and that of all its backends.
    pub fn well(&self, model: &str) -> Option<(usize, usize)> {
        let table = self.table();
        let entry = table.entry(model)?;
        let now = Instant::now();
        let backends = entry.members.iter().flat_map(|member| member.pool.backends());
        Some(backends.fold((0, 0), |(well, all), backend| {
            (well + usize::from(backend.vitals().is_well(now)), all + 1)
        }))
    }

    /// Takes a changed config. Pools, backends and models that stay keep what is known of them and
    /// their connections; removed backends finish what is under way.
    ///
    /// # Errors
    /// As `new`; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), PoolsError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table();
        let after = Arc::new(self.build(config, &before)?);
        self.table.send_replace(Arc::clone(&after));
        for backend in before.backends() {
            let id = backend.vitals().id;
            if !after.backends().any(|stays| stays.vitals().id == id) {
                backend.vitals().remove();
            }
        }
        self.waiting.wake_all();
        Ok(())
    }

    fn build(&self, config: &Config, before: &Table) -> Result<Table, PoolsError> {
        let mut table = Table { prices: config.prices.clone(), ..Table::default() };
        for pool in &config.pools {
            let known = before.pool(&pool.name);
            let mut backends = Vec::with_capacity(pool.backends.len());
            for backend in &pool.backends {
                let same = known.and_then(|known| {
                    known.backends().iter().find(|known| known.name() == backend.name)
                });
                let (secrets, waiting) = (&self.secrets, &self.waiting);
                let built =
                    Backend::new(backend, &pool.breaker, &pool.health, secrets, waiting, same)
                        .map_err(|source| PoolsError::Backend {
                            pool: pool.name.clone(),
                            backend: backend.name.clone(),
                            source: Box::new(source),
                        })?;
                backends.push(Arc::new(built));
            }
            let meter = known.map_or_else(Arc::default, |known| Arc::clone(known.meter()));
            table.pools.push(Arc::new(Pool::new(pool, backends, meter)));
        }
        for model in &config.models {
            let member = |name: &str, model_name: &str, weight: f64| {
                let pool = table.pool(name).ok_or_else(|| PoolsError::UnknownPool {
                    model: model.name.clone(),
                    pool: name.to_owned(),
                })?;
                Ok(Member { pool: Arc::clone(pool), model_name: Arc::from(model_name), weight })
            };
            let members = model.pools.iter();
            let members = members
                .map(|of| member(&of.pool, &of.model, of.weight))
                .collect::<Result<Vec<Member>, PoolsError>>()?;
            let known = before.entry(&model.name);
            // As long as what the config says of it stays the same, so does what was found.
            let mirror = match &model.mirror {
                None => None,
                Some(config) => {
                    let trial = known.and_then(|known| known.mirror.as_ref()).map(|it| &it.trial);
                    let trial = trial.filter(|trial| trial.config() == config).cloned();
                    let fresh = || Arc::new(MirrorTrial::new(&model.name, config));
                    let member = member(&config.pool, &config.model, 0.0)?;
                    Some(OnTrial { member, trial: trial.unwrap_or_else(fresh) })
                }
            };
            let canary = match &model.canary {
                None => None,
                Some(config) => {
                    let trial = known.and_then(|known| known.canary.as_ref()).map(|it| &it.trial);
                    let trial = trial.filter(|trial| trial.config() == config).cloned();
                    let fresh = || Arc::new(CanaryTrial::new(&model.name, config));
                    let member = member(&config.pool, &config.model, 0.0)?;
                    Some(OnTrial { member, trial: trial.unwrap_or_else(fresh) })
                }
            };
            let entry = Entry {
                mirror,
                canary,
                model: Arc::new(model.clone()),
                members,
                memory: known.map_or_else(Arc::default, |known| Arc::clone(&known.memory)),
            };
            table.by_name.insert(model.name.clone(), table.entries.len());
            table.entries.push(Arc::new(entry));
        }
        Ok(table)
    }

    /// Where a request may go.
    ///
    /// # Errors
    /// There is no such model, or none of its pools is allowed. That all are busy or ill is no error:
    /// `Route::wait` may help.
    pub fn route(self: &Arc<Pools>, ask: &RouteAsk<'_>) -> Result<Route, RouteError> {
        let table = self.table();
        let Some(entry) = table.entry(ask.model).cloned() else {
            let known = table.entries.iter().map(|entry| entry.model.name.as_str());
            // What a client sends may be long; no name of a model is.
            let short = ask.model.len() <= 200;
            let nearest = short.then(|| nearest(ask.model, known)).flatten().map(str::to_owned);
            return Err(RouteError::UnknownModel { asked: ask.model.to_owned(), nearest });
        };
        Route::new(Arc::clone(self), table, entry, ask)
    }

    /// What is known of the models' mirrors.
    pub fn mirrors(&self) -> Vec<MirrorView> {
        let table = self.table();
        let mirrors = table.entries.iter().filter_map(|entry| {
            let mirror = entry.mirror.as_ref()?;
            Some(mirror.trial.view(entry.model.canary.as_ref()))
        });
        mirrors.collect()
    }

    /// What is known of the models' canaries.
    pub fn canaries(&self) -> Vec<CanaryView> {
        let (table, now) = (self.table(), Instant::now());
        let canaries = table.entries.iter().filter_map(|entry| {
            let canary = entry.canary.as_ref()?;
            let mut backends = canary.member.pool.backends().iter();
            Some(canary.trial.view(backends.any(|backend| backend.vitals().is_well(now))))
        });
        canaries.collect()
    }

    /// Gives a model's canary its share again and judges it anew; returns whether there is one.
    pub fn try_again(&self, model: &str) -> bool {
        let table = self.table();
        let canary = table.entry(model).and_then(|entry| entry.canary.as_ref());
        canary.inspect(|canary| canary.trial.try_again()).is_some()
    }

    /// In the order of the config.
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.table().entries.iter().map(|entry| Arc::clone(&entry.model)).collect()
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    fn tables(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }
}

#[cfg(test)]
mod tests;
