//! The ledger on SQLite: tenants, keys, limits and records, as a gateway uses them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway::ledger::{Ledger, LedgerError, OpenDatabase};
use gateway::money::Money;
use gateway::record::Record;
use gateway::tenants::{
    Budget, Charge, Estimate, LimitError, Limits, Period, ReserveError, Tenant, TenantError,
};
use gateway::usage::{By, RecordQuery, UsageQuery};
use support::{record, tenant};

async fn open(folder: &Path) -> Ledger {
    let path = folder.join("gateway.db");
    Ledger::open(OpenDatabase::Sqlite(path), 1000).await.unwrap()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}

#[tokio::test]
async fn what_is_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path()).await;
    let key = ledger.tenants().add(tenant("acme")).await.unwrap();
    for number in 0..10 {
        ledger.meter().write(record(number)).await.unwrap();
    }
    // A second time changes nothing.
    ledger.meter().write(record(3)).await.unwrap();
    assert_eq!(ledger.meter().waiting(), 0);
    ledger.close().await;

    let ledger = open(folder.path()).await;
    let known = ledger.tenants().find(key.plain()).unwrap();
    assert_eq!((known.tenant.as_ref(), known.key.as_ref()), (&tenant("acme"), "key-1"));
    let records = ledger.records(&RecordQuery::default(), 100).await.unwrap();
    assert_eq!(records, (0..10).map(record).collect::<Vec<_>>());
    let query = UsageQuery { by: vec![By::Tenant, By::Day], ..UsageQuery::default() };
    let usage = ledger.usage(&query).await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].group, ["acme", "2023-11-14"]);
    assert_eq!((usage[0].requests, usage[0].prompt_tokens, usage[0].cost), (10, 45, Money(45)));
}

#[tokio::test]
async fn keys_are_rotated_and_revoked_also_by_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = open(folder.path()).await;
    // With connections of its own, as a command has.
    let path = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
    let command = Ledger::open_beside(path).await.unwrap();
    let first = command.tenants().add(tenant("acme")).await.unwrap();
    let tenants = gateway.tenants();
    until("the new tenant is seen", || tenants.find(first.plain()).is_some()).await;

    let day = Duration::from_secs(86_400);
    let second = command.tenants().rotate_key("acme", "key-1", day).await.unwrap();
    until("the new key is seen", || tenants.find(second.plain()).is_some()).await;
    assert_eq!(tenants.find(second.plain()).unwrap().key.as_ref(), "key-2");
    // Both are taken until the grace is over.
    assert_eq!(tenants.find(first.plain()).unwrap().key.as_ref(), "key-1");
    command.tenants().revoke_key("acme", "key-1").await.unwrap();
    until("the old key is revoked", || tenants.find(first.plain()).is_none()).await;
    assert!(tenants.find(second.plain()).is_some());

    // Without grace it ends at once.
    let third = command.tenants().rotate_key("acme", "key-2", Duration::ZERO).await.unwrap();
    assert!(command.tenants().find(second.plain()).is_none());
    let named = command.tenants().add_key("acme", Some("laptop")).await.unwrap();
    let keys = command.tenants().list().remove(0).keys;
    let keys: Vec<(&str, bool)> =
        keys.iter().map(|key| (key.name.as_str(), key.is_valid)).collect();
    assert_eq!(keys, [("key-1", false), ("key-2", false), ("key-3", true), ("laptop", true)]);
    assert!(command.tenants().find(third.plain()).is_some());

    command.tenants().change(Tenant { is_suspended: true, ..tenant("acme") }).await.unwrap();
    until("it is suspended", || tenants.named("acme").unwrap().is_suspended).await;
    command.tenants().remove("acme").await.unwrap();
    until("it is gone", || tenants.named("acme").is_none()).await;
    assert!(tenants.find(named.plain()).is_none());

    for wrong in ["", "fk-", "fk-short", first.plain(), &"x".repeat(46), &"é".repeat(23)] {
        assert!(tenants.find(wrong).is_none());
    }
    command.close().await;
    gateway.close().await;
}

