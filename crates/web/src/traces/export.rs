//! Sends spans to a collector in the background, many at once. A collector that is away costs spans and
//! one warning, nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::settings::TraceSettings;
use super::span::{RequestSpan, body};
use super::{SpanCounts, Tracer};

/// Requests in one message.
const BATCH_MAX: usize = 128;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// What is sent again waits so long, and twice as long each further time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const TRIES_MAX: u32 = 4;
/// How long sending what is left may take when the server stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The task that sends.
pub struct Exporter {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
    counts: Arc<SpanCounts>,
}

/// Why a message did not arrive.
struct Trouble {
    why: String,
    /// Whether it may arrive later.
    passes: bool,
}

struct Sending {
    settings: TraceSettings,
    spans: Receiver<RequestSpan>,
    stopped: watch::Receiver<bool>,
    counts: Arc<SpanCounts>,
    is_failing: bool,
    /// Some spans were not wanted, which was told.
    is_rejected: bool,
    told_lost: u64,
}

impl Exporter {
    /// Sends what comes out of `spans`; must be called on the server's runtime.
    pub fn start(
        settings: TraceSettings,
        tracer: &Tracer,
        spans: Receiver<RequestSpan>,
    ) -> Exporter {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::clone(&tracer.counts);
        let theirs = Arc::clone(&counts);
        let sending = Sending {
            settings,
            spans,
            stopped,
            counts: theirs,
            is_failing: false,
            is_rejected: false,
            told_lost: 0,
        };
        Exporter { task: tokio::spawn(sending.run()), stop, counts }
    }

    /// Sends what is left, as far as that goes quickly.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        if timeout(FLUSH_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
        let [taken, delivered] =
            [&self.counts.taken, &self.counts.delivered].map(|count| count.load(Ordering::Relaxed));
        if taken > delivered {
            let lost = taken - delivered;
            tracing::warn!(target: "fungible::traces", lost, delivered, "traces of requests were lost");
        }
    }
}

impl Sending {
    async fn run(mut self) {
        let mut batch = Vec::new();
        let mut stopped = self.stopped.clone();
        loop {
            let first = tokio::select! {
                first = self.spans.recv() => first,
                _ = stopped.wait_for(|&stop| stop) => break,
            };
            let Some(first) = first else { return };
            batch.push(first);
            let deadline = Instant::now() + BATCH_WAIT;
            let fill = async {
                while batch.len() < BATCH_MAX {
                    let Some(next) = self.spans.recv().await else { break };
                    batch.push(next);
                }
            };
            tokio::select! {
                _ = timeout_at(deadline, fill) => {}
                _ = stopped.wait_for(|&stop| stop) => {}
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.spans.close();
        while self.spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<RequestSpan>) {
        let body = body(&self.settings.resource, &batch);
        let count = batch.len() as u64;
        for attempt in 1..=TRIES_MAX {
            let trouble = match self.post(body.clone()).await {
                Ok(()) => return self.arrived(count),
                Err(trouble) => trouble,
            };
            // Once, however long it lasts; what it costs is counted.
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(
                    target: "fungible::traces",
                    to = self.settings.shown(),
                    error = trouble.why,
                    "traces do not arrive; requests are answered without them"
                );
            }
            if !trouble.passes || attempt == TRIES_MAX || *self.stopped.borrow() {
                break;
            }
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = sleep(AGAIN_AFTER * (1 << (attempt - 1))) => {}
                _ = stopped.wait_for(|&stop| stop) => {}
            }
        }
        self.counts.lost.fetch_add(count, Ordering::Relaxed);
    }

    fn arrived(&mut self, count: u64) {
        self.counts.delivered.fetch_add(count, Ordering::Relaxed);
        let lost = self.counts.lost.load(Ordering::Relaxed);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(target: "fungible::traces", lost, "traces arrive again");
        } else if lost > self.told_lost {
            tracing::warn!(
                target: "fungible::traces",
                lost,
                "there are more traces than the collector takes"
            );
        }
        self.told_lost = lost;
    }

    async fn post(&mut self, body: Vec<u8>) -> Result<(), Trouble> {
        let request = self.settings.client.post(self.settings.url.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let response = request.send().await.map_err(|error| {
            // The address may hold a password, and is told beside.
            Trouble { why: chain(&error.without_url()), passes: true }
        })?;
        let status = response.status();
        if !status.is_success() {
            let passes = matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            );
            return Err(Trouble { why: format!("the collector answered {status}"), passes });
        }
        // An answer that cannot be read is as good as an empty one.
        let answer: Value = response.json().await.unwrap_or_default();
        let partial = &answer["partialSuccess"];
        let rejected = match &partial["rejectedSpans"] {
            Value::String(text) => text.parse().unwrap_or(0),
            number => number.as_i64().unwrap_or(0),
        };
        if rejected > 0 {
            let why = partial["errorMessage"].as_str().unwrap_or_default();
            if !std::mem::replace(&mut self.is_rejected, true) {
                tracing::warn!(
                    target: "fungible::traces",
                    rejected,
                    why,
                    "the collector does not want some spans"
                );
            }
        }
        Ok(())
    }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
