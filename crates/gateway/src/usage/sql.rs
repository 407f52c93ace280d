//! The questions about records as SQL. Names of columns and groups come from here alone; whatever a
//! user gave is a parameter.

use super::{By, RecordQuery, Span, UsageQuery};
use crate::ledger::Value;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

pub(crate) const RECORD_COLUMNS: &str = "\
    time_milliseconds, id, tenant, key, model, path, pool, backend, status, outcome, streamed, \
    prompt_tokens, completion_tokens, cached_tokens, tokens_estimated, duration_milliseconds, \
    first_byte_milliseconds, attempts, continuations, cost, saved, energy_joules";

/// The group's names, then requests, failed, refused, tokens of prompts, of answers, cached, cost,
/// saved, energy, mean duration.
pub(crate) fn usage(query: &UsageQuery, dialect: Dialect) -> (String, Vec<Value>) {
    let (condition, values) = condition(&query.span, None);
    let mut columns: Vec<String> = query.by.iter().map(|by| group(*by, dialect)).collect();
    let sum = |what: &str| match dialect {
        Dialect::Sqlite => format!("coalesce(sum({what}), 0)"),
        // Its sums of integers are of a type without bounds.
        Dialect::Postgres => format!("coalesce(sum({what}), 0)::bigint"),
    };
    columns.push("count(*)".to_string());
    columns.push(sum("CASE WHEN outcome = 'failed' THEN 1 ELSE 0 END"));
    columns.push(sum("CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END"));
    for column in ["prompt_tokens", "completion_tokens", "cached_tokens", "cost", "saved"] {
        columns.push(sum(column));
    }
    columns.push("sum(energy_joules)".to_string());
    let duration = "CASE WHEN outcome <> 'refused' THEN duration_milliseconds END";
    columns.push(match dialect {
        Dialect::Sqlite => format!("avg({duration})"),
        Dialect::Postgres => format!("avg({duration})::double precision"),
    });
    let places: Vec<String> = (1..=query.by.len()).map(|place| place.to_string()).collect();
    let places = places.join(", ");
    let grouped = match query.by.is_empty() {
        true => String::new(),
        false => format!(" GROUP BY {places} ORDER BY {places}"),
    };
    let columns = columns.join(", ");
    (format!("SELECT {columns} FROM records{condition}{grouped}"), values)
}

pub(crate) fn records(query: &RecordQuery, count: usize) -> (String, Vec<Value>) {
    let (condition, values) = condition(&query.span, query.after.as_ref());
    let text = format!(
        "SELECT {RECORD_COLUMNS} FROM records{condition} ORDER BY time_milliseconds, id LIMIT {count}"
    );
    (text, values)
}

fn group(by: By, dialect: Dialect) -> String {
    let time = |sqlite: &str, postgres: &str| match dialect {
        // Whole seconds, rounded down also before 1970.
        Dialect::Sqlite => format!(
            "strftime('{sqlite}', (time_milliseconds - ((time_milliseconds % 1000) + 1000) % 1000) \
             / 1000, 'unixepoch')"
        ),
        Dialect::Postgres => format!(
            "to_char(to_timestamp(floor(time_milliseconds / 1000.0)) AT TIME ZONE 'UTC', \
             '{postgres}')"
        ),
    };
    match by {
        By::Tenant | By::Key | By::Model | By::Pool | By::Backend => by.name().to_string(),
        By::Day => time("%Y-%m-%d", "YYYY-MM-DD"),
        By::Hour => time("%Y-%m-%d %H:00", "YYYY-MM-DD HH24:00"),
        By::Month => time("%Y-%m", "YYYY-MM"),
    }
}

fn condition(span: &Span, after: Option<&(i64, String)>) -> (String, Vec<Value>) {
    let mut conditions = Vec::new();
    let mut values = Vec::new();
    if let Some(from) = span.from {
        values.push(Value::Integer(from));
        conditions.push(format!("time_milliseconds >= ${}", values.len()));
    }
    if let Some(to) = span.to {
        values.push(Value::Integer(to));
        conditions.push(format!("time_milliseconds < ${}", values.len()));
    }
    if let Some(tenant) = &span.tenant {
        values.push(Value::Text(tenant.clone()));
        conditions.push(format!("tenant = ${}", values.len()));
    }
    if let Some((time, id)) = after {
        values.push(Value::Integer(*time));
        values.push(Value::Text(id.clone()));
        let (time, id) = (values.len() - 1, values.len());
        conditions.push(format!("(time_milliseconds, id) > (${time}, ${id})"));
    }
    match conditions.is_empty() {
        true => (String::new(), values),
        false => (format!(" WHERE {}", conditions.join(" AND ")), values),
    }
}