#[tokio::test]
async fn no_key_is_in_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path()).await;
    let key = ledger.tenants().add(tenant("acme")).await.unwrap();
    ledger.close().await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let secret = &key.plain().as_bytes()[3..];
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn what_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path()).await;
    let tenants = ledger.tenants();
    tenants.add(tenant("acme")).await.unwrap();
    let said = |error: TenantError| error.to_string();
    let again = tenants.add(tenant("acme")).await.unwrap_err();
    assert!(matches!(again, TenantError::TenantExists(_)), "{}", said(again));
    let spaced = tenants.add(tenant("a b")).await.unwrap_err();
    assert!(matches!(spaced, TenantError::Name(_)), "{}", said(spaced));
    let key = tenants.add_key("acme", Some("key-1")).await.unwrap_err();
    assert!(matches!(key, TenantError::KeyExists { .. }), "{}", said(key));
    let gone = tenants.revoke_key("acme", "key-7").await.unwrap_err();
    assert!(matches!(gone, TenantError::NoKey { .. }), "{}", said(gone));
    let nobody = tenants.remove("nobody").await.unwrap_err();
    assert!(matches!(nobody, TenantError::NoTenant(_)), "{}", said(nobody));
    ledger.close().await;
}

/// 200 clients that all reserve at once, and tasks that are given up in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_cannot_overspend_a_budget() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(folder.path()).await);
    let budgets = vec![Budget { amount: Money(100_000), period: Period::Day }];
    ledger.tenants().add(Tenant { budgets, ..tenant("acme") }).await.unwrap();
    let acme = ledger.tenants().named("acme").unwrap();
    let clients: Vec<_> = (0..200u64)
        .map(|client| {
            let (ledger, acme) = (Arc::clone(&ledger), Arc::clone(&acme));
            tokio::spawn(async move {
                let mut spent = 0;
                for turn in 0..50 {
                    let estimate = Estimate { tokens: 10, cost: Money(100) };
                    let Ok(reservation) = ledger.tenants().reserve(&acme, estimate).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    tokio::task::yield_now().await;
                    // Every fifth is given up, and costs nothing.
                    if (client + turn) % 5 != 0 {
                        let cost = Money(60 + (client * turn % 41) as i64);
                        reservation.settle(Charge { tokens: 10, cost });
                        spent += cost.0;
                    }
                }
                spent
            })
        })
        .collect();
    let mut spent = 0;
    for client in clients {
        spent += client.await.unwrap();
    }
    let view = ledger.tenants().list().remove(0);
    assert_eq!(Money::from_dollars(view.budgets[0].spent_usd), Money(spent));
    assert_eq!((view.budgets[0].reserved_usd, view.in_flight), (0.0, 0));
    // Not by a single one; and no more was left over than one request may cost.
    assert!((100_000 - 100 + 1..=100_000).contains(&spent), "{spent}");
}

