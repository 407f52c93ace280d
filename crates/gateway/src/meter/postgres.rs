//! The one task that writes records into PostgreSQL: whatever waits becomes one statement, which the
//! server has on its disk when it answers (by its own `synchronous_commit`). While it is away,
//! records are in memory alone: there is no place beside it, so the end of the process loses those.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Message, Shared};
use crate::ledger::LedgerError;
use crate::ledger::postgres::{PostgresStore, in_time};
use crate::record::Record;

/// How often a server that is away is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long it may take to write before it counts as away.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the process waits for it.
const LAST_PATIENCE: Duration = Duration::from_secs(15);
/// Records of one statement.
const BATCH_MAX: usize = 1000;

/// One statement, so that a record and what it adds to its tenant's day come together or not at all.
const INSERT: &str = "\
    WITH new AS ( \
        INSERT INTO records (time_milliseconds, id, tenant, key, model, path, pool, backend, \
            status, outcome, streamed, prompt_tokens, completion_tokens, cached_tokens, \
            tokens_estimated, duration_milliseconds, first_byte_milliseconds, attempts, \
            continuations, cost, saved, energy_joules) \
        SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS r (time_milliseconds bigint, id text, \
            tenant text, key text, model text, path text, pool text, backend text, \
            status integer, outcome text, streamed boolean, prompt_tokens bigint, \
            completion_tokens bigint, cached_tokens bigint, tokens_estimated boolean, \
            duration_milliseconds bigint, first_byte_milliseconds bigint, attempts bigint, \
            continuations bigint, cost bigint, saved bigint, energy_joules double precision) \
        ON CONFLICT DO NOTHING \
        RETURNING tenant, time_milliseconds, cost \
    ) \
    INSERT INTO spent AS s (tenant, day, cost) \
    SELECT tenant, floor(time_milliseconds / 86400000.0)::bigint, sum(cost)::bigint FROM new \
    GROUP BY 1, 2 ORDER BY 1, 2 \
    ON CONFLICT (tenant, day) DO UPDATE SET cost = s.cost + excluded.cost";

pub(super) fn start(store: PostgresStore, shared: Arc<Shared>) -> mpsc::UnboundedSender<Message> {
    let (sender, queue) = mpsc::unbounded_channel();
    tokio::spawn(Writer { store, shared, kept: VecDeque::new() }.run(queue));
    sender
}

struct Writer {
    store: PostgresStore,
    shared: Arc<Shared>,
    /// Not in the database yet.
    kept: VecDeque<Record>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let mut messages = Vec::new();
        let mut confirmed: Vec<oneshot::Sender<()>> = Vec::new();
        let mut next_try = Instant::now();
        loop {
            let is_away = self.shared.is_away.load(Ordering::Relaxed);
            match is_away {
                false => {
                    if queue.recv_many(&mut messages, BATCH_MAX).await == 0 {
                        return;
                    }
                }
                true => {
                    let received = queue.recv_many(&mut messages, BATCH_MAX);
                    if timeout_at(next_try, received).await == Ok(0) {
                        return;
                    }
                }
            }
            let mut closed = None;
            for message in messages.drain(..) {
                match message {
                    Message::Record(record, written) => {
                        self.kept.push_back(*record);
                        confirmed.push(written);
                    }
                    Message::Close(answer) => closed = Some(answer),
                }
            }
            if closed.is_some() {
                self.write_last().await;
            } else if !is_away || Instant::now() >= next_try {
                let written = self.write_all().await;
                self.shared.set_away(written.as_ref().err());
                next_try = Instant::now() + RETRY;
            }
            for written in confirmed.drain(..) {
                // Who no longer waits has gone, but the record is written.
                let _ = written.send(());
            }
            if let Some(answer) = closed {
                let _ = answer.send(());
                return;
            }
        }
    }

    async fn write_all(&mut self) -> Result<(), LedgerError> {
        while !self.kept.is_empty() {
            let count = self.kept.len().min(BATCH_MAX);
            let batch: Vec<Cow<'_, Record>> = self.kept.range(..count).map(storable).collect();
            let batch = serde_json::to_string(&batch)
                .map_err(|source| LedgerError::Settings { tenant: String::new(), source })?;
            let store = &self.store;
            // Given up on, it may be done all the same: nothing is doubled when it is tried again.
            in_time(PATIENCE, async move {
                let link = store.link().await?;
                link.all(INSERT, &[&batch]).await
            })
            .await?;
            self.kept.drain(..count);
            self.shared.written(count);
        }
        Ok(())
    }

    async fn write_last(&mut self) {
        let until = Instant::now() + LAST_PATIENCE;
        while self.write_all().await.is_err() && Instant::now() < until {
            tokio::time::sleep(RETRY).await;
        }
        if !self.kept.is_empty() {
            tracing::error!(
                target: "fungible::gateway",
                records = self.kept.len(),
                "PostgreSQL is away, and the program ends: these records are lost"
            );
        }
    }
}

/// PostgreSQL's texts have no zero character and its integers end at 2^63; a record with either
/// would else hold up all that come after it.
fn storable(record: &Record) -> Cow<'_, Record> {
    const MAX: u64 = i64::MAX as u64;
    let counts =
        [record.prompt_tokens, record.completion_tokens, record.cached_tokens].into_iter().max();
    let texts = [
        &record.id,
        &record.tenant,
        &record.key,
        &record.model,
        &record.path,
        &record.pool,
        &record.backend,
    ];
    if counts <= Some(MAX)
        && record.duration_milliseconds.max(record.first_byte_milliseconds.unwrap_or(0)) <= MAX
        && !texts.iter().any(|text| text.contains('\0'))
    {
        return Cow::Borrowed(record);
    }
    let mut record = record.clone();
    for text in [
        &mut record.id,
        &mut record.tenant,
        &mut record.key,
        &mut record.model,
        &mut record.path,
        &mut record.pool,
        &mut record.backend,
    ] {
        *text = text.replace('\0', "\u{fffd}");
    }
    for count in [
        &mut record.prompt_tokens,
        &mut record.completion_tokens,
        &mut record.cached_tokens,
        &mut record.duration_milliseconds,
    ] {
        *count = (*count).min(MAX);
    }
    record.first_byte_milliseconds = record.first_byte_milliseconds.map(|time| time.min(MAX));
    Cow::Owned(record)
}
