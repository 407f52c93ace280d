//! What several tests of the ledger need: a tenant, records, a PostgreSQL server of their own.

#![allow(dead_code, reason = "not every test uses everything")]

pub mod postgres;

use gateway::money::Money;
use gateway::record::Record;
use gateway::tenants::{Limits, Tenant};

pub fn tenant(name: &str) -> Tenant {
    Tenant {
        name: name.to_string(),
        models: vec!["chat-*".to_string()],
        priority: 0,
        limits: Limits::default(),
        budgets: Vec::new(),
        pools: Vec::new(),
        logs_prompts: false,
        is_suspended: false,
    }
}

pub fn record(number: u64) -> Record {
    Record {
        id: format!("request-{number}"),
        time_milliseconds: 1_700_000_000_000 + number as i64,
        tenant: "acme".to_string(),
        cost: Money(number as i64),
        prompt_tokens: number,
        energy_joules: Some(0.5),
        ..Record::default()
    }
}