#[tokio::test]
async fn what_was_spent_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path()).await;
    let budgets = vec![Budget { amount: Money(100), period: Period::Month }];
    ledger.tenants().add(Tenant { budgets, ..tenant("acme") }).await.unwrap();
    let time_milliseconds = gateway::calendar::now_milliseconds();
    let paid = Record { cost: Money(90), time_milliseconds, ..record(1) };
    ledger.meter().write(paid).await.unwrap();
    // As if it were killed: it is not settled, and nothing is closed.
    drop(ledger);
    let path = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
    let mut opened = Ledger::open(path.clone(), 10).await;
    // The writer's thread ends once it hears that nobody can send it anything.
    for _ in 0..200 {
        if !matches!(opened, Err(LedgerError::InUse { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        opened = Ledger::open(path.clone(), 10).await;
    }
    let ledger = opened.unwrap();
    let acme = ledger.tenants().named("acme").unwrap();
    let estimate = Estimate { tokens: 1, cost: Money(11) };
    let refused = ledger.tenants().reserve(&acme, estimate).await.err();
    let left = Money(10);
    let (amount, period, asked) = (Money(100), Period::Month, Money(11));
    let budget = LimitError::Budget { amount, period, left, asked };
    assert_eq!(refused, Some(ReserveError::Limit(budget)));
    // A tenant that is removed and added again has spent what it has spent.
    ledger.tenants().remove("acme").await.unwrap();
    ledger.tenants().add(acme.as_ref().clone()).await.unwrap();
    assert!(ledger.tenants().reserve(&acme, estimate).await.is_err());
    ledger.close().await;
}

#[tokio::test(start_paused = true)]
async fn limits_hold_over_any_minute() {
    let folder = tempfile::tempdir().unwrap();
    let path = OpenDatabase::Sqlite(folder.path().join("gateway.db"));
    let ledger = Ledger::open_beside(path).await.unwrap();
    let limits =
        Limits { requests_per_minute: Some(3), tokens_per_minute: Some(100), concurrency: Some(2) };
    let acme = Arc::new(Tenant { limits, ..tenant("acme") });
    let ask = async |tokens| {
        let estimate = Estimate { tokens, cost: Money::ZERO };
        ledger.tenants().reserve(&acme, estimate).await
    };
    let first = ask(50).await.unwrap();
    let second = ask(50).await.unwrap();
    let concurrency = LimitError::Concurrency { limit: 2 };
    assert_eq!(ask(0).await.err(), Some(ReserveError::Limit(concurrency)));
    first.settle(Charge { tokens: 20, cost: Money::ZERO });
    let refused = ask(31).await.err();
    assert!(matches!(
        refused,
        Some(ReserveError::Limit(LimitError::Tokens { limit: 100, asked: 31, .. }))
    ));
    // Given back, neither its tokens nor itself count.
    drop(second);
    let second = ask(30).await.unwrap();
    second.settle(Charge { tokens: 30, cost: Money::ZERO });
    tokio::time::advance(Duration::from_secs(30)).await;
    ask(50).await.unwrap().settle(Charge { tokens: 50, cost: Money::ZERO });
    let Some(ReserveError::Limit(LimitError::Requests { limit: 3, retry_after })) =
        ask(0).await.err()
    else {
        panic!("a fourth request within a minute");
    };
    tokio::time::advance(retry_after - Duration::from_millis(1)).await;
    assert!(ask(0).await.is_err());
    tokio::time::advance(Duration::from_millis(1)).await;
    // The first two are a minute old; the third is not.
    ask(50).await.unwrap().settle(Charge { tokens: 50, cost: Money::ZERO });
    assert!(matches!(ask(1).await.err(), Some(ReserveError::Limit(LimitError::Tokens { .. }))));
}

#[tokio::test]
async fn a_database_that_is_not_ours_or_newer_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign.db");
    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let before = std::fs::read(&path).unwrap().len();
    let opened = Ledger::open_beside(OpenDatabase::Sqlite(path.clone())).await;
    assert!(matches!(opened, Err(LedgerError::Foreign { .. })));
    assert_eq!(std::fs::read(&path).unwrap().len(), before);

    open(folder.path()).await.close().await;
    let path = folder.path().join("gateway.db");
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 1000).unwrap();
    drop(newer);
    let opened = Ledger::open_beside(OpenDatabase::Sqlite(path)).await;
    assert!(matches!(opened, Err(LedgerError::Newer { found: 1000, .. })));

    let text = folder.path().join("text.db");
    std::fs::write(&text, "no database at all, but long enough for a header of one".repeat(40))
        .unwrap();
    let opened = Ledger::open_beside(OpenDatabase::Sqlite(text)).await;
    assert!(matches!(opened, Err(LedgerError::Open { .. } | LedgerError::Sqlite(_))));
    let nowhere = OpenDatabase::Sqlite(folder.path().join("no/such/folder.db"));
    assert!(matches!(Ledger::open_beside(nowhere).await, Err(LedgerError::File { .. })));
}
