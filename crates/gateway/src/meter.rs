//! Writes records down. [`Meter::write`] returns once a record is safe from the end of this process:
//! the operating system has it, in the database or in a file beside it. What a loss of power can
//! take is bounded too: see the modules of the two databases.
//!
//! While the database is away, records wait in memory, and [`Meter::has_room`] says no when there
//! are so many of them that new requests must be refused. A record itself is never refused: its
//! request has been served.

mod postgres;
mod spill;
mod sqlite;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use tokio::sync::{mpsc as tasks, oneshot};

use crate::ledger::{LedgerError, Store};
use crate::record::Record;

/// The way to the one that writes. Clones are the same meter.
#[derive(Clone)]
pub struct Meter {
    shared: Arc<Shared>,
    queue: Option<Queue>,
}

/// Why a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    #[error("the meter is closed; the program is about to end")]
    Closed,
}

#[derive(Clone)]
enum Queue {
    OfThread(mpsc::Sender<Message>),
    OfTask(tasks::UnboundedSender<Message>),
}

impl Queue {
    /// Whether there is still somebody who takes it.
    fn send(&self, message: Message) -> bool {
        match self {
            Queue::OfThread(queue) => queue.send(message).is_ok(),
            Queue::OfTask(queue) => queue.send(message).is_ok(),
        }
    }
}

enum Message {
    Record(Box<Record>, oneshot::Sender<()>),
    /// Answered once everything before it is written and synced, or as safe as it can be.
    Close(oneshot::Sender<()>),
}

struct Shared {
    /// Records that were handed over and are not in the database yet.
    waiting: AtomicUsize,
    waiting_max: usize,
    is_away: AtomicBool,
}

impl Meter {
    pub(crate) async fn start(store: &Store, records_max: usize) -> Result<Meter, LedgerError> {
        let shared = Arc::new(Shared::new(records_max));
        let queue = match store {
            Store::Sqlite(store) => {
                Queue::OfThread(sqlite::start(store.path(), Arc::clone(&shared)).await?)
            }
            Store::Postgres(store) => {
                Queue::OfTask(postgres::start(store.another(), Arc::clone(&shared)))
            }
        };
        Ok(Meter { shared, queue: Some(queue) })
    }

    /// One that takes no records.
    pub(crate) fn closed() -> Meter {
        Meter { shared: Arc::new(Shared::new(0)), queue: None }
    }

    /// Returns once the record cannot be lost by the end of this process; while the database is
    /// away, once it is kept. A record that is there already is not doubled.
    ///
    /// # Errors
    /// After the meter was closed.
    pub async fn write(&self, record: Record) -> Result<(), MeterError> {
        let queue = self.queue.as_ref().ok_or(MeterError::Closed)?;
        let (written, is_written) = oneshot::channel();
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        if !queue.send(Message::Record(Box::new(record), written)) {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(MeterError::Closed);
        }
        is_written.await.map_err(|_| MeterError::Closed)
    }

    /// Whether new requests may come: false when too many records wait for a database that is away.
    pub fn has_room(&self) -> bool {
        self.waiting() < self.shared.waiting_max
    }

    /// Records that are not in the database yet.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Whether the database cannot be written at present.
    pub fn is_away(&self) -> bool {
        self.shared.is_away.load(Ordering::Relaxed)
    }

    pub(crate) async fn close(&self) {
        let Some(queue) = &self.queue else { return };
        let (closed, is_closed) = oneshot::channel();
        if queue.send(Message::Close(closed)) {
            let _ = is_closed.await;
        }
    }
}

impl Shared {
    fn new(waiting_max: usize) -> Shared {
        Shared { waiting: AtomicUsize::new(0), waiting_max, is_away: AtomicBool::new(false) }
    }

    fn written(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// Tells, once, that the database went away or came back.
    fn set_away(&self, away: Option<&LedgerError>) {
        let was_away = self.is_away.swap(away.is_some(), Ordering::Relaxed);
        match away {
            Some(error) if !was_away => tracing::error!(
                target: "fungible::gateway",
                error = error as &dyn std::error::Error,
                "the database cannot be written; records are kept until it can"
            ),
            None if was_away => tracing::info!(
                target: "fungible::gateway",
                waiting = self.waiting.load(Ordering::Relaxed),
                "the database can be written again"
            ),
            _ => {}
        }
    }
}
