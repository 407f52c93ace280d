//! One request from its first try to its account: which backend is next, whether another one may be
//! asked, what is written down at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Instant, sleep};

use super::attempt::{Failed, about_the_answer};
use super::bill::Total;
use super::mirror::Original;
use super::retry::back_off;
use super::usage::Usage;
use crate::ask::Ask;
use crate::body::Body;
use crate::config::ModelConfig;
use crate::error::ApiError;
use crate::front::error_response;
use crate::money::Money;
use crate::pools::{Fault, Lease};
use crate::record::Outcome;
use crate::route::Route;
use crate::shared::Shared;
use crate::ticket::Ticket;

/// Tries in a row that may fail while an answer waits to go on.
const CONTINUATION_TRIES_MAX: u32 = 12;
const UNTRIED_WAIT_MAX: Duration = Duration::from_millis(500);

pub(super) struct Errand {
    pub shared: Arc<Shared>,
    pub ask: Arc<Ask>,
    pub route: Route,
    /// Open until the end.
    ticket: Option<Ticket>,
    pub deadline: Instant,
    pub seed: i64,
    attempts: u32,
    /// Failed ones since the last success.
    failures: u32,
    last_fault: Option<Fault>,
    /// The last try failed at a pool that is not trusted yet.
    failed_on_trial: bool,
    /// Who compares the client's answer with a mirror's.
    pub original: Option<Original>,
}

/// Why a request gets no answer of a backend's making, or not the one it wanted.
#[derive(Debug)]
pub(super) enum Stop {
    Error(ApiError),
    /// The backend's own words about the request.
    Refused {
        status: StatusCode,
        headers: HeaderMap,
        body: hyper::body::Bytes,
    },
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Stop {
        Stop::Error(error)
    }
}

impl Errand {
    pub fn new(shared: Arc<Shared>, ask: Ask, route: Route, ticket: Ticket) -> Errand {
        let deadline = ask.arrived + route.model().deadline;
        shared.budgets.retries.request();
        Errand {
            shared,
            ask: Arc::new(ask),
            route,
            ticket: Some(ticket),
            deadline,
            seed: super::attempt::seed(),
            attempts: 0,
            failures: 0,
            last_fault: None,
            failed_on_trial: false,
            original: None,
        }
    }

    pub fn model(&self) -> &ModelConfig {
        self.route.model()
    }

    /// The next backend, when it has room. It counts as asked once [`Errand::began`] says so.
    pub async fn lease(&mut self) -> Result<Lease, ApiError> {
        if let Some(lease) = self.route.next() {
            return Ok(lease);
        }
        let now = Instant::now();
        let until = (now + self.shared.config().limits.wait_max).min(self.deadline);
        let mut lease = None;
        if self.attempts > 0 {
            // Whoever has not been asked is better than who has failed, but not at any price.
            lease = self.route.wait((now + UNTRIED_WAIT_MAX).min(until)).await;
            if lease.is_none() {
                self.route.start_over();
            }
        }
        if lease.is_none() {
            lease = self.route.wait(until).await;
        }
        lease.ok_or_else(|| self.give_up())
    }

    /// A backend is asked.
    pub fn began(&mut self, lease: &Lease) {
        self.attempts += 1;
        let attempts = self.attempts;
        if let Some(ticket) = &mut self.ticket {
            let record = ticket.record();
            record.attempts = attempts;
            record.pool.clear();
            record.pool.push_str(lease.pool().name());
            record.backend.clear();
            record.backend.push_str(lease.backend().name());
            if let Some(trace) = ticket.trace() {
                trace.asked(lease.pool().name(), lease.backend().name());
            }
        }
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Tells the backend, and the log what it said.
    pub fn failed(&mut self, lease: Lease, fault: Fault, message: &str) {
        tracing::debug!(
            target: "fungible::gateway",
            id = self.ask.id, pool = lease.pool().name(), backend = lease.backend().name(),
            %fault, message, "a try failed"
        );
        self.failed_on_trial = lease.is_on_trial();
        self.failures += u32::from(!self.failed_on_trial);
        self.last_fault = Some(fault);
        if let Some(trace) = self.ticket.as_mut().and_then(Ticket::trace) {
            trace.ended(Some(fault.to_string()));
        }
        lease.failed(fault);
    }

    /// Something came: what failed before is over.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Returns when another backend may be asked, none of whose answer has been sent.
    pub async fn may_retry(&mut self) -> Result<(), ApiError> {
        // A trial is not at the clients' expense: the pools that would have been asked without it are
        // asked at once. It is one request of a share that is theirs anyway, so it is no load on top.
        if self.failed_on_trial {
            return Ok(());
        }
        if self.failures > self.model().retries {
            return Err(self.give_up());
        }
        if !self.shared.budgets.retries.take() {
            self.shared.metrics.retries_refused.fetch_add(1, Ordering::Relaxed);
            return Err(self.give_up());
        }
        self.pause().await
    }

    /// Returns when another backend may be asked to go on.
    pub async fn may_go_on(&mut self) -> Result<(), ApiError> {
        if self.failures > CONTINUATION_TRIES_MAX {
            return Err(self.give_up());
        }
        self.pause().await
    }

    async fn pause(&mut self) -> Result<(), ApiError> {
        let now = Instant::now();
        let pause = if self.failures == 0 { Duration::ZERO } else { back_off(self.failures) };
        if now + pause >= self.deadline {
            return Err(ApiError::deadline());
        }
        sleep(pause).await;
        Ok(())
    }

    /// What the client is told when nobody is left. Never what backends are called.
    pub fn give_up(&self) -> ApiError {
        if Instant::now() >= self.deadline {
            return ApiError::deadline();
        }
        match self.last_fault {
            None => ApiError::unavailable("no backend has room for this request, or none is well"),
            Some(Fault::RateLimited(after)) => ApiError {
                code: Some("rate_limit_exceeded"),
                retry_after: Some(after.unwrap_or(Duration::from_secs(1))),
                ..ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "requests",
                    "all backends that could answer have too much to do",
                )
            },
            Some(fault) => ApiError::no_answer(format!(
                "no backend could answer; {} asked, and the last one gave {fault}",
                match self.attempts {
                    1 => "one was".to_owned(),
                    attempts => format!("{attempts} were"),
                }
            )),
        }
    }

