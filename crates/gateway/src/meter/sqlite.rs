//! The one thread that writes records into a SQLite file.
//!
//! **A killed process.** Whatever waits becomes one transaction. In SQLite's WAL mode with
//! `synchronous = normal`, a commit is a write to the end of the file `-wal`, without `fsync`: the
//! operating system has it, so the end of this process takes nothing, and a commit takes some tens of
//! microseconds.
//!
//! **A loss of power.** A second thread makes the disk have it: [`PAUSE`] after a commit it calls
//! `fsync` on a handle of its own of the same `-wal` file, which is all that a commit with
//! `synchronous = full` does more, but delays nobody's answer. (SQLite's locks are on its other
//! files, so closing that handle releases none.) After a loss of power, SQLite finds the last whole
//! commit by checksums. The same thread moves pages from the `-wal` file to the database, since that
//! waits for the disk too.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::spill::Spill;
use super::{Message, Shared};
use crate::calendar::Day;
use crate::ledger::LedgerError;
use crate::ledger::sqlite::{INSERT_RECORD, Opened, record_values};
use crate::money::Money;
use crate::record::Record;

/// Between a commit and its `fsync`. With 75 ms for the disk, a record is safe after 100 ms.
const PAUSE: Duration = Duration::from_millis(25);
/// How long a lock of somebody else, or a checkpoint, may take before the database counts as away.
const BUSY: Duration = Duration::from_millis(250);
/// How often a database that is away is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Records of one transaction, as long as nothing has gone wrong.
const BATCH_MAX: usize = 1000;
/// The `-wal` file's pages are moved to the database, beside the writer, after so long or when the file is
/// so large. Not more often: after each move the writer begins the file anew, and then SQLite waits for the
/// disk in the writer's thread, some tens of milliseconds in which no answer ends.
const MOVE: Duration = Duration::from_secs(60);
const MOVE_BYTES: u64 = 256 << 20;
/// What is left of the file when it begins anew.
const WAL_KEPT_BYTES: i64 = 8 << 20;
/// With so many pages the writer waits until the file begins anew: without a pause in the writing it
/// would otherwise grow for ever. 512 MiB of 4 KiB each.
const PAGES_MAX: i64 = 131_072;

pub(super) async fn start(
    path: &Path,
    shared: Arc<Shared>,
) -> Result<Sender<Message>, LedgerError> {
    let path = path.to_path_buf();
    let open = move || Writer::open(path, shared);
    let writer = tokio::task::spawn_blocking(open).await.map_err(|_| LedgerError::Ended)??;
    let (sender, queue) = mpsc::channel();
    let path = writer.path.clone();
    thread::Builder::new()
        .name("meter".to_string())
        .spawn(move || writer.run(&queue))
        .map_err(|source| LedgerError::File { path, source })?;
    Ok(sender)
}

struct Writer {
    path: PathBuf,
    opened: Option<Opened>,
    /// Confirmed, but not in the database.
    kept: Vec<Record>,
    spill: Spill,
    tried: Instant,
    shared: Arc<Shared>,
    disk: Arc<Disk>,
    /// Held for as long as this gateway works with the file.
    _lock: File,
}

impl Writer {
    fn open(path: PathBuf, shared: Arc<Shared>) -> Result<Writer, LedgerError> {
        let lock = lock(&path)?;
        let spill = Spill::beside(&path);
        let kept =
            spill.read().map_err(|source| LedgerError::File { path: path.clone(), source })?;
        shared.waiting.fetch_add(kept.len(), std::sync::atomic::Ordering::Relaxed);
        let disk = Arc::new(Disk::default());
        let (opened, tried) = (None, Instant::now());
        let mut writer = Writer { path, opened, kept, spill, tried, shared, disk, _lock: lock };
        // What earlier processes left counts against budgets from the first request on.
        writer.flush(&[])?;
        let disk = Arc::clone(&writer.disk);
        let path = writer.path.clone();
        thread::Builder::new()
            .name("meter-disk".to_string())
            .spawn(move || disk.run(&path))
            .map_err(|source| LedgerError::File { path: writer.path.clone(), source })?;
        Ok(writer)
    }

