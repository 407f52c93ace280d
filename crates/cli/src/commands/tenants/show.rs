//! Tenants as tables and as JSON.

use gateway::calendar::time_text;
use gateway::money::Money;
use gateway::tenants::{BudgetView, TenantView};
use serde_json::json;

use crate::console::{self, BOLD, styled};

pub fn list(tenants: &[TenantView], as_json: bool) {
    if as_json {
        console::line(json!({ "tenants": tenants }));
        return;
    }
    if tenants.is_empty() {
        console::line("There is no tenant yet; fungible tenants add NAME makes one.");
        return;
    }
    let heading = [
        "tenant",
        "keys",
        "models",
        "requests/min",
        "tokens/min",
        "at once",
        "budget",
        "spent today",
        "this month",
    ];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    for tenant in tenants {
        let name = match tenant.is_suspended {
            true => format!("{} (suspended)", tenant.name),
            false => tenant.name.clone(),
        };
        rows.push(vec![
            name,
            tenant.keys.iter().filter(|key| key.is_valid).count().to_string(),
            names(&tenant.models),
            limit(tenant.requests_per_minute_max),
            limit(tenant.tokens_per_minute_max),
            limit(tenant.concurrency_max),
            budgets(&tenant.budgets),
            dollars(tenant.spent_day_usd),
            dollars(tenant.spent_month_usd),
        ]);
    }
    console::table(&rows);
}

pub fn one(tenant: &TenantView, as_json: bool) {
    if as_json {
        console::line(json!(tenant));
        return;
    }
    let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_string();
    console::styled_line(styled(BOLD, &tenant.name));
    for (what, value) in [
        ("models", names(&tenant.models)),
        ("pools", names(&tenant.pools)),
        ("priority", tenant.priority.to_string()),
        ("requests a minute", limit(tenant.requests_per_minute_max)),
        ("tokens a minute", limit(tenant.tokens_per_minute_max)),
        ("requests at once", limit(tenant.concurrency_max)),
        ("budget", budgets(&tenant.budgets)),
        ("spent today", dollars(tenant.spent_day_usd)),
        ("spent this month", dollars(tenant.spent_month_usd)),
        ("prompts in the log", yes(tenant.logs_prompts)),
        ("suspended", yes(tenant.is_suspended)),
    ] {
        console::line(format_args!("  {what:<20}{value}"));
    }
    let heading = ["key", "ends in", "created", "taken"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(tenant.keys.iter().map(|key| {
        let taken = match (key.is_valid, key.ends_milliseconds) {
            (true, None) => "yes".to_string(),
            (true, Some(ends)) => format!("until {}", time_text(ends)),
            (false, Some(ends)) => format!("no, since {}", time_text(ends)),
            (false, None) => "no".to_string(),
        };
        let created = time_text(key.created_milliseconds);
        vec![key.name.clone(), format!("...{}", key.last_four), created, taken]
    }));
    console::line("");
    console::table(&rows);
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "all".to_string() } else { names.join(", ") }
}

fn limit(limit: Option<impl ToString>) -> String {
    limit.map_or_else(|| "-".to_string(), |limit| limit.to_string())
}

fn budgets(budgets: &[BudgetView]) -> String {
    let budget =
        |budget: &BudgetView| format!("{} a {}", dollars(budget.usd), budget.period.name());
    match budgets {
        [] => "-".to_string(),
        budgets => budgets.iter().map(budget).collect::<Vec<_>>().join(", "),
    }
}

fn dollars(dollars: f64) -> String {
    Money::from_dollars(dollars).to_string()
}
