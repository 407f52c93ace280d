//! What either database can do, in one place. Says nothing of how.

use std::sync::Arc;

use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::{Change, LedgerError, OpenDatabase};
use crate::calendar::Day;
use crate::money::Money;
use crate::record::Record;
use crate::tenants::{StoredKey, Tenant};
use crate::usage::{RecordQuery, UsageQuery, UsageRow};

#[derive(Clone)]
pub(crate) enum Store {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

/// Everything about tenants, as of one moment.
pub(crate) struct StoredTenants {
    /// Grows with every change.
    pub(crate) version: i64,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) keys: Vec<StoredKey>,
    pub(crate) spent: Vec<Spent>,
}

/// What the records of a tenant's day cost.
pub(crate) struct Spent {
    pub(crate) tenant: String,
    pub(crate) day: Day,
    pub(crate) cost: Money,
}

impl Store {
    pub(crate) async fn open(database: OpenDatabase) -> Result<Store, LedgerError> {
        match database {
            OpenDatabase::Sqlite(path) => {
                let store = work(move || SqliteStore::open(path)).await?;
                Ok(Store::Sqlite(Arc::new(store)))
            }
            OpenDatabase::Postgres(address) => {
                Ok(Store::Postgres(Arc::new(PostgresStore::open(&address).await?)))
            }
        }
    }

    pub(crate) async fn version(&self) -> Result<i64, LedgerError> {
        match self {
            Store::Sqlite(store) => with(store, |store| store.version()).await,
            Store::Postgres(store) => store.version().await,
        }
    }

    pub(crate) async fn tenants(&self) -> Result<StoredTenants, LedgerError> {
        match self {
            Store::Sqlite(store) => with(store, |store| store.tenants()).await,
            Store::Postgres(store) => store.tenants().await,
        }
    }

    /// Whether it was done: not if what it stands on is gone, or something of that name is there.
    pub(crate) async fn change(&self, change: Change) -> Result<bool, LedgerError> {
        match self {
            Store::Sqlite(store) => with(store, move |store| store.change(&change)).await,
            Store::Postgres(store) => store.change(&change).await,
        }
    }

    pub(crate) async fn usage(&self, query: UsageQuery) -> Result<Vec<UsageRow>, LedgerError> {
        match self {
            Store::Sqlite(store) => with(store, move |store| store.usage(&query)).await,
            Store::Postgres(store) => store.usage(&query).await,
        }
    }

    pub(crate) async fn records(
        &self,
        query: RecordQuery,
        count: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        match self {
            Store::Sqlite(store) => with(store, move |store| store.records(&query, count)).await,
            Store::Postgres(store) => store.records(&query, count).await,
        }
    }
}

async fn with<T: Send + 'static>(
    store: &Arc<SqliteStore>,
    ask: impl FnOnce(&SqliteStore) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    let store = Arc::clone(store);
    work(move || ask(&store)).await
}

/// SQLite reads files, which no task may wait for.
async fn work<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LedgerError::Ended))
}
