//! Records and groups of usage as SQLite's rows, both ways. Counts beyond what its integers hold
//! stop at their end.

use rusqlite::types::Type;
use rusqlite::{Row, ToSql};

use crate::money::Money;
use crate::record::{Outcome, Record};
use crate::usage::{UsageQuery, UsageRow};

/// Does nothing to a record that is there already.
pub(crate) const INSERT_RECORD: &str = "\
    INSERT INTO records (time_milliseconds, id, tenant, key, model, path, pool, backend, status, \
    outcome, streamed, prompt_tokens, completion_tokens, cached_tokens, tokens_estimated, \
    duration_milliseconds, first_byte_milliseconds, attempts, continuations, cost, saved, \
    energy_joules) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT DO NOTHING";

/// Gives the values of [`INSERT_RECORD`] to `insert`.
pub(crate) fn record_values<T>(record: &Record, insert: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
    let integer = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    insert(&[
        &record.time_milliseconds,
        &record.id,
        &record.tenant,
        &record.key,
        &record.model,
        &record.path,
        &record.pool,
        &record.backend,
        &record.status,
        &record.outcome.name(),
        &record.streamed,
        &integer(record.prompt_tokens),
        &integer(record.completion_tokens),
        &integer(record.cached_tokens),
        &record.tokens_estimated,
        &integer(record.duration_milliseconds),
        &record.first_byte_milliseconds.map(integer),
        &record.attempts,
        &record.continuations,
        &record.cost.0,
        &record.saved.0,
        &record.energy_joules,
    ])
}

/// In the order of `sql::RECORD_COLUMNS`.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    let count = |at: usize| row.get(at).map(whole);
    let outcome: String = row.get(9)?;
    Ok(Record {
        time_milliseconds: row.get(0)?,
        id: row.get(1)?,
        tenant: row.get(2)?,
        key: row.get(3)?,
        model: row.get(4)?,
        path: row.get(5)?,
        pool: row.get(6)?,
        backend: row.get(7)?,
        status: row.get(8)?,
        outcome: Outcome::from_name(&outcome).ok_or_else(|| {
            let unknown = format!("`{outcome}` is no outcome of a request");
            rusqlite::Error::FromSqlConversionFailure(9, Type::Text, unknown.into())
        })?,
        streamed: row.get(10)?,
        prompt_tokens: count(11)?,
        completion_tokens: count(12)?,
        cached_tokens: count(13)?,
        tokens_estimated: row.get(14)?,
        duration_milliseconds: count(15)?,
        first_byte_milliseconds: row.get::<_, Option<i64>>(16)?.map(whole),
        attempts: row.get(17)?,
        continuations: row.get(18)?,
        cost: Money(row.get(19)?),
        saved: Money(row.get(20)?),
        energy_joules: row.get(21)?,
    })
}

/// The names of the group, then the sums in the order of `sql::usage`.
pub(super) fn usage(row: &Row<'_>, query: &UsageQuery) -> rusqlite::Result<UsageRow> {
    let names = query.by.len();
    let group = (0..names).map(|at| row.get(at)).collect::<Result<_, _>>()?;
    let count = |at: usize| row.get(names + at).map(whole);
    Ok(UsageRow {
        group,
        requests: count(0)?,
        failed: count(1)?,
        refused: count(2)?,
        prompt_tokens: count(3)?,
        completion_tokens: count(4)?,
        cached_tokens: count(5)?,
        cost: Money(row.get(names + 6)?),
        saved: Money(row.get(names + 7)?),
        energy_joules: row.get(names + 8)?,
        mean_milliseconds: row.get(names + 9)?,
    })
}

fn whole(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or(0)
}
