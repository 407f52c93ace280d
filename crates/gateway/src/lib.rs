//! One endpoint over many suppliers' chips: tenants, routing, failover, metering.
//!
//! Speaks OpenAI's HTTP interface on both sides and knows no engine, so what stands behind it may be
//! `fungible serve`, another server, or a hosted interface. Prints nothing.

pub mod admin;
pub mod admission;
pub mod ask;
pub mod body;
pub mod calendar;
pub mod config;
pub mod error;
pub mod front;
pub mod gateway;
pub mod ledger;
pub mod load;
pub mod meter;
pub mod metrics;
pub mod money;
pub mod pools;
pub mod record;
pub mod relay;
pub mod route;
pub mod secrets;
pub mod shared;
pub mod spans;
pub mod stub;
pub mod tenants;
pub mod ticket;
pub mod usage;
