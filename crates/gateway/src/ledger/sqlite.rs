//! SQLite: how its file is opened and brought to the newest schema, and all that is read and written
//! besides the records of requests as they come (those have a connection of their own,
//! `meter/sqlite.rs`).

mod rows;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior, params_from_iter};

use super::change::RAISE_VERSION;
use super::store::{Spent, StoredTenants};
use super::{Change, LedgerError, Value};
use crate::calendar::Day;
use crate::money::Money;
use crate::record::Record;
use crate::tenants::StoredKey;
use crate::usage::{Dialect, RecordQuery, UsageQuery, UsageRow, sql};

pub(crate) use rows::{INSERT_RECORD, record_values};

/// Each brings the schema from its index to the next version; none is ever changed.
const MIGRATIONS: [&str; 1] = [include_str!("sqlite/schema_1.sql")];

/// `fung`, where SQLite's file format has a place for whose file it is.
const APPLICATION: i64 = 0x6675_6e67;

/// How long to wait while another process writes.
const BUSY: Duration = Duration::from_secs(5);

pub(crate) struct SqliteStore {
    path: PathBuf,
    opened: Mutex<Opened>,
}

/// A connection, and which file it is to.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    identity: Identity,
}

/// Of a file, whatever its name: device and number.
type Identity = Option<(u64, u64)>;

impl SqliteStore {
    pub(crate) fn open(path: PathBuf) -> Result<SqliteStore, LedgerError> {
        create(&path)?;
        let mut opened = Opened::connect(&path, BUSY)?;
        migrate(&mut opened.connection, &path)?;
        Ok(SqliteStore { path, opened: Mutex::new(opened) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn version(&self) -> Result<i64, LedgerError> {
        let opened = self.opened()?;
        let mut statement = opened.connection.prepare_cached("SELECT version FROM changes")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    pub(crate) fn tenants(&self) -> Result<StoredTenants, LedgerError> {
        let mut opened = self.opened()?;
        let transaction = opened.connection.transaction()?;
        let version = transaction.query_row("SELECT version FROM changes", [], |row| row.get(0))?;
        let mut tenants = Vec::new();
        let mut statement = transaction.prepare("SELECT name, settings FROM tenants")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (tenant, settings): (String, String) = (row.get(0)?, row.get(1)?);
            tenants.push(
                serde_json::from_str(&settings)
                    .map_err(|source| LedgerError::Settings { tenant, source })?,
            );
        }
        let keys = transaction
            .prepare(
                "SELECT digest, tenant, name, last_four, created_milliseconds, ends_milliseconds \
                 FROM keys ORDER BY created_milliseconds, name",
            )?
            .query_map([], |row| {
                Ok(StoredKey {
                    digest: row.get(0)?,
                    tenant: row.get(1)?,
                    name: row.get(2)?,
                    last_four: row.get(3)?,
                    created_milliseconds: row.get(4)?,
                    ends_milliseconds: row.get(5)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        let spent = transaction
            .prepare("SELECT tenant, day, CAST(cost AS INTEGER) FROM spent")?
            .query_map([], |row| {
                let (day, cost) = (Day(row.get(1)?), Money(row.get(2)?));
                Ok(Spent { tenant: row.get(0)?, day, cost })
            })?
            .collect::<Result<_, _>>()?;
        Ok(StoredTenants { version, tenants, keys, spent })
    }

    pub(crate) fn change(&self, change: &Change) -> Result<bool, LedgerError> {
        let statements = change
            .statements()
            .map_err(|source| LedgerError::Settings { tenant: String::new(), source })?;
        let mut opened = self.opened()?;
        let transaction =
            opened.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for statement in statements {
            let touched =
                transaction.execute(statement.sql, params_from_iter(&statement.values))?;
            if touched == 0 && statement.must_touch {
                return Ok(false);
            }
        }
        transaction.execute(RAISE_VERSION, [])?;
        transaction.commit()?;
        Ok(true)
    }

    pub(crate) fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, LedgerError> {
        let (text, values) = sql::usage(query, Dialect::Sqlite);
        // Its own connection: it may read for a while.
        let opened = Opened::connect(&self.path, BUSY)?;
        let mut statement = opened.connection.prepare(&text)?;
        let rows = statement.query_map(params_from_iter(&values), |row| rows::usage(row, query))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn records(
        &self,
        query: &RecordQuery,
        count: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        let (text, values) = sql::records(query, count);
        let opened = Opened::connect(&self.path, BUSY)?;
        let mut statement = opened.connection.prepare(&text)?;
        let rows = statement.query_map(params_from_iter(&values), rows::record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The connection; a new one if the file was replaced, such as by a backup.
    fn opened(&self) -> Result<MutexGuard<'_, Opened>, LedgerError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.is_current(&self.path) {
            *opened = Opened::connect(&self.path, BUSY)?;
        }
        Ok(opened)
    }
}

impl Opened {
    /// Never makes a file: where one was taken away from a running gateway, an empty one in its place
    /// would know no tenant.
    pub(crate) fn connect(path: &Path, busy: Duration) -> Result<Opened, LedgerError> {
        let unusable = |source| LedgerError::Open { path: path.to_path_buf(), source };
        let identity = identity(path).ok_or_else(|| LedgerError::Gone { path: path.into() })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(unusable)?;
        connection.busy_timeout(busy).map_err(unusable)?;
        // Readers and the one writer do not wait for each other. The answer is the mode that holds.
        connection
            .query_row("PRAGMA journal_mode = wal", [], |row| row.get::<_, String>(0))
            .map_err(unusable)?;
        // Commits of tenants and keys are on the disk when they return.
        connection.pragma_update(None, "synchronous", "full").map_err(unusable)?;
        Ok(Opened { connection, identity })
    }

    /// Whether its file is still the one of that name. Where it was removed or replaced, SQLite
    /// itself would go on writing into what nobody will ever read.
    pub(crate) fn is_current(&self, path: &Path) -> bool {
        identity(path).is_some_and(|identity| identity == self.identity)
    }
}

/// Nothing if there is no file.
fn identity(path: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    return Some(Some((
        std::os::unix::fs::MetadataExt::dev(&metadata),
        std::os::unix::fs::MetadataExt::ino(&metadata),
    )));
    #[cfg(not(unix))]
    return Some(metadata.is_file().then_some((0, 0)));
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Value::Text(text) => text.to_sql(),
            Value::Integer(integer) => integer.to_sql(),
            Value::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

/// Makes an empty file that only its owner can read; SQLite gives its other files the same mode.
fn create(path: &Path) -> Result<(), LedgerError> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let made: Result<File, _> = options.open(path);
    made.map(drop).map_err(|source| LedgerError::File { path: path.to_path_buf(), source })
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let known = MIGRATIONS.len() as i64;
    // Taken at once, so that of two processes that start together one waits.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pragma = |name: &str| -> Result<i64, rusqlite::Error> {
        transaction.pragma_query_value(None, name, |row| row.get(0))
    };
    let (found, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (application != 0 || tables > 0) {
        return Err(LedgerError::Foreign { path: path.to_path_buf() });
    }
    if found > known {
        return Err(LedgerError::Newer { found, known });
    }
    for migration in MIGRATIONS.iter().skip(found.max(0) as usize) {
        transaction.execute_batch(migration)?;
    }
    if found < known {
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", known)?;
    }
    Ok(transaction.commit()?)
}
