//! A tenant as people are shown it, in units that people use. Never a key.

use serde::Serialize;

use super::account::Account;
use super::{Budget, KeyView, Period, Tenant};
use crate::calendar::Day;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TenantView {
    pub name: String,
    pub models: Vec<String>,
    pub pools: Vec<String>,
    pub priority: i32,
    pub requests_per_minute_max: Option<u64>,
    pub tokens_per_minute_max: Option<u64>,
    pub concurrency_max: Option<u32>,
    pub budgets: Vec<BudgetView>,
    pub logs_prompts: bool,
    pub is_suspended: bool,
    pub keys: Vec<KeyView>,
    /// Of the current day and month of the calendar, in UTC.
    pub spent_day_usd: f64,
    pub spent_month_usd: f64,
    /// In the last minute.
    pub requests: u64,
    pub tokens: u64,
    pub in_flight: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetView {
    pub usd: f64,
    pub period: Period,
    pub spent_usd: f64,
    /// By requests under way.
    pub reserved_usd: f64,
}

impl TenantView {
    pub(super) fn new(tenant: &Tenant, keys: Vec<KeyView>, account: &Account) -> TenantView {
        let today = Day::today();
        let standing = account.standing();
        let spent = |period| account.spending(period, today).0.dollars();
        let budget = |budget: &Budget| {
            let (spent, reserved) = account.spending(budget.period, today);
            BudgetView {
                usd: budget.amount.dollars(),
                period: budget.period,
                spent_usd: spent.dollars(),
                reserved_usd: reserved.dollars(),
            }
        };
        TenantView {
            name: tenant.name.clone(),
            models: tenant.models.clone(),
            pools: tenant.pools.clone(),
            priority: tenant.priority,
            requests_per_minute_max: tenant.limits.requests_per_minute,
            tokens_per_minute_max: tenant.limits.tokens_per_minute,
            concurrency_max: tenant.limits.concurrency,
            budgets: tenant.budgets.iter().map(budget).collect(),
            logs_prompts: tenant.logs_prompts,
            is_suspended: tenant.is_suspended,
            keys,
            spent_day_usd: spent(Period::Day),
            spent_month_usd: spent(Period::Month),
            requests: standing.requests,
            tokens: standing.tokens,
            in_flight: standing.in_flight,
        }
    }
}
