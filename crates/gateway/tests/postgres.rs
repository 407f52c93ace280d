//! The ledger on PostgreSQL, with a real server: several gateways, shared limits, a server that is
//! killed and comes back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use gateway::ledger::{Ledger, OpenDatabase};
use gateway::money::Money;
use gateway::record::Record;
use gateway::tenants::{
    Budget, Charge, Estimate, LimitError, Limits, Period, ReserveError, Tenant,
};
use gateway::usage::{By, RecordQuery, UsageQuery};
use support::postgres::Server;
use support::{record, tenant};

async fn open(server: &Server) -> Ledger {
    Ledger::open(OpenDatabase::parse(&server.address()), 1000).await.unwrap()
}

fn now_milliseconds() -> i64 {
    gateway::calendar::now_milliseconds()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_tenants_limits_and_budgets() {
    let Some(server) = Server::start() else { return };
    let gateways = [Arc::new(open(&server).await), Arc::new(open(&server).await)];
    let acme = Tenant {
        budgets: vec![Budget { amount: Money(1000), period: Period::Month }],
        ..tenant("acme")
    };
    let key = gateways[0].tenants().add(acme).await.unwrap();
    until("the other gateway knows the key", async || {
        gateways[1].tenants().find(key.plain()).is_some()
    })
    .await;

    // Each request may cost 10 and costs 7 in the end, so between 100 and 142 fit.
    let mut clients = Vec::new();
    for client in 0..200usize {
        let gateway = Arc::clone(&gateways[client % 2]);
        let key = key.plain().to_string();
        clients.push(tokio::spawn(async move {
            let mut spent = 0;
            for turn in 0..3 {
                let known = gateway.tenants().find(&key).unwrap();
                let estimate = Estimate { tokens: 5, cost: Money(10) };
                let reservation = match gateway.tenants().reserve(&known.tenant, estimate).await {
                    Ok(reservation) => reservation,
                    Err(ReserveError::Limit(LimitError::Budget { .. })) => continue,
                    Err(other) => panic!("{other}"),
                };
                tokio::task::yield_now().await;
                let record = Record {
                    id: format!("{client}-{turn}"),
                    time_milliseconds: now_milliseconds(),
                    tenant: "acme".to_string(),
                    cost: Money(7),
                    ..Record::default()
                };
                gateway.meter().write(record).await.unwrap();
                reservation.settle(Charge { tokens: 5, cost: Money(7) });
                spent += 7;
            }
            spent
        }));
    }
    let mut spent = 0;
    for client in clients {
        spent += client.await.unwrap();
    }
    // Until it is released, what has a record counts twice: 17 at the most.
    assert!((1000 / 17 * 7..=1000).contains(&spent), "{spent}");
    let usage = gateways[1].usage(&UsageQuery::default()).await.unwrap();
    assert_eq!(usage[0].cost, Money(spent));

    // Once everything is released, exactly what is left can be had, at either.
    let known = gateways[1].tenants().find(key.plain()).unwrap();
    let rest = Estimate { tokens: 0, cost: Money(1000 - spent) };
    until("all reservations are released", async || {
        gateways[1].tenants().reserve(&known.tenant, rest).await.is_ok()
    })
    .await;
    let one_more = Estimate { tokens: 0, cost: Money(1000 - spent + 1) };
    let refused = gateways[0].tenants().reserve(&known.tenant, one_more).await;
    assert!(matches!(refused, Err(ReserveError::Limit(LimitError::Budget { .. }))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_a_minute_and_at_once_are_shared() {
    let Some(server) = Server::start() else { return };
    let gateways = [open(&server).await, open(&server).await];
    let limits =
        Limits { requests_per_minute: Some(5), tokens_per_minute: Some(100), concurrency: Some(2) };
    let tenant = Arc::new(Tenant { limits, ..tenant("acme") });
    let ask = async |gateway: usize, tokens| {
        let estimate = Estimate { tokens, cost: Money::ZERO };
        gateways[gateway].tenants().reserve(&tenant, estimate).await
    };
    let first = ask(0, 40).await.unwrap();
    let second = ask(1, 10).await.unwrap();
    let refused = ask(0, 1).await.err();
    assert_eq!(refused, Some(ReserveError::Limit(LimitError::Concurrency { limit: 2 })));
    first.settle(Charge { tokens: 90, cost: Money::ZERO });
    until("the tokens are corrected to 90 and 10", async || {
        let refused = ask(1, 1).await.err();
        matches!(
            refused,
            Some(ReserveError::Limit(LimitError::Tokens { limit: 100, asked: 1, .. }))
        )
    })
    .await;
    // Dropped, it gives its tokens and itself back.
    drop(second);
    until("what was given back can be had", async || ask(1, 10).await.is_ok()).await;
    for _ in 0..4 {
        until("a place is free", async || match ask(0, 0).await {
            Ok(reservation) => {
                reservation.settle(Charge::default());
                true
            }
            Err(ReserveError::Limit(LimitError::Concurrency { .. })) => false,
            Err(other) => panic!("{other}"),
        })
        .await;
    }
    until("five requests are enough", async || {
        matches!(ask(1, 0).await.err(), Some(ReserveError::Limit(LimitError::Requests { retry_after, .. }))
            if retry_after <= Duration::from_secs(61))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_away_gets_everything() {
    let Some(mut server) = Server::start() else { return };
    let ledger = Ledger::open(OpenDatabase::parse(&server.address()), 20).await.unwrap();
    let key = ledger.tenants().add(tenant("acme")).await.unwrap();
    ledger.meter().write(record(0)).await.unwrap();
    server.kill();
    for number in 1..20 {
        assert!(ledger.meter().has_room());
        ledger.meter().write(record(number)).await.unwrap();
    }
    // Those whose requests were served before are taken beyond the bound, too.
    ledger.meter().write(record(20)).await.unwrap();
    assert!(ledger.meter().is_away() && !ledger.meter().has_room());
    // Tenants are served on.
    let known = ledger.tenants().find(key.plain()).unwrap();
    let estimate = Estimate { tokens: 1, cost: Money(1) };
    ledger.tenants().reserve(&known.tenant, estimate).await.unwrap().settle(Charge::default());
    server.resume();
    until("everything is written", async || ledger.meter().waiting() == 0).await;
    assert!(ledger.meter().has_room());
    let records = ledger.records(&RecordQuery::default(), 100).await.unwrap();
    assert_eq!(records, (0..21).map(record).collect::<Vec<_>>());
    ledger.tenants().revoke_key("acme", "key-1").await.unwrap();
    assert!(ledger.tenants().find(key.plain()).is_none());
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_postgres_can_hold_stops_nobody() {
    let Some(server) = Server::start() else { return };
    let ledger = open(&server).await;
    let odd = Record {
        model: "a\0b".to_string(),
        prompt_tokens: u64::MAX,
        energy_joules: Some(f64::NAN),
        time_milliseconds: -1,
        ..record(1)
    };
    ledger.meter().write(odd).await.unwrap();
    ledger.meter().write(record(2)).await.unwrap();
    assert_eq!(ledger.meter().waiting(), 0);
    let query = UsageQuery { by: vec![By::Model, By::Hour, By::Month], ..UsageQuery::default() };
    let usage = ledger.usage(&query).await.unwrap();
    assert_eq!(usage[0].group, ["", "2023-11-14 22:00", "2023-11"]);
    assert_eq!(usage[1].group, ["a\u{fffd}b", "1969-12-31 23:00", "1969-12"]);
    assert_eq!(usage[1].prompt_tokens, i64::MAX as u64);
    ledger.close().await;
}

#[tokio::test]
async fn an_address_that_is_none_says_so_without_its_password() {
    for address in ["postgres://me:hunter2@host:port/db", "postgres://me:hunter2@127.0.0.1:1/db"] {
        let error = Ledger::open(OpenDatabase::parse(address), 1).await.err().unwrap();
        let mut said = format!("{error} {error:?} {:?}", OpenDatabase::parse(address));
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            said.push_str(&error.to_string());
            source = error.source();
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}
