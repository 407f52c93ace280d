//! Tenants and their keys: listed, added, changed, removed. A key is in the answer that makes it, and
//! nowhere else.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::read::given;
use crate::error::ApiError;
use crate::money::Money;
use crate::tenants::{Budget, Limits, NewKey, Period, Tenant, TenantError, Tenants};

/// How long a replaced key is taken if nobody says: time to bring the new one to all programs.
const GRACE_SECONDS: u64 = 24 * 3600;
const GRACE_SECONDS_MAX: u64 = 90 * 24 * 3600;

/// What is set of a tenant; what is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Of a new tenant only.
    name: Option<String>,
    models: Option<Vec<String>>,
    pools: Option<Vec<String>>,
    priority: Option<i32>,
    #[serde(default, deserialize_with = "given")]
    requests_per_minute_max: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    tokens_per_minute_max: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    concurrency_max: Option<Option<u32>>,
    budgets: Option<Vec<BudgetSetting>>,
    logs_prompts: Option<bool>,
    is_suspended: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetSetting {
    usd: f64,
    period: Period,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySettings {
    /// What it is called; a number if nobody says.
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the old key is taken beside the new one.
    grace_seconds: Option<u64>,
}

impl Settings {
    fn apply(self, tenant: &mut Tenant) -> Result<(), ApiError> {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut tenant.models, self.models);
        set(&mut tenant.pools, self.pools);
        set(&mut tenant.priority, self.priority);
        set(&mut tenant.limits.requests_per_minute, self.requests_per_minute_max);
        set(&mut tenant.limits.tokens_per_minute, self.tokens_per_minute_max);
        set(&mut tenant.limits.concurrency, self.concurrency_max);
        set(&mut tenant.logs_prompts, self.logs_prompts);
        set(&mut tenant.is_suspended, self.is_suspended);
        let Some(settings) = self.budgets else { return Ok(()) };
        let mut budgets: Vec<Budget> = Vec::new();
        for BudgetSetting { usd, period } in settings {
            if !(0.0..=1e9).contains(&usd) {
                let message = "a budget must be between 0 and 1,000,000,000 US dollars";
                return Err(ApiError::invalid(message));
            }
            if budgets.iter().any(|budget| budget.period == period) {
                let message = format!("there are two budgets a {}; give one", period.name());
                return Err(ApiError::invalid(message));
            }
            budgets.push(Budget { amount: Money::from_dollars(usd), period });
        }
        tenant.budgets = budgets;
        Ok(())
    }
}

pub(super) fn list(tenants: &Tenants) -> Value {
    json!({ "data": tenants.list() })
}

pub(super) async fn add(tenants: &Tenants, mut settings: Settings) -> Result<Value, ApiError> {
    let Some(name) = settings.name.take() else {
        return Err(ApiError::invalid("a new tenant needs a `name`"));
    };
    let mut tenant = Tenant {
        name: name.clone(),
        models: Vec::new(),
        priority: 0,
        limits: Limits::default(),
        budgets: Vec::new(),
        pools: Vec::new(),
        logs_prompts: false,
        is_suspended: false,
    };
    settings.apply(&mut tenant)?;
    let key = tenants.add(tenant).await?;
    tracing::info!(target: "fungible::gateway", tenant = name, "a tenant was added");
    Ok(shown(&name, &key))
}

pub(super) async fn change(
    tenants: &Tenants,
    name: &str,
    settings: Settings,
) -> Result<Value, ApiError> {
    if settings.name.is_some() {
        let message = "a tenant cannot be renamed, since its records go by its name; add another";
        return Err(ApiError::invalid(message));
    }
    let known = tenants.named(name).ok_or_else(|| TenantError::NoTenant(name.to_owned()))?;
    let mut tenant = Tenant::clone(&known);
    settings.apply(&mut tenant)?;
    tenants.change(tenant).await?;
    tracing::info!(target: "fungible::gateway", tenant = name, "a tenant was changed");
    Ok(json!({ "name": name }))
}

pub(super) async fn remove(tenants: &Tenants, name: &str) -> Result<Value, ApiError> {
    tenants.remove(name).await?;
    tracing::info!(target: "fungible::gateway", tenant = name, "a tenant was removed");
    Ok(json!({ "name": name }))
}

pub(super) async fn add_key(
    tenants: &Tenants,
    tenant: &str,
    settings: KeySettings,
) -> Result<Value, ApiError> {
    let key = tenants.add_key(tenant, settings.name.as_deref()).await?;
    tracing::info!(target: "fungible::gateway", tenant, key = key.name, "a key was added");
    Ok(shown(tenant, &key))
}

pub(super) async fn rotate_key(
    tenants: &Tenants,
    tenant: &str,
    old: &str,
    rotation: Rotation,
) -> Result<Value, ApiError> {
    let grace_seconds = rotation.grace_seconds.unwrap_or(GRACE_SECONDS);
    if grace_seconds > GRACE_SECONDS_MAX {
        let message = format!("`grace_seconds` can be {GRACE_SECONDS_MAX} at most");
        return Err(ApiError::invalid(message));
    }
    let key = tenants.rotate_key(tenant, old, Duration::from_secs(grace_seconds)).await?;
    tracing::info!(target: "fungible::gateway", tenant, old, key = key.name, "a key was rotated");
    Ok(shown(tenant, &key))
}

pub(super) async fn revoke_key(
    tenants: &Tenants,
    tenant: &str,
    key: &str,
) -> Result<Value, ApiError> {
    tenants.revoke_key(tenant, key).await?;
    tracing::info!(target: "fungible::gateway", tenant, key, "a key was revoked");
    Ok(json!({ "name": key }))
}

/// The one time that a key is shown.
fn shown(tenant: &str, key: &NewKey) -> Value {
    json!({"name": tenant, "key": {"name": key.name, "key": key.plain()}})
}

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> ApiError {
        let conflict =
            |message: String| ApiError::new(StatusCode::CONFLICT, "invalid_request_error", message);
        let message = error.to_string();
        match error {
            TenantError::Name(_) => ApiError::invalid(message),
            TenantError::NoTenant(_) | TenantError::NoKey { .. } => ApiError::not_found(message),
            TenantError::TenantExists(_)
            | TenantError::KeyExists { .. }
            | TenantError::Raced(_) => conflict(message),
            TenantError::Random(_) => ApiError::unavailable(message),
            // Where the database is, is nothing for an answer.
            TenantError::Database(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(target: "fungible::gateway", error, "tenants could not be changed");
                ApiError::unavailable("the database cannot be written at present; try again soon")
            }
        }
    }
}