    fn run(mut self, queue: &Receiver<Message>) {
        let mut records = Vec::new();
        let mut confirmed = Vec::new();
        let mut closed = None;
        while closed.is_none() {
            let first = match self.kept.is_empty() {
                true => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => queue.recv_timeout(RETRY),
            };
            let mut next = match first {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Some(message) = next.take() {
                match message {
                    Message::Record(record, written) => {
                        records.push(*record);
                        confirmed.push(written);
                    }
                    Message::Close(answer) => closed = Some(answer),
                }
                if records.len() < BATCH_MAX && closed.is_none() {
                    next = queue.try_recv().ok();
                }
            }
            let is_due = self.kept.is_empty() || closed.is_some() || self.tried.elapsed() >= RETRY;
            let written = if is_due { self.flush(&records) } else { Ok(false) };
            if let Err(error) = &written {
                self.shared.set_away(Some(error));
            }
            match written {
                Ok(true) => records.clear(),
                Ok(false) | Err(_) => self.keep(&mut records),
            }
            for written in confirmed.drain(..) {
                // Who no longer waits has gone, but the record is written.
                let _ = written.send(());
            }
        }
        self.end();
        if let Some(answer) = closed {
            let _ = answer.send(());
        }
    }

    /// Everything that was kept, and these, into the database.
    fn flush(&mut self, records: &[Record]) -> Result<bool, LedgerError> {
        self.tried = Instant::now();
        let kept = self.kept.len();
        if kept + records.len() == 0 {
            return Ok(true);
        }
        self.commit(records).inspect_err(|_| self.opened = None)?;
        self.shared.written(kept + records.len());
        self.shared.set_away(None);
        if kept > 0 {
            self.kept = Vec::new();
            let cleared = self.disk.sync().and_then(|()| self.spill.clear());
            if let Err(error) = cleared {
                // They are found again at the next start, and not doubled.
                self.warn(&error, "the file of kept records cannot be removed");
            }
        }
        Ok(true)
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), LedgerError> {
        let gone = || LedgerError::Gone { path: self.path.clone() };
        let opened = match &mut self.opened {
            Some(opened) if opened.is_current(&self.path) => opened,
            none => {
                let opened = connect(&self.path)?;
                none.insert(opened)
            }
        };
        write(&mut opened.connection, self.kept.iter().chain(records))?;
        // If the file went away on the way, nobody will read what was written.
        if !opened.is_current(&self.path) {
            return Err(gone());
        }
        self.disk.has_more(&self.path);
        Ok(())
    }

    fn keep(&mut self, records: &mut Vec<Record>) {
        if !records.is_empty()
            && let Err(error) = self.spill.append(records.iter())
        {
            self.warn(&error, "records are in memory alone, since no file can be written either");
        }
        self.kept.append(records);
    }

    fn end(&mut self) {
        if let Err(error) = self.disk.sync().and_then(|()| self.spill.sync()) {
            self.warn(&error, "the disk did not take the last records");
        }
        self.disk.stop();
        if let Some(opened) = &self.opened {
            // Only tidies up; whoever opens the database next does it otherwise.
            let _ = checkpoint(&opened.connection, "truncate");
        }
        if !self.kept.is_empty() {
            tracing::error!(
                target: "fungible::gateway",
                records = self.kept.len(),
                "the database is away; records are kept in the file beside it until the next start"
            );
        }
    }

    fn warn(&self, error: &std::io::Error, message: &'static str) {
        let error = error as &dyn std::error::Error;
        tracing::warn!(
            target: "fungible::gateway", error, path = %self.path.display(), "{message}"
        );
    }
}

fn connect(path: &Path) -> Result<Opened, LedgerError> {
    let opened = Opened::connect(path, BUSY)?;
    opened.connection.pragma_update(None, "synchronous", "normal")?;
    // The other thread does it.
    opened.connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A file that begins anew is cut down, so that its length says how much is to be moved.
    opened.connection.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    Ok(opened)
}

fn write<'a>(
    connection: &mut Connection,
    records: impl Iterator<Item = &'a Record>,
) -> Result<(), LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut spent: HashMap<(&str, Day), Money> = HashMap::new();
    let mut insert = transaction.prepare_cached(INSERT_RECORD)?;
    for record in records {
        let inserted = record_values(record, |values| insert.execute(values))?;
        if inserted == 1 && record.cost != Money::ZERO {
            let day = Day::of(record.time_milliseconds);
            *spent.entry((&record.tenant, day)).or_default() += record.cost;
        }
    }
    drop(insert);
    let mut add = transaction.prepare_cached(
        "INSERT INTO spent (tenant, day, cost) VALUES (?, ?, ?) \
         ON CONFLICT (tenant, day) DO UPDATE SET cost = cost + excluded.cost",
    )?;
    for ((tenant, day), cost) in spent {
        add.execute((tenant, day.0, cost.0))?;
    }
    drop(add);
    Ok(transaction.commit()?)
}

