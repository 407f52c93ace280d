//! A gateway from its config to its end: opened, listening, reloaded, drained.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use web::connections::{self, ConnectionLimits};
use web::flight::Flights;
use web::tls::TlsAcceptor;
use web::tls::{self, TlsError};
use web::traces::{Exporter, RequestSpan, Tracer};
pub use web::traces::{TraceError, TraceSettings};

use crate::admin::Admin;
use crate::config::{Config, ConfigError, Database};
use crate::front::Front;
use crate::ledger::{Ledger, LedgerError, OpenDatabase};
use crate::metrics::Metrics;
use crate::pools::probe::Probe;
use crate::pools::{Pools, PoolsError};
use crate::secrets::Secrets;
use crate::shared::Shared;

const ADMIN_CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(75);
const WRITE: Duration = Duration::from_secs(30);
const SECRETS_AGE: Duration = Duration::from_secs(5);

/// Why a gateway cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Pools(#[from] PoolsError),
    #[error("TLS cannot be offered")]
    Tls(#[from] TlsError),
    #[error(
        "the address of the database is empty or cannot be read; look at `database` in the config"
    )]
    DatabaseAddress,
}

/// An open gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    admin_tls: Option<TlsAcceptor>,
    secrets: Arc<Secrets>,
    traces: Option<(TraceSettings, Receiver<RequestSpan>)>,
}

/// Reads the config of a running gateway again.
#[derive(Clone)]
pub struct Reloader {
    shared: Arc<Shared>,
}

/// What a new config asks for that a running gateway cannot do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose change takes effect with the next start.
    pub needs_restart: Vec<&'static str>,
}

impl Gateway {
    /// Opens the database and gets ready to reach the backends. Nothing is asked of them yet.
    ///
    /// # Errors
    /// A database that cannot be opened, certificates or secrets that cannot be read.
    pub async fn open(config: Config) -> Result<Gateway, OpenError> {
        let secrets = Arc::new(Secrets::new());
        let database = match &config.database {
            Database::Sqlite(path) => OpenDatabase::Sqlite(path.clone()),
            Database::Postgres(secret) => {
                let url = secrets.get(secret).ok_or(OpenError::DatabaseAddress)?;
                OpenDatabase::Postgres(url.to_string())
            }
        };
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let admin_tls = config.admin.as_ref().and_then(|admin| admin.tls.as_ref());
        let admin_tls = admin_tls.map(tls::acceptor).transpose()?;
        let pools = Pools::new(&config, &secrets)?;
        let ledger = Ledger::open(database, config.limits.records_max).await?;
        let shared = Shared::new(config, pools, ledger, Arc::new(Metrics::default()));
        Ok(Gateway { shared: Arc::new(shared), tls, admin_tls, secrets, traces: None })
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends a span for each accepted request there. Only the first call counts.
    pub fn trace_to(&mut self, settings: TraceSettings) {
        let (tracer, spans) = Tracer::new();
        if self.shared.tracer.set(tracer).is_ok() {
            self.traces = Some((settings, spans));
        }
    }

    /// Whether nobody could be answered: there is no tenant, and a key is asked for.
    pub fn has_no_tenants(&self) -> bool {
        self.shared.tenants().list().is_empty() && self.shared.anonymous().is_none()
    }

    pub fn reloader(&self) -> Reloader {
        Reloader { shared: Arc::clone(&self.shared) }
    }

    /// Serves until `shutdown` comes, then drains: new requests are refused, those under way go on for as
    /// long as the config allows. How many were cut off is the result. All records are written before it
    /// returns.
    pub async fn run(
        self,
        listener: TcpListener,
        admin: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        let Gateway { shared, tls, admin_tls, secrets, traces } = self;
        let exporter = traces
            .zip(shared.tracer.get())
            .map(|((settings, spans), tracer)| Exporter::start(settings, tracer, spans));

        let config = shared.config();
        let front = Arc::new(Front::new(Arc::clone(&shared)));
        let limits = ConnectionLimits {
            connections_max: config.limits.connections_max,
            idle: IDLE,
            write: WRITE,
        };
        let flights = Flights::new();
        let (stop, stopped) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(connections::serve(
            listener,
            tls,
            Arc::clone(&front),
            flights.clone(),
            limits,
            stopped.clone(),
        ));
        if let (Some(listener), Some(admin)) = (admin, &config.admin) {
            let reloader = Reloader { shared: Arc::clone(&shared) };
            let reload = Box::new(move || match reloader.reload() {
                Ok(reloaded) => Ok(reloaded.needs_restart),
                Err(error) => Err(error.to_string()),
            });
            let admin =
                Admin::new(Arc::clone(&shared), Arc::clone(&secrets), admin.key.clone(), reload);
            serving.spawn(connections::serve(
                listener,
                admin_tls,
                admin,
                // Who looks on does not keep a gateway from stopping.
                Flights::new(),
                ConnectionLimits { connections_max: ADMIN_CONNECTIONS, ..limits },
                stopped,
            ));
        }
        let pool_tasks = shared.pools.start();
        let refreshing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(SECRETS_AGE).await;
                secrets.refresh();
            }
        });
        shutdown.await;
        front.stop();
        let under_way = *flights.watch().borrow();
        tracing::info!(target: "fungible::gateway", under_way, "draining");
        let _ = timeout(shared.config().limits.drain, flights.none()).await;
        let left = *flights.watch().borrow();
        stop.send_replace(true);
        while serving.join_next().await.is_some() {}
        refreshing.abort();
        drop(pool_tasks);

        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
        shared.ledger.close().await;
        tracing::info!(target: "fungible::gateway", cut_off = left, "stopped");
        left
    }
}

impl Reloader {
    /// Takes the config's file as it is now. What is wrong with it changes nothing.
    ///
    /// # Errors
    /// A config that cannot be read or used.
    pub fn reload(&self) -> Result<Reloaded, OpenError> {
        let old = self.shared.config();
        let new = Config::read(&old.file)?;
        let changed = [
            ("listen", new.listen != old.listen),
            ("tls", new.tls != old.tls),
            ("admin", new.admin != old.admin),
            ("database", new.database != old.database),
            ("limits.connections", new.limits.connections_max != old.limits.connections_max),
            ("limits.records", new.limits.records_max != old.limits.records_max),
        ];
        self.shared.pools.reload(&new)?;
        self.shared.set_config(new);
        let needs_restart = changed.into_iter().filter(|(_, is)| *is).map(|(name, _)| name);
        Ok(Reloaded { needs_restart: needs_restart.collect() })
    }
}

/// Asks every backend of a config once, without opening a database or serving anybody.
///
/// # Errors
/// Certificates or addresses that cannot be used.
pub async fn probe(config: &Config) -> Result<Vec<Probe>, PoolsError> {
    let pools = Pools::new(config, &Arc::new(Secrets::new()))?;
    Ok(pools.probe().await)
}
