//! Sums of records for those who run the gateway, and what was spent today.

use serde_json::{Value, json};

use crate::calendar::Day;
use crate::error::ApiError;
use crate::ledger::{Ledger, LedgerError};
use crate::usage::{By, Span, UsageQuery, UsageRow};

/// The rows for `by=tenant,day&from=2026-11-01&to=2026-12-01&tenant=acme`; `to` is not in it.
pub(super) async fn usage(ledger: &Ledger, query: &str) -> Result<Value, ApiError> {
    let query = parse(query)?;
    let rows = ledger.usage(&query).await.map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(target: "fungible::gateway", error, "records could not be read");
        ApiError::unavailable("the database cannot be read at present; try again soon")
    })?;
    let rows: Vec<Value> = rows.iter().map(|row| shown(&query.by, row)).collect();
    Ok(json!({ "data": rows }))
}

/// Everything since midnight, UTC.
pub(super) async fn today(ledger: &Ledger) -> Result<Value, LedgerError> {
    let span = Span { from: Some(Day::today().start_milliseconds()), ..Span::default() };
    let rows = ledger.usage(&UsageQuery { by: Vec::new(), span }).await?;
    Ok(shown(&[], &rows.into_iter().next().unwrap_or_default()))
}

fn shown(by: &[By], row: &UsageRow) -> Value {
    let mut shown = json!({
        "requests": row.requests,
        "failed": row.failed,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_usd": row.cost.dollars(),
        "saved_usd": row.saved.dollars(),
        "energy_joules": row.energy_joules,
        "mean_milliseconds": row.mean_milliseconds,
    });
    for (by, name) in by.iter().zip(&row.group) {
        shown[by.name()] = json!(name);
    }
    shown
}

fn parse(query: &str) -> Result<UsageQuery, ApiError> {
    let mut parsed = UsageQuery::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "by" => {
                // A comma may be written as what it is in an address, or in percent encoding.
                let list = value.replace("%2C", ",").replace("%2c", ",");
                parsed.by = list
                    .split(',')
                    .filter(|word| !word.is_empty())
                    .map(str::parse)
                    .collect::<Result<_, _>>()
                    .map_err(|error: crate::usage::UnknownBy| {
                        ApiError::invalid(error.to_string())
                    })?;
            }
            "from" => parsed.span.from = Some(day(value)?),
            "to" => parsed.span.to = Some(day(value)?),
            // Names of tenants have no sign that is encoded.
            "tenant" => parsed.span.tenant = Some(value.to_owned()),
            other => {
                let message = format!("usage knows no `{other}`; it knows by, from, to and tenant");
                return Err(ApiError::invalid(message));
            }
        }
    }
    Ok(parsed)
}

fn day(text: &str) -> Result<i64, ApiError> {
    let wrong = || ApiError::invalid(format!("`{text}` is no day; write it as 2026-11-23"));
    Day::parse(text).map(Day::start_milliseconds).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_read_or_refused() {
        let query = parse("by=tenant%2Cday&from=2026-11-01&tenant=acme").unwrap();
        assert_eq!(query.by, [By::Tenant, By::Day]);
        assert_eq!(query.span.from, Day::parse("2026-11-01").map(Day::start_milliseconds));
        assert_eq!((query.span.to, query.span.tenant.as_deref()), (None, Some("acme")));
        assert_eq!(parse("").unwrap(), UsageQuery::default());
        for wrong in ["by=colour", "from=yesterday", "to=2026-13-01", "limit=1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in "[a-z=&,%0-9-]{0,60}|\\PC{0,40}") {
            let _ = parse(&query);
        }
    }
}
