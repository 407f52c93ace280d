//! OpenTelemetry spans for requests, for those who collect traces.
//!
//! Requests only hand over what happened, into a queue that has an end: whatever becomes of the
//! collector, they neither wait nor fail.

mod context;
mod export;
mod settings;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{self, Receiver, Sender};

pub use context::TraceContext;
pub use export::Exporter;
pub use settings::{TraceError, TraceSettings};
pub use span::{Attribute, Part, PartKind, RequestSpan, Status};

/// Requests that may wait to be sent; further ones are lost, and counted.
pub const WAITING_MAX: usize = 2048;

/// What became of the spans of requests.
#[derive(Debug, Default)]
pub struct SpanCounts {
    pub taken: AtomicU64,
    pub delivered: AtomicU64,
    pub lost: AtomicU64,
}

/// Takes spans in.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: Sender<RequestSpan>,
    pub counts: Arc<SpanCounts>,
}

impl Tracer {
    /// A tracer, and what is put into it.
    pub fn new() -> (Tracer, Receiver<RequestSpan>) {
        let (spans, received) = mpsc::channel(WAITING_MAX);
        (Tracer { spans, counts: Arc::default() }, received)
    }

    /// Puts a span into the queue, or counts it as lost.
    pub fn take(&self, span: RequestSpan) {
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        if self.spans.try_send(span).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
