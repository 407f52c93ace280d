//! Answers that are not streamed: read in full before the client gets a byte of them, so that any
//! failure can be tried elsewhere.

use http_body_util::BodyExt;

use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::time::{Duration, Instant, timeout};

use super::attempt::{self, ANSWER_BYTES_MAX, Failed, Set, about_the_answer, is_media};
use super::bill::Bill;
use super::errand::{Errand, Stop};
use super::fields::{Fields, push_text};
use super::usage::Usage;
use super::{hedge, mirror};
use crate::ask::{Ask, Kind};
use crate::body::{Body, Cut, Writer};
use crate::pools::{Fault, Lease, Served};
use crate::record::Outcome;

/// What a backend answered.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
}

pub(super) enum Content {
    Json {
        body: Bytes,
        usage: Option<Usage>,
    },
    /// Sounds, files: passed on as they come.
    Raw(Incoming),
}

pub(super) async fn answer(mut errand: Errand) -> Response<Body> {
    loop {
        let lease = match errand.lease().await {
            Ok(lease) => lease,
            Err(error) => return errand.stopped(error.into()).await,
        };
        errand.began(&lease);
        let (lease, result) = hedge::ask(&mut errand, lease).await;
        match result {
            Ok(answer) => return give(errand, lease, answer).await,
            Err(Failed::Elsewhere { fault, message }) => {
                errand.failed(lease, fault, &message);
                if let Err(error) = errand.may_retry().await {
                    return errand.stopped(error.into()).await;
                }
            }
            Err(refused) => {
                lease.refused();
                return errand.stopped(Stop::from(refused)).await;
            }
        }
    }
}

/// One try.
pub(super) async fn attempt(
    ask: &Ask,
    lease: &Lease,
    further: &Set,
    silence: Duration,
    until: Instant,
) -> Result<Answer, Failed> {
    let body = attempt::body(ask, lease, 0, further);
    let response = open(ask, lease, body, until).await?;
    let (head, body) = response.into_parts();
    let is_json = is_media(&head.headers, "application/json");
    if !is_json && ask.kind == Kind::Other {
        let content = Content::Raw(body);
        return Ok(Answer { status: head.status, headers: head.headers, content });
    }
    let body = attempt::collect(body, ANSWER_BYTES_MAX, silence, until).await?;
    let garbage = || Failed::new(Fault::Garbage, "its answer is not what was asked for");
    let fields = Fields::read(&body);
    if ask.kind != Kind::Other {
        let expected = match ask.kind {
            Kind::Chat | Kind::Completions => "choices",
            Kind::Embeddings => "data",
            _ => "output",
        };
        let fields = fields.as_ref().ok_or_else(garbage)?;
        if fields.get(expected).is_none() {
            return Err(garbage());
        }
    }
    let usage = fields.and_then(|fields| fields.typed("usage"));
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        content: Content::Json { body, usage },
    })
}

/// A long answer's head comes when the answer is complete, so silence does not say that a backend
/// is gone; its probes do.
async fn open(
    ask: &Ask,
    lease: &Lease,
    body: Bytes,
    until: Instant,
) -> Result<Response<Incoming>, Failed> {
    tokio::select! {
        biased;
        opened = attempt::open(ask, lease, body, until) => opened,
        () = lease.backend().until_ill() => {
            Err(Failed::new(Fault::Timeout, "it was found to be ill meanwhile"))
        }
    }
}

async fn give(mut errand: Errand, lease: Lease, answer: Answer) -> Response<Body> {
    let pool = lease.pool().name().to_owned();
    errand.first_byte();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status;
    *response.headers_mut() = about_the_answer(&answer.headers);
    match answer.content {
        Content::Json { body, usage } => {
            let total = settle(&mut errand, lease, usage);
            errand.put_headers(&mut response, Some(&pool), Some(total.cost));
            errand.close(Outcome::Complete, answer.status).await;
            let media = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, media);
            let body = with_public_name(&errand.ask, body);
            mirror::give_whole(&mut errand, &body);
            *response.body_mut() = Body::whole(body);
        }
        Content::Raw(body) => {
            errand.put_headers(&mut response, Some(&pool), None);
            let status = answer.status;
            *response.body_mut() =
                Body::written(move |writer| pass_on(errand, lease, status, body, writer));
        }
    }
    response
}

fn settle(errand: &mut Errand, lease: Lease, usage: Option<Usage>) -> super::bill::Total {
    let estimate = Usage::new(errand.ask.prompt_tokens, 0);
    let known = usage.unwrap_or(estimate);
    let total = Bill::default().total(Some(lease.pool()), &known);
    errand.used(&known, usage.is_none(), &total);
    lease.succeeded(Served {
        prompt_tokens: known.prompt_tokens,
        cached_tokens: known.cached_tokens(),
        completion_tokens: known.completion_tokens,
        generation: None,
    });
    total
}

/// A body that is not understood. Its account is closed before its end is sent.
async fn pass_on(
    mut errand: Errand,
    lease: Lease,
    status: StatusCode,
    mut body: Incoming,
    mut writer: Writer,
) -> Result<(), Cut> {
    let silence = errand.model().silence;
    let fault = loop {
        match timeout(silence, body.frame()).await {
            Err(_) => break Some(Fault::Timeout),
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some(Fault::Broken),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    writer.send(data).await;
                }
            }
        }
    };
    match fault {
        None => {
            settle(&mut errand, lease, None);
            errand.close(Outcome::Complete, status).await;
            Ok(())
        }
        Some(fault) => {
            errand.failed(lease, fault, "its answer broke off");
            errand.close(Outcome::Failed, status).await;
            Err(Cut)
        }
    }
}

/// The answer with the name under which the client knows the model; all else as it came.
fn with_public_name(ask: &Ask, body: Bytes) -> Bytes {
    let Some(fields) = Fields::read(&body) else { return body };
    let Some((_, model)) = fields.0.iter().find(|(name, _)| name == "model") else {
        return body;
    };
    let model = model.get();
    let mut name = Vec::with_capacity(ask.model.len() + 2);
    push_text(&mut name, &ask.model);
    if model.as_bytes() == name {
        return body;
    }
    // The value is a part of this very body.
    let at = model.as_ptr().addr() - body.as_ptr().addr();
    Bytes::from([&body[..at], &name, &body[at + model.len()..]].concat())
}
