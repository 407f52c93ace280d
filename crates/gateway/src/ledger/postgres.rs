//! PostgreSQL: the connection and its tables, and all that is read and written besides records as
//! they come (`meter/postgres.rs`) and reservations (`tenants/shared.rs`). Everything is in the
//! schema `fungible` of the database that is named.
//!
//! TLS is by the address: `sslmode=require` insists on it, `sslmode=disable` goes without, and
//! without either it is used where the server offers it, but not on this machine itself. The
//! server's certificate is always checked against the system's authorities (or those of the file
//! that the variable `SSL_CERT_FILE` names).

mod rows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::change::RAISE_VERSION;
use super::store::{Spent, StoredTenants};
use super::{Change, LedgerError, Value};
use crate::calendar::Day;
use crate::money::Money;
use crate::record::Record;
use crate::tenants::StoredKey;
use crate::usage::{Dialect, RecordQuery, UsageQuery, UsageRow, sql};

/// Each brings the schema from its index to the next version; none is ever changed.
const MIGRATIONS: [&str; 1] = [include_str!("postgres/schema_1.sql")];

/// How long connecting may take, and one statement that a request waits for.
const PATIENCE: Duration = Duration::from_secs(2);

const GREETING: &str = "SET search_path TO fungible";
const HASTY_GREETING: &str = "SET search_path TO fungible; SET synchronous_commit TO off";

/// Of all locks that programs take in one database, that of who brings this schema up to date.
const MIGRATION_LOCK: i64 = 0x6675_6e67;

/// One connection that is made anew when it is lost.
pub(crate) struct PostgresStore {
    config: Config,
    tls: MakeRustlsConnect,
    /// What to say first on every connection.
    greeting: &'static str,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
}

/// A connection with what was prepared on it.
pub(crate) struct Link {
    client: Client,
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl PostgresStore {
    pub(crate) async fn open(address: &str) -> Result<PostgresStore, LedgerError> {
        let mut config: Config =
            address.parse().map_err(|source| LedgerError::Address { source })?;
        let is_here = |host: &Host| match host {
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
            }
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(is_here) {
            config.ssl_mode(SslMode::Disable);
        }
        config.connect_timeout(PATIENCE).application_name("fungible");
        let link = tokio::sync::Mutex::default();
        let store = PostgresStore { config, tls: tls()?, greeting: GREETING, link };
        store.migrate().await?;
        Ok(store)
    }

    /// The same database, with a connection of its own.
    pub(crate) fn another(&self) -> PostgresStore {
        let (config, tls) = (self.config.clone(), self.tls.clone());
        let link = tokio::sync::Mutex::default();
        PostgresStore { config, tls, greeting: GREETING, link }
    }

    /// As [`PostgresStore::another`], for what may be lost with the server's power: no commit waits
    /// for its disk.
    pub(crate) fn hasty(&self) -> PostgresStore {
        PostgresStore { greeting: HASTY_GREETING, ..self.another() }
    }

    /// The connection, made anew if it was lost.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, LedgerError> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link
            && !link.client.is_closed()
        {
            return Ok(Arc::clone(link));
        }
        let client = in_time(PATIENCE, self.connect()).await?;
        let made = Arc::new(Link { client, prepared: Mutex::default() });
        *link = Some(Arc::clone(&made));
        Ok(made)
    }

