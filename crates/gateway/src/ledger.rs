//! The database, and everything that stands on it: tenants with their keys, limits and budgets, and
//! the records of what they asked for.
//!
//! Two kinds: a SQLite file for one gateway, PostgreSQL for several that share limits and budgets.
//! What both can do is [`store::Store`]; nothing above it knows which one it is.

mod change;
pub(crate) mod postgres;
pub(crate) mod sqlite;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use crate::meter::Meter;
use crate::record::Record;
use crate::tenants::Tenants;
use crate::usage::{RecordQuery, UsageQuery, UsageRow};

pub(crate) use change::{Change, Value};
pub(crate) use store::{Spent, Store, StoredTenants};

/// Where the database is. Not shown by `Debug`, since an address may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub enum OpenDatabase {
    Sqlite(PathBuf),
    /// `postgres://user:password@host/name`.
    Postgres(String),
}

impl OpenDatabase {
    /// Of what is written after `--database`: an address, or the path of a file.
    pub fn parse(text: &str) -> OpenDatabase {
        match text.starts_with("postgres://") || text.starts_with("postgresql://") {
            true => OpenDatabase::Postgres(text.to_string()),
            false => OpenDatabase::Sqlite(PathBuf::from(text)),
        }
    }
}

impl std::fmt::Debug for OpenDatabase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenDatabase::Sqlite(path) => formatter.debug_tuple("Sqlite").field(path).finish(),
            OpenDatabase::Postgres(_) => formatter.write_str("Postgres(..)"),
        }
    }
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the database {} cannot be opened; it must be a file that may be written, in a folder that is there", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the database {} cannot be opened", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is a database of another program; name another file", .path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the database was written by a newer version (schema {found}, this one knows {known}); use that version"
    )]
    Newer { found: i64, known: i64 },
    #[error(
        "another gateway works with {}; a SQLite file serves one, use PostgreSQL for several", .path.display()
    )]
    InUse { path: PathBuf },
    #[error("the database {} is not there any more; put it back", .path.display())]
    Gone { path: PathBuf },
    #[error("the address of the database is none; write postgres://user:password@host/name")]
    Address {
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("connections to PostgreSQL cannot be made safe")]
    Tls {
        #[source]
        source: rustls::Error,
    },
    #[error("PostgreSQL cannot be used")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("PostgreSQL did not answer within {seconds} s")]
    Silent { seconds: u64 },
    #[error(
        "PostgreSQL answered without the row that was asked for; its tables were changed by hand"
    )]
    Empty,
    #[error("`{outcome}` is no outcome of a request; the records were changed by hand")]
    Outcome { outcome: String },
    #[error("the operating system gives no random bits")]
    Random,
    #[error("the database cannot be used")]
    Sqlite(#[from] rusqlite::Error),
    #[error("what the database says of the tenant `{tenant}` cannot be read")]
    Settings {
        tenant: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("work on the database was given up, since the program ends")]
    Ended,
}

/// The open database of a gateway.
pub struct Ledger {
    store: Store,
    tenants: Arc<Tenants>,
    meter: Meter,
}

impl Ledger {
    /// Opens it for a gateway, and creates or updates its tables. Records that an earlier process
    /// could not write are written now. `records_max`: how many may wait in memory.
    ///
    /// # Errors
    /// If it cannot be reached, is not ours, or (SQLite) another gateway works with it.
    pub async fn open(database: OpenDatabase, records_max: usize) -> Result<Ledger, LedgerError> {
        let store = Store::open(database).await?;
        let meter = Meter::start(&store, records_max).await?;
        let ledger = Ledger::on(store, meter).await?;
        if let Store::Postgres(store) = &ledger.store {
            ledger.tenants.share(store.hasty(), ledger.meter.clone()).await?;
        }
        Ok(ledger)
    }

    /// Opens it beside a gateway that may be running: to look things up and to change tenants. Its
    /// meter takes no records.
    ///
    /// # Errors
    /// If it cannot be reached or is not ours.
    pub async fn open_beside(database: OpenDatabase) -> Result<Ledger, LedgerError> {
        let store = Store::open(database).await?;
        Ledger::on(store, Meter::closed()).await
    }

    async fn on(store: Store, meter: Meter) -> Result<Ledger, LedgerError> {
        let tenants = Tenants::load(store.clone()).await?;
        Ok(Ledger { store, tenants, meter })
    }

    pub fn tenants(&self) -> &Arc<Tenants> {
        &self.tenants
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// What was asked for, in groups; sorted by what they are grouped by.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, LedgerError> {
        self.store.usage(query.clone()).await
    }

    /// The next records of a query, by time, at most `count`; none when there are no more.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn records(
        &self,
        query: &RecordQuery,
        count: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        self.store.records(query.clone(), count).await
    }

    /// Ends it once all records are written and on the disk, or kept beside the database if that is
    /// away.
    pub async fn close(&self) {
        self.meter.close().await;
        self.tenants.close().await;
    }
}
