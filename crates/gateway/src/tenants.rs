//! Who may ask, for what, and how much.

pub(crate) mod account;
pub(crate) mod budget;
mod keys;
pub(crate) mod limits;
mod registry;
mod reservation;
mod shared;
mod view;

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::parse_money;
use crate::money::Money;

pub(crate) use keys::StoredKey;
pub use keys::{KeyView, Known, NewKey};
pub use registry::{TenantError, Tenants};
pub use reservation::{Reservation, ReserveError};
pub use view::{BudgetView, TenantView};

/// One customer of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Public names of models; `*` stands for any text. Without any, all models.
    pub models: Vec<String>,
    /// Higher goes first when there is no room for all.
    pub priority: i32,
    pub limits: Limits,
    pub budgets: Vec<Budget>,
    /// Pools that its requests are kept to; without any, all of the model's.
    pub pools: Vec<String>,
    /// Whether its prompts and answers may appear in the gateway's log.
    pub logs_prompts: bool,
    pub is_suspended: bool,
}

/// What a tenant may do at once, or in a minute. Nothing stands for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub requests_per_minute: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub concurrency: Option<u32>,
}

/// What a tenant may spend in a day or a month (UTC, of the calendar).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub amount: Money,
    pub period: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    Day,
    Month,
}

/// The most that a request can use, reserved before it is sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Of the prompt, and the most that may be answered.
    pub tokens: u64,
    /// At the dearest pool that the request may go to.
    pub cost: Money,
}

/// What a request did use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    pub tokens: u64,
    pub cost: Money,
}

/// Why a tenant's request is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LimitError {
    #[error("more than {limit} requests a minute; the next may come in {} s", .retry_after.as_secs() + 1)]
    Requests { limit: u64, retry_after: Duration },
    #[error(
        "more than {limit} tokens a minute (this request may take {asked}); try again in {} s",
        .retry_after.as_secs() + 1
    )]
    Tokens { limit: u64, asked: u64, retry_after: Duration },
    #[error("{limit} requests are under way already, which is the limit; wait for one of them")]
    Concurrency { limit: u32 },
    #[error("the budget of {amount} a {} is used up, or what is left of it ({left}) does not reach for what this request may cost ({asked})", .period.name())]
    Budget { amount: Money, period: Period, left: Money, asked: Money },
}

impl Tenant {
    /// One without limits, for all models.
    pub fn named(name: &str) -> Tenant {
        Tenant {
            name: name.to_string(),
            models: Vec::new(),
            priority: 0,
            limits: Limits::default(),
            budgets: Vec::new(),
            pools: Vec::new(),
            logs_prompts: false,
            is_suspended: false,
        }
    }
}

/// The text is no budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an amount of money a day or month, such as 50usd/month or $5/day")]
pub struct NoBudget;

impl FromStr for Budget {
    type Err = NoBudget;

    fn from_str(text: &str) -> Result<Budget, NoBudget> {
        let (amount, period) = text.split_once('/').ok_or(NoBudget)?;
        let period = match period.trim() {
            "day" => Period::Day,
            "month" => Period::Month,
            _ => return Err(NoBudget),
        };
        Ok(Budget { amount: parse_money(amount).ok_or(NoBudget)?, period })
    }
}

impl Period {
    pub fn name(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}
