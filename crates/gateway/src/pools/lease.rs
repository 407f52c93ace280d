//! One try at one backend: sending, and telling what became of it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use tokio::time::Instant;

use super::backend::{Backend, Slot};
use super::client::SendError;
use super::pool::Pool;
use crate::route::Purpose;

/// A request's place at a backend. Dropped without a word it counts neither for nor against it.
pub struct Lease {
    pool: Arc<Pool>,
    model_name: Arc<str>,
    slot: Slot,
    purpose: Purpose,
    sent: OnceLock<Instant>,
    first: Option<Duration>,
}

/// What a backend did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    pub prompt_tokens: u64,
    /// Of the prompt's.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// From the first token of a stream to its last.
    pub generation: Option<Duration>,
}

/// Why a try came to nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// No connection.
    Connect,
    /// No byte for too long.
    Timeout,
    /// The connection or the stream broke off.
    Broken,
    /// An answer with this status, which makes no sense to pass on.
    Status(u16),
    /// What came is not what the interface says.
    Garbage,
    /// 429, and how long to wait if it said so.
    RateLimited(Option<Duration>),
}

impl Fault {
    /// Whether it says that the backend is ill, or set up wrongly (it does not know our key).
    pub fn blames_backend(&self) -> bool {
        match self {
            Fault::Status(status) => matches!(status, 401 | 403 | 408 | 500..),
            Fault::RateLimited(_) => false,
            Fault::Connect | Fault::Timeout | Fault::Broken | Fault::Garbage => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect => formatter.write_str("no connection"),
            Fault::Timeout => formatter.write_str("no answer in time"),
            Fault::Broken => formatter.write_str("the answer broke off"),
            Fault::Status(status) => write!(formatter, "status {status}"),
            Fault::Garbage => formatter.write_str("an answer that makes no sense"),
            Fault::RateLimited(_) => formatter.write_str("status 429"),
        }
    }
}

impl Lease {
    pub(crate) fn new(
        pool: Arc<Pool>,
        model_name: Arc<str>,
        slot: Slot,
        purpose: Purpose,
    ) -> Lease {
        Lease { pool, model_name, slot, purpose, sent: OnceLock::new(), first: None }
    }

    pub fn backend(&self) -> &Arc<Backend> {
        self.slot.backend()
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What the model is called there.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// Sends a request whose path is the client's (`/v1/...`); address, key, TLS and certificate are
    /// the backend's. Headers that belong to one connection are removed, both ways. Ends when the
    /// answer's headers are there; how long that may take is up to the caller.
    ///
    /// # Errors
    /// No answer came; the error knows whether the backend may have begun to work.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        let backend = self.backend();
        self.sent.get_or_init(Instant::now);
        let config = backend.config();
        let client = backend.client();
        client.send(&config.name, config.api_key.as_ref(), backend.secrets(), request).await
    }

    /// Of a stream: its first token is there. Not for answers that come whole.
    pub fn first_byte(&mut self) {
        let now = Instant::now();
        if self.first.is_none() {
            let time = self.since_send(now);
            self.first = Some(time);
            self.backend().vitals().first_token(time, now);
        }
    }

    pub fn succeeded(mut self, served: Served) {
        let now = Instant::now();
        let whole = self.since_send(now);
        let is_trial = self.slot.settle_trial();
        let backend = self.slot.backend();
        backend.vitals().succeeded(is_trial, &served, self.first, whole, backend.breaker(), now);
        self.pool.meter().served(&served, whole, now);
        self.purpose.succeeded(&self.pool, &served, self.first, whole, now);
    }

    pub fn failed(mut self, fault: Fault) {
        let now = Instant::now();
        let whole = self.since_send(now);
        let is_trial = self.slot.settle_trial();
        let backend = self.slot.backend();
        if backend.vitals().failed(is_trial, &fault, whole, backend.breaker(), now) {
            tracing::warn!(
                target: "fungible::gateway",
                pool = self.pool.name(), backend = backend.name(), %fault,
                "too many requests failed there; it is left alone for a while",
            );
        }
        if fault.blames_backend() {
            self.pool.meter().failed(now);
        }
        self.purpose.failed(&fault);
    }

    /// The backend finds the request itself wrong, which says nothing of it; but of a pool on trial it
    /// does if others find fewer of them wrong.
    pub fn refused(self) {
        self.purpose.refused();
    }

    /// Whether its pool is not trusted yet.
    pub fn is_on_trial(&self) -> bool {
        self.purpose.is_on_trial
    }

    fn since_send(&self, now: Instant) -> Duration {
        self.sent.get().map_or(Duration::ZERO, |&sent| now.saturating_duration_since(sent))
    }
}