/// Returns how many pages were in the `-wal` file.
fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| row.get(1))
}

/// So that no second gateway works with the same file: each would know only half of what is spent.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-lock");
    let beside = PathBuf::from(beside);
    let unusable = |source| LedgerError::File { path: beside.clone(), source };
    let file = OpenOptions::new().append(true).create(true).open(&beside).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: path.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// What the two threads know of the `-wal` file.
#[derive(Default)]
struct Disk {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Default)]
struct DiskState {
    /// The file that commits go to.
    wal: Option<Arc<File>>,
    has_more: bool,
    is_over: bool,
}

impl Disk {
    /// After a commit.
    fn has_more(&self, database: &Path) {
        let mut state = self.state();
        let is_there = |wal: &Arc<File>| wal.metadata().is_ok_and(|wal| !is_unlinked(&wal));
        if !state.wal.as_ref().is_some_and(is_there) {
            let mut path = database.as_os_str().to_owned();
            path.push("-wal");
            state.wal = File::open(path).ok().map(Arc::new);
        }
        state.has_more = true;
        drop(state);
        self.changed.notify_one();
    }

    fn sync(&self) -> std::io::Result<()> {
        let mut state = self.state();
        state.has_more = false;
        let wal = state.wal.clone();
        // Not under the lock: the writer must not wait for the disk.
        drop(state);
        wal.map_or(Ok(()), |wal| wal.sync_data())
    }

    fn wal_bytes(&self) -> u64 {
        let wal = self.state().wal.clone();
        wal.and_then(|wal| wal.metadata().ok()).map_or(0, |about| about.len())
    }

    fn stop(&self) {
        self.state().is_over = true;
        self.changed.notify_one();
    }

    fn run(&self, path: &Path) {
        let mut failed = false;
        let mut moved = Instant::now();
        loop {
            let mut state = self.state();
            while !state.has_more && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            drop(state);
            thread::sleep(PAUSE);
            let synced = self.sync();
            if let Err(error) = &synced
                && !failed
            {
                tracing::error!(
                    target: "fungible::gateway",
                    error = error as &dyn std::error::Error,
                    "the disk does not take records; a loss of power would lose them"
                );
            }
            failed = synced.is_err();
            if moved.elapsed() >= MOVE || self.wal_bytes() >= MOVE_BYTES {
                // What fails is tried again after a later commit.
                let _ = move_pages(path);
                moved = Instant::now();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the `-wal` file to the database.
fn move_pages(path: &Path) -> Result<(), LedgerError> {
    let opened = connect(path)?;
    if checkpoint(&opened.connection, "passive")? > PAGES_MAX {
        checkpoint(&opened.connection, "truncate")?;
    }
    Ok(())
}

#[cfg(unix)]
fn is_unlinked(file: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) == 0
}

#[cfg(not(unix))]
fn is_unlinked(_: &std::fs::Metadata) -> bool {
    false
}
