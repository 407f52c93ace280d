//! What becomes of records when something fails: the process is killed, the database is locked,
//! taken away or put back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says when it is skipped"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gateway::ledger::{Ledger, LedgerError, OpenDatabase};
use gateway::money::Money;
use gateway::record::Record;
use gateway::tenants::{Budget, Period, Tenant};
use gateway::usage::{RecordQuery, UsageQuery};
use support::{record, tenant};

/// Says to a process of this very test that it is the one to be killed.
const FOLDER: &str = "FUNGIBLE_TEST_METER";
const LOCKED: &str = "FUNGIBLE_TEST_METER_LOCKED";

fn database(folder: &Path) -> PathBuf {
    folder.join("gateway.db")
}

async fn open(folder: &Path, records_max: usize) -> Ledger {
    Ledger::open(OpenDatabase::Sqlite(database(folder)), records_max).await.unwrap()
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

async fn all(ledger: &Ledger) -> Vec<Record> {
    ledger.records(&RecordQuery::default(), 1_000_000).await.unwrap()
}

/// Not a test by itself: writes without end, and says of each record that it was confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let ledger = open(Path::new(&folder), 1_000_000).await;
    let lock = std::env::var_os(LOCKED).map(|_| {
        let connection = rusqlite::Connection::open(database(Path::new(&folder))).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection
    });
    for writer in 0..8u64 {
        let meter = ledger.meter().clone();
        tokio::spawn(async move {
            for number in 0.. {
                let number = writer + 8 * number;
                meter.write(record(number)).await.unwrap();
                // With one call, so that the lines of several tasks do not mix.
                println!("{number}");
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    drop(lock);
}

fn kill_while_it_writes(folder: &Path, locked: bool) -> Vec<u64> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["writes_until_it_is_killed", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).stdout(Stdio::piped());
    if locked {
        command.env(LOCKED, "1");
    }
    let mut child = command.spawn().unwrap();
    // Each waits for the lock a little before it goes into the file beside.
    let enough = if locked { 300 } else { 3000 };
    let mut confirmed = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The test's own lines come first.
        if let Ok(number) = line.unwrap().parse() {
            confirmed.push(number);
        }
        if confirmed.len() == enough {
            // SIGKILL; what is in the pipe already was confirmed too.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(confirmed.len() >= enough);
    confirmed
}

async fn nothing_confirmed_is_lost(locked: bool) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path(), 1).await;
    let budgets = vec![Budget { amount: Money::MAX, period: Period::Month }];
    ledger.tenants().add(Tenant { budgets, ..tenant("acme") }).await.unwrap();
    ledger.close().await;
    let confirmed = kill_while_it_writes(folder.path(), locked);
    let ledger = open(folder.path(), 1).await;
    let found: std::collections::HashSet<String> =
        all(&ledger).await.into_iter().map(|record| record.id).collect();
    let lost: Vec<u64> = confirmed
        .into_iter()
        .filter(|number| !found.contains(&format!("request-{number}")))
        .collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    // And budgets know exactly what the records say.
    let usage = ledger.usage(&UsageQuery::default()).await.unwrap();
    let spent = rusqlite::Connection::open(database(folder.path())).unwrap();
    let spent: i64 = spent.query_row("SELECT sum(cost) FROM spent", [], |row| row.get(0)).unwrap();
    assert_eq!(usage[0].cost, Money(spent));
    ledger.close().await;
}

#[tokio::test]
async fn a_killed_process_loses_nothing_that_was_confirmed() {
    nothing_confirmed_is_lost(false).await;
}

#[tokio::test]
async fn neither_does_one_whose_database_was_locked() {
    nothing_confirmed_is_lost(true).await;
}

#[tokio::test]
async fn while_the_database_is_locked_records_wait_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path(), 10).await;
    ledger.meter().write(record(0)).await.unwrap();
    let lock = rusqlite::Connection::open(database(folder.path())).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 1..10 {
        assert!(ledger.meter().has_room());
        ledger.meter().write(record(number)).await.unwrap();
    }
    ledger.meter().write(record(10)).await.unwrap();
    assert!(ledger.meter().is_away() && !ledger.meter().has_room());
    assert_eq!(ledger.meter().waiting(), 10);
    lock.execute_batch("ROLLBACK").unwrap();
    until("everything is written", || ledger.meter().waiting() == 0).await;
    assert!(ledger.meter().has_room() && !ledger.meter().is_away());
    assert_eq!(all(&ledger).await, (0..11).map(record).collect::<Vec<_>>());
    assert!(!folder.path().join("gateway.db-records").exists());
    ledger.close().await;
}

#[tokio::test]
async fn a_database_that_was_taken_away_gets_everything_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path(), 10).await;
    ledger.meter().write(record(0)).await.unwrap();
    let (here, there) = (database(folder.path()), folder.path().join("elsewhere.db"));
    std::fs::rename(&here, &there).unwrap();
    ledger.meter().write(record(1)).await.unwrap();
    assert!(ledger.meter().is_away());
    assert!(!here.exists(), "an empty database stands where the real one was");
    std::fs::rename(&there, &here).unwrap();
    until("everything is written", || ledger.meter().waiting() == 0).await;
    assert_eq!(all(&ledger).await, [record(0), record(1)]);
    ledger.close().await;
}

#[tokio::test]
async fn what_is_kept_at_the_end_is_written_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path(), 10).await;
    let lock = rusqlite::Connection::open(database(folder.path())).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 0..5 {
        ledger.meter().write(record(number)).await.unwrap();
    }
    let meter = ledger.meter().clone();
    ledger.close().await;
    assert!(meter.write(record(9)).await.is_err(), "nobody would write it");
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    // A line that a process was killed in was never confirmed, and hurts no other.
    let kept = folder.path().join("gateway.db-records");
    let mut text = std::fs::read(&kept).unwrap();
    text.extend_from_slice(b"{\"id\":\"request-7\",\"time_mil");
    std::fs::write(&kept, text).unwrap();
    let ledger = open(folder.path(), 10).await;
    assert_eq!(all(&ledger).await, (0..5).map(record).collect::<Vec<_>>());
    assert!(!kept.exists());
    ledger.close().await;
}

#[tokio::test]
async fn a_file_serves_one_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path(), 10).await;
    let second = Ledger::open(OpenDatabase::Sqlite(database(folder.path())), 10).await;
    assert!(matches!(second, Err(LedgerError::InUse { .. })));
    // Commands come beside it.
    let beside = Ledger::open_beside(OpenDatabase::Sqlite(database(folder.path()))).await.unwrap();
    assert!(beside.meter().write(record(1)).await.is_err());
    beside.close().await;
    ledger.close().await;
    open(folder.path(), 10).await.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Arc::new(open(folder.path(), 100_000).await);
    let writers: Vec<_> = (0..64u64)
        .map(|writer| {
            let meter = ledger.meter().clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    meter.write(record(writer * 50 + number)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(all(&ledger).await, (0..3200).map(record).collect::<Vec<_>>());
}
