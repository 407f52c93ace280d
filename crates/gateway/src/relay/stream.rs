//! A stream to the client, whoever it comes from: read from one backend, and when that one breaks off,
//! from the next, until the answer's end.

use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Duration, Instant, sleep_until};

use super::attempt::{self, Failed, is_media};
use super::bill::Bill;
use super::continuation::{Broken, Taken};
use super::errand::{Errand, Stop, dollars};
use super::mirror;
use super::source::{Ended, Source};
use super::story::{Next, Story};
use super::usage::Usage;
use crate::ask::Ask;
use crate::body::{Body, Cut, Writer};
use crate::error::ApiError;
use crate::pools::{Fault, Lease, Served};
use crate::record::Outcome;

/// Proxies close connections that are silent for a minute.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b": still there\n\n");

/// How a piece of a stream came out.
enum Piece {
    More,
    /// The answer's end has been told, all but the stream's.
    Last,
}

/// A stream under way.
struct Telling {
    errand: Errand,
    story: Story,
    bill: Bill,
    current: Option<Current>,
}

/// The backend that is answering.
pub(super) struct Current {
    lease: Lease,
    source: Source,
    first_token: Option<Instant>,
    /// Tokens that others had said before it.
    said_before: u64,
}

pub(super) async fn answer(errand: Errand) -> Response<Body> {
    let story = Story::new(&errand.ask);
    let mut telling = Telling { errand, story, bill: Bill::default(), current: None };
    let mut out = Vec::new();
    // Until something is there, a failure can still be an answer of its own.
    let piece = match telling.piece(&mut out).await {
        Ok(piece) => piece,
        Err(stop) => return telling.errand.stopped(stop).await,
    };
    telling.errand.first_byte();
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx not to collect events.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    let pool = telling.current.as_ref().map(|current| current.lease.pool().name().to_owned());
    telling.errand.put_headers(&mut response, pool.as_deref(), None);
    *response.body_mut() = Body::written(move |writer| telling.tell(writer, out, piece));
    response
}

impl Telling {
    async fn tell(
        mut self,
        mut writer: Writer,
        mut out: Vec<u8>,
        mut piece: Piece,
    ) -> Result<(), Cut> {
        let mut last_sent = Instant::now();
        let mut alarm = Box::pin(sleep_until(last_sent + SILENCE_MAX));
        loop {
            if !out.is_empty() {
                writer.send(Bytes::from(std::mem::take(&mut out))).await;
                last_sent = Instant::now();
            }
            if matches!(piece, Piece::Last) {
                self.end(&mut out).await;
                writer.send(Bytes::from(out)).await;
                return Ok(());
            }
            let mut next = Box::pin(self.piece(&mut out));
            let told = loop {
                tokio::select! {
                    biased;
                    told = next.as_mut() => break told,
                    () = alarm.as_mut() => {
                        if last_sent.elapsed() >= SILENCE_MAX {
                            writer.send(COMMENT).await;
                            last_sent = Instant::now();
                        }
                        alarm.as_mut().reset(last_sent + SILENCE_MAX);
                    }
                }
            };
            drop(next);
            piece = match told {
                Ok(piece) => piece,
                Err(stop) => {
                    let error = match stop {
                        Stop::Error(error) => error,
                        Stop::Refused { .. } => self.errand.give_up(),
                    };
                    self.note_usage();
                    self.errand.close(Outcome::Failed, StatusCode::OK).await;
                    let mut event = std::mem::take(&mut out);
                    self.story.fail(&error, &mut event);
                    writer.send(Bytes::from(event)).await;
                    return Ok(());
                }
            };
        }
    }

    /// Puts whatever comes next into `out`.
    async fn piece(&mut self, out: &mut Vec<u8>) -> Result<Piece, Stop> {
        loop {
            if self.current.is_none() && self.find(out).await? {
                return Ok(Piece::Last);
            }
            let Some(current) = &mut self.current else { continue };
            let ended = match current.read(&mut self.story, out).await {
                Ok(true) => return Ok(Piece::Last),
                Ok(false) => {
                    self.errand.progressed();
                    return Ok(Piece::More);
                }
                Err(ended) => ended,
            };
            if self.broke(ended)? {
                return Ok(Piece::Last);
            }
            // What came before the break goes out before anybody else is asked.
            if !out.is_empty() {
                return Ok(Piece::More);
            }
        }
    }

    /// Takes leave of a backend that broke off. Whether the answer is complete nevertheless.
    fn broke(&mut self, ended: Ended) -> Result<bool, ApiError> {
        let Some(current) = self.current.take() else { return Ok(false) };
        let is_complete = self.story.is_complete(&self.errand.ask);
        self.bill.add(current.lease.pool(), self.story.generated());
        let fault = match ended {
            Ended::Whole | Ended::Fault(Fault::Broken) => Fault::Broken,
            Ended::Fault(fault) => fault,
            // Its time was up, which does not say that it is ill.
            Ended::Deadline => return Err(ApiError::deadline()),
        };
        self.errand.failed(current.lease, fault, "its stream broke off");
        Ok(is_complete)
    }