    async fn connect(&self) -> Result<Client, LedgerError> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    target: "fungible::gateway", error, "the connection to PostgreSQL was lost"
                );
            }
        });
        client.batch_execute(self.greeting).await?;
        Ok(client)
    }

    async fn migrate(&self) -> Result<(), LedgerError> {
        let known = MIGRATIONS.len() as i64;
        let mut client = in_time(PATIENCE, self.connect()).await?;
        let transaction = client.transaction().await?;
        // Of two that start together one waits.
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
        let table = "SELECT to_regclass('fungible.schema_version') IS NOT NULL";
        if !transaction.query_one(table, &[]).await?.try_get::<_, bool>(0)? {
            transaction
                .batch_execute(
                    "CREATE SCHEMA IF NOT EXISTS fungible; \
                     CREATE TABLE fungible.schema_version (version bigint NOT NULL); \
                     INSERT INTO fungible.schema_version VALUES (0)",
                )
                .await?;
        }
        let found = transaction.query_one("SELECT version FROM schema_version", &[]).await?;
        let found: i64 = found.try_get(0)?;
        if found > known {
            return Err(LedgerError::Newer { found, known });
        }
        for migration in MIGRATIONS.iter().skip(found.max(0) as usize) {
            transaction.batch_execute(migration).await?;
        }
        transaction.execute("UPDATE schema_version SET version = $1", &[&known]).await?;
        Ok(transaction.commit().await?)
    }

    pub(crate) async fn version(&self) -> Result<i64, LedgerError> {
        let row = self.link().await?.one("SELECT version FROM changes", &[]).await?;
        Ok(row.try_get(0)?)
    }

    pub(crate) async fn tenants(&self) -> Result<StoredTenants, LedgerError> {
        let link = self.link().await?;
        // The version first: if anything changes on the way, it is read again.
        let version = link.one("SELECT version FROM changes", &[]).await?.try_get(0)?;
        let mut tenants = Vec::new();
        for row in link.all("SELECT name, settings FROM tenants", &[]).await? {
            let (tenant, settings): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            tenants.push(
                serde_json::from_str(&settings)
                    .map_err(|source| LedgerError::Settings { tenant, source })?,
            );
        }
        let text = "SELECT digest, tenant, name, last_four, created_milliseconds, \
                    ends_milliseconds FROM keys ORDER BY created_milliseconds, name";
        let mut keys = Vec::new();
        for row in link.all(text, &[]).await? {
            let digest: Vec<u8> = row.try_get(0)?;
            // What has another length is no digest, and so nobody's key.
            let Ok(digest) = digest.try_into() else { continue };
            keys.push(StoredKey {
                digest,
                tenant: row.try_get(1)?,
                name: row.try_get(2)?,
                last_four: row.try_get(3)?,
                created_milliseconds: row.try_get(4)?,
                ends_milliseconds: row.try_get(5)?,
            });
        }
        let spent = self.spent(Day(i64::MIN)).await?;
        Ok(StoredTenants { version, tenants, keys, spent })
    }

    /// From that day on.
    pub(crate) async fn spent(&self, from: Day) -> Result<Vec<Spent>, LedgerError> {
        let link = self.link().await?;
        let text = "SELECT tenant, day, cost FROM spent WHERE day >= $1";
        let rows = link.all(text, &[&from.0]).await?;
        let spent = rows.iter().map(|row| {
            let (day, cost) = (Day(row.try_get(1)?), Money(row.try_get(2)?));
            Ok(Spent { tenant: row.try_get(0)?, day, cost })
        });
        spent.collect()
    }

    pub(crate) async fn change(&self, change: &Change) -> Result<bool, LedgerError> {
        let statements = change
            .statements()
            .map_err(|source| LedgerError::Settings { tenant: String::new(), source })?;
        // Its own connection: a transaction would take in what others ask on the same.
        let mut client = in_time(PATIENCE, self.connect()).await?;
        let transaction = client.transaction().await?;
        for statement in statements {
            let values = parameters(&statement.values);
            let touched = transaction.execute(statement.sql, &values).await?;
            if touched == 0 && statement.must_touch {
                return Ok(false);
            }
        }
        transaction.execute(RAISE_VERSION, &[]).await?;
        transaction.commit().await?;
        Ok(true)
    }

    pub(crate) async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, LedgerError> {
        let (text, values) = sql::usage(query, Dialect::Postgres);
        // Its own connection: it may read for a while.
        let client = in_time(PATIENCE, self.connect()).await?;
        let rows = client.query(&text, &parameters(&values)).await?;
        rows.iter().map(|row| rows::usage(row, query)).collect()
    }

    pub(crate) async fn records(
        &self,
        query: &RecordQuery,
        count: usize,
    ) -> Result<Vec<Record>, LedgerError> {
        let (text, values) = sql::records(query, count);
        let client = in_time(PATIENCE, self.connect()).await?;
        let rows = client.query(&text, &parameters(&values)).await?;
        rows.iter().map(rows::record).collect()
    }
}

impl Link {
    /// Rows of a statement that is prepared once. Who stops waiting has it done all the same, before
    /// whatever is asked on this connection later.
    pub(crate) async fn all(
        &self,
        text: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, LedgerError> {
        let known = self.prepared().get(text).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let made = self.client.prepare(text).await?;
                self.prepared().insert(text, made.clone());
                made
            }
        };
        Ok(self.client.query(&statement, values).await?)
    }

    pub(crate) async fn one(
        &self,
        text: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<tokio_postgres::Row, LedgerError> {
        self.all(text, values).await?.pop().ok_or(LedgerError::Empty)
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Statement>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives up on a server that does not answer.
pub(crate) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    timeout(patience, work)
        .await
        .unwrap_or(Err(LedgerError::Silent { seconds: patience.as_secs() }))
}

fn parameters(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    fn parameter(value: &Value) -> &(dyn ToSql + Sync) {
        match value {
            Value::Text(text) => text,
            Value::Integer(integer) => integer,
            Value::Bytes(bytes) => bytes,
        }
    }
    values.iter().map(parameter).collect()
}

fn tls() -> Result<MakeRustlsConnect, LedgerError> {
    let mut roots = rustls::RootCertStore::empty();
    // Without any, only connections with TLS fail, and say so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| LedgerError::Tls { source })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