    pub fn first_byte(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.first_byte();
        }
    }

    pub fn continued(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.record().continuations += 1;
        }
    }

    /// Writes down what was used.
    pub fn used(&mut self, usage: &Usage, is_estimated: bool, total: &Total) {
        let dearest = self.route.dearest(usage.prompt_tokens, usage.completion_tokens);
        let Some(ticket) = &mut self.ticket else { return };
        let record = ticket.record();
        record.prompt_tokens = usage.prompt_tokens;
        record.completion_tokens = usage.completion_tokens;
        record.cached_tokens = usage.cached_tokens();
        record.tokens_estimated = is_estimated;
        record.cost = total.cost;
        record.saved = dearest - total.cost;
        record.energy_joules = total.energy_joules;
    }

    /// Returns when the account is safe. Nothing of the answer's end may be sent before.
    pub async fn close(&mut self, outcome: Outcome, status: StatusCode) {
        if let Some(mut ticket) = self.ticket.take() {
            let record = ticket.record();
            record.outcome = outcome;
            record.status = status.as_u16();
            ticket.close().await;
        }
    }

    /// Whether the account is still open.
    pub fn is_open(&self) -> bool {
        self.ticket.is_some()
    }

    /// The end of a request of which nothing has been sent.
    pub async fn stopped(&mut self, stop: Stop) -> Response<Body> {
        let outcome = match &stop {
            Stop::Error(_) => Outcome::Failed,
            // Wrong by the request's own making.
            Stop::Refused { .. } => Outcome::Complete,
        };
        let mut response = match stop {
            Stop::Error(error) => error_response(&error),
            Stop::Refused { status, headers, body } => {
                let mut response = Response::new(Body::whole(body));
                *response.status_mut() = status;
                *response.headers_mut() = about_the_answer(&headers);
                response
            }
        };
        self.put_headers(&mut response, None, None);
        self.close(outcome, response.status()).await;
        response
    }

    /// What the gateway has to say beside the answer.
    pub fn put_headers(
        &self,
        response: &mut Response<Body>,
        pool: Option<&str>,
        cost: Option<Money>,
    ) {
        let headers = response.headers_mut();
        headers.insert("x-fungible-attempts", HeaderValue::from(self.attempts));
        if let Some(pool) = pool.and_then(|pool| HeaderValue::from_str(pool).ok()) {
            headers.insert("x-fungible-pool", pool);
        }
        if let Some(cost) = cost.and_then(|cost| HeaderValue::try_from(dollars(cost)).ok()) {
            headers.insert("x-fungible-cost", cost);
        }
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        match failed {
            Failed::Refused { status, headers, body } => Stop::Refused { status, headers, body },
            Failed::Elsewhere { fault, .. } => {
                Stop::Error(ApiError::no_answer(format!("the backend gave {fault}")))
            }
        }
    }
}

/// As a plain number of US dollars, all nine digits behind the point.
pub(super) fn dollars(amount: Money) -> String {
    let (sign, amount) = (if amount.0 < 0 { "-" } else { "" }, amount.0.unsigned_abs());
    format!("{sign}{}.{:09}", amount / 1_000_000_000, amount % 1_000_000_000)
}
