//! Records and groups of usage out of PostgreSQL's rows.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::ledger::LedgerError;
use crate::money::Money;
use crate::record::{Outcome, Record};
use crate::usage::{UsageQuery, UsageRow};

/// In the order of `sql::RECORD_COLUMNS`.
pub(super) fn record(row: &Row) -> Result<Record, LedgerError> {
    let count = |at: usize| Ok::<_, LedgerError>(whole(row.try_get(at)?));
    let small = |at: usize| Ok::<_, LedgerError>(count(at)?.try_into().unwrap_or(u32::MAX));
    let outcome: String = row.try_get(9)?;
    Ok(Record {
        time_milliseconds: row.try_get(0)?,
        id: row.try_get(1)?,
        tenant: row.try_get(2)?,
        key: row.try_get(3)?,
        model: row.try_get(4)?,
        path: row.try_get(5)?,
        pool: row.try_get(6)?,
        backend: row.try_get(7)?,
        status: row.try_get::<_, i32>(8)?.try_into().unwrap_or(0),
        outcome: Outcome::from_name(&outcome).ok_or(LedgerError::Outcome { outcome })?,
        streamed: row.try_get(10)?,
        prompt_tokens: count(11)?,
        completion_tokens: count(12)?,
        cached_tokens: count(13)?,
        tokens_estimated: row.try_get(14)?,
        duration_milliseconds: count(15)?,
        first_byte_milliseconds: row.try_get::<_, Option<i64>>(16)?.map(whole),
        attempts: small(17)?,
        continuations: small(18)?,
        cost: Money(row.try_get(19)?),
        saved: Money(row.try_get(20)?),
        energy_joules: row.try_get(21)?,
    })
}

/// The names of the group, then the sums in the order of `sql::usage`.
pub(super) fn usage(row: &Row, query: &UsageQuery) -> Result<UsageRow, LedgerError> {
    fn get<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, LedgerError> {
        Ok(row.try_get(at)?)
    }
    let names = query.by.len();
    let count = |at: usize| get(row, names + at).map(whole);
    Ok(UsageRow {
        group: (0..names).map(|at| get(row, at)).collect::<Result<_, _>>()?,
        requests: count(0)?,
        failed: count(1)?,
        refused: count(2)?,
        prompt_tokens: count(3)?,
        completion_tokens: count(4)?,
        cached_tokens: count(5)?,
        cost: Money(get(row, names + 6)?),
        saved: Money(get(row, names + 7)?),
        energy_joules: get(row, names + 8)?,
        mean_milliseconds: get(row, names + 9)?,
    })
}

fn whole(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or(0)
}