    /// Finds a backend that begins the answer or goes on with it. True if nothing is left to ask for.
    async fn find(&mut self, out: &mut Vec<u8>) -> Result<bool, Stop> {
        let has_begun = self.story.has_begun();
        if has_begun {
            if !self.errand.model().continues || !self.story.can_go_on(&self.errand.ask) {
                return Err(self.cannot_go_on().into());
            }
            self.errand.may_go_on().await?;
        } else if self.errand.attempts() > 0 {
            self.errand.may_retry().await?;
        }
        let mut unable: Vec<String> = Vec::new();
        loop {
            let lease = self.errand.lease().await?;
            let ask = &self.errand.ask;
            let further = match self.story.next(lease.backend().continues(), ask) {
                Next::Ask(way, further) => Some((way, further)),
                Next::Complete => {
                    self.story.end_by_length(out);
                    return Ok(true);
                }
                Next::Unable => None,
            };
            let Some((way, further)) = further else {
                // Another one may be able to; who was looked at before is only offered when none is left.
                let name = lease.backend().name();
                if unable.iter().any(|before| before == name) {
                    return Err(self.cannot_go_on().into());
                }
                unable.push(name.to_owned());
                continue;
            };
            self.errand.began(&lease);
            let ask = &self.errand.ask;
            let body = attempt::body(ask, &lease, self.errand.seed, &further);
            let silence = self.errand.model().silence;
            let until = (Instant::now() + silence).min(self.errand.deadline);
            match open(&self.errand.ask, &lease, body, until).await {
                Ok(body) => {
                    let source = Source::new(body, silence, self.errand.deadline);
                    self.story.go_on(way);
                    let said_before = self.story.generated();
                    self.current = Some(Current::new(lease, source, said_before));
                    if has_begun {
                        self.errand.continued();
                    }
                    return Ok(false);
                }
                Err(Failed::Elsewhere { fault, message }) => {
                    self.errand.failed(lease, fault, &message);
                    match has_begun {
                        true => self.errand.may_go_on().await?,
                        false => self.errand.may_retry().await?,
                    }
                }
                Err(refused) if !has_begun => {
                    lease.refused();
                    return Err(refused.into());
                }
                // It did not like how the rest was asked for; the client's request was right before.
                Err(_) => {
                    let message = "it refused to go on with an answer";
                    self.errand.failed(lease, Fault::Status(400), message);
                    self.errand.may_go_on().await?;
                }
            }
        }
    }

    fn cannot_go_on(&self) -> ApiError {
        let message =
            "the answer broke off at its backend, and its kind cannot be continued elsewhere";
        ApiError::no_answer(message)
    }

    /// The account, and what comes after it.
    async fn end(&mut self, out: &mut Vec<u8>) {
        let total = self.note_usage();
        if let Some(current) = self.current.take() {
            let (usage, _) = self.story.usage(&self.errand.ask);
            current.succeeded(&usage);
        }
        mirror::give_text(&mut self.errand, self.story.text());
        self.errand.close(Outcome::Complete, StatusCode::OK).await;
        let cost = format!(": x-fungible-cost {}\n\n", dollars(total.cost));
        self.story.end(&self.errand.ask, &cost, out);
    }

    fn note_usage(&mut self) -> super::bill::Total {
        let (usage, is_estimated) = self.story.usage(&self.errand.ask);
        let last = self.current.as_ref().map(|current| current.lease.pool());
        let total = self.bill.total(last, &usage);
        self.errand.used(&usage, is_estimated, &total);
        total
    }
}

/// Of the open stream, none of which may be sent on before its first event is there.
pub(super) async fn open(
    ask: &Ask,
    lease: &Lease,
    body: Bytes,
    until: Instant,
) -> Result<Incoming, Failed> {
    let response = attempt::open(ask, lease, body, until).await?;
    if !is_media(response.headers(), "text/event-stream") {
        let message = "it did not stream, though it was asked to";
        return Err(Failed::new(Fault::Garbage, message));
    }
    Ok(response.into_body())
}

impl Current {
    /// `said_before`: tokens of the answer that others had said.
    pub fn new(lease: Lease, source: Source, said_before: u64) -> Current {
        Current { lease, source, first_token: None, said_before }
    }

    /// `usage` is of the whole answer.
    pub fn succeeded(self, usage: &Usage) {
        self.lease.succeeded(Served {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens(),
            completion_tokens: usage.completion_tokens.saturating_sub(self.said_before),
            generation: self.first_token.map(|first| first.elapsed()),
        });
    }

    pub fn failed(self, fault: Fault) {
        self.lease.failed(fault);
    }

    /// Reads until there is something for the client; true at the answer's end.
    pub async fn read(&mut self, story: &mut Story, out: &mut Vec<u8>) -> Result<bool, Ended> {
        loop {
            let mut event = self.source.next().await?;
            // What has come together goes on together.
            loop {
                match story.take(&event, out) {
                    Ok(Taken::Done) => return Ok(true),
                    Ok(Taken::Nothing | Taken::Written) => {}
                    Err(Broken::Garbage) => return Err(Ended::Fault(Fault::Garbage)),
                    Err(Broken::Error(message)) => {
                        tracing::debug!(
                            target: "fungible::gateway",
                            backend = self.lease.backend().name(), message,
                            "an answer ended with an error"
                        );
                        return Err(Ended::Fault(Fault::Status(500)));
                    }
                }
                match self.source.ready()? {
                    Some(more) => event = more,
                    None => break,
                }
            }
            if self.first_token.is_none() && story.generated() > self.said_before {
                self.first_token = Some(Instant::now());
                self.lease.first_byte();
            }
            if !out.is_empty() {
                return Ok(false);
            }
        }
    }
}

/// A client that leaves has used what was made for it.
impl Drop for Telling {
    fn drop(&mut self) {
        if self.errand.is_open() {
            self.note_usage();
        }
    }
}
