//! What was asked for, and what it cost: records in groups, and one by one for export.

mod csv;
mod parquet;
pub(crate) mod sql;

use std::str::FromStr;

use serde::Serialize;

use crate::money::Money;

pub use csv::write_csv;
pub use parquet::{ParquetError, ParquetFile};
pub(crate) use sql::Dialect;

/// What records can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Tenant,
    Key,
    Model,
    Pool,
    Backend,
    /// Of the calendar, in UTC: `2026-11-23`.
    Day,
    /// `2026-11-23 17:00`.
    Hour,
    /// `2026-11`.
    Month,
}

impl By {
    pub const ALL: [By; 8] =
        [By::Tenant, By::Key, By::Model, By::Pool, By::Backend, By::Day, By::Hour, By::Month];

    pub fn name(self) -> &'static str {
        match self {
            By::Tenant => "tenant",
            By::Key => "key",
            By::Model => "model",
            By::Pool => "pool",
            By::Backend => "backend",
            By::Day => "day",
            By::Hour => "hour",
            By::Month => "month",
        }
    }
}

/// The word is no [`By`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "usage cannot be grouped by `{0}`; it can by tenant, key, model, pool, backend, day, hour and month"
)]
pub struct UnknownBy(String);

impl FromStr for By {
    type Err = UnknownBy;

    fn from_str(text: &str) -> Result<By, UnknownBy> {
        By::ALL.into_iter().find(|by| by.name() == text).ok_or_else(|| UnknownBy(text.to_string()))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// Without any, all records are one group.
    pub by: Vec<By>,
    pub span: Span,
}

/// Which records count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Milliseconds since 1970, that of the requests' arrivals.
    pub from: Option<i64>,
    /// Before it, not at it.
    pub to: Option<i64>,
    pub tenant: Option<String>,
}

/// Which records come next, in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordQuery {
    pub span: Span,
    /// Time and id of the last one that was read.
    pub after: Option<(i64, String)>,
}

/// The sums of one group of records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UsageRow {
    /// One name for each [`By`] of the query, in its order.
    pub group: Vec<String>,
    pub requests: u64,
    /// Of them, those that no backend could answer in full.
    pub failed: u64,
    /// Of them, those that the gateway refused: a limit, a budget, no room.
    pub refused: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// Of the prompts'.
    pub cached_tokens: u64,
    pub cost: Money,
    /// What the dearest pools would have cost on top.
    pub saved: Money,
    /// Of those requests of which it is known; nothing if it is of none.
    pub energy_joules: Option<f64>,
    /// From arrival to end, of requests that were not refused; nothing if all were.
    pub mean_milliseconds: Option<f64>,
}
