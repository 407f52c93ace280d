//! One try at one backend: what is sent there, and whether what comes back is an answer.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::continuation::error_message;
use super::fields::{Fields, ObjectWriter};
use crate::ask::{Ask, Kind};
use crate::config::Continues;
use crate::pools::{Fault, Lease};

/// Embeddings of many texts are the longest whole answers.
pub(super) const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Enough for every error that says what is wrong.
const ERROR_BYTES_MAX: usize = 256 << 10;
const ERROR_SILENCE_MAX: Duration = Duration::from_secs(2);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields of a request beside the client's.
pub(super) type Set = Vec<(&'static str, Box<RawValue>)>;

/// A try that came to nothing, or to something that another backend would not do better.
#[derive(Debug)]
pub(super) enum Failed {
    /// Another backend may answer.
    Elsewhere { fault: Fault, message: String },
    /// The request itself is at fault; the client gets what the backend said.
    Refused { status: StatusCode, headers: HeaderMap, body: Bytes },
}

impl Failed {
    pub fn new(fault: Fault, message: impl Into<String>) -> Failed {
        Failed::Elsewhere { fault, message: message.into() }
    }
}

/// The request as this backend shall get it.
pub(super) fn body(ask: &Ask, lease: &Lease, seed: i64, further: &Set) -> Bytes {
    let mut set: Set = Vec::with_capacity(further.len() + 3);
    if matches!(ask.kind, Kind::Chat | Kind::Completions) && ask.streamed {
        if !ask.includes_usage {
            // Without it there would be nothing to count by.
            push_json(&mut set, "stream_options", with_usage(ask));
        }
        if lease.backend().continues() == Continues::Tokens {
            if !ask.wants_token_ids {
                push_json(&mut set, "return_token_ids", "true".to_owned());
            }
            if !ask.has_seed {
                push_json(&mut set, "seed", seed.to_string());
            }
        }
    }
    let further = further.iter().map(|(name, value)| (*name, &**value));
    let set: Vec<(&str, &RawValue)> =
        set.iter().map(|(name, value)| (*name, &**value)).chain(further).collect();
    ask.body_for(lease.model_name(), &set)
}

fn push_json(set: &mut Set, name: &'static str, json: String) {
    if let Ok(value) = RawValue::from_string(json) {
        set.push((name, value));
    }
}

/// The client's `stream_options`, and usage.
fn with_usage(ask: &Ask) -> String {
    let mut out = Vec::new();
    let mut object = ObjectWriter::new(&mut out);
    let own = ask.field("stream_options").and_then(|json| Fields::read(json.as_bytes()));
    for (name, value) in own.iter().flat_map(|fields| &fields.0) {
        if name != "include_usage" {
            object.put(name, value.get());
        }
    }
    object.put("include_usage", "true");
    object.end();
    String::from_utf8(out).unwrap_or_default()
}

/// Sends and waits for the answer's head.
pub(super) async fn open(
    ask: &Ask,
    lease: &Lease,
    body: Bytes,
    until: Instant,
) -> Result<Response<Incoming>, Failed> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = ask
        .path
        .parse()
        .map_err(|_| Failed::new(Fault::Garbage, "the path cannot be sent to a backend"))?;
    *request.headers_mut() = ask.headers.clone();
    if let Ok(id) = ask.id.parse() {
        request.headers_mut().insert(REQUEST_ID, id);
    }
    let response = match timeout_at(until, lease.send(request)).await {
        Err(_) => return Err(Failed::new(Fault::Timeout, "it did not answer in time")),
        Ok(Err(error)) => {
            let fault = if error.may_have_arrived() { Fault::Broken } else { Fault::Connect };
            return Err(Failed::new(fault, error.to_string()));
        }
        Ok(Ok(response)) => response,
    };
    match response.status() {
        status if status.is_success() => Ok(response),
        status => Err(failed_by_status(ask, lease, status, response, until).await),
    }
}

async fn failed_by_status(
    ask: &Ask,
    lease: &Lease,
    status: StatusCode,
    response: Response<Incoming>,
    until: Instant,
) -> Failed {
    let (head, body) = response.into_parts();
    let body = collect(body, ERROR_BYTES_MAX, ERROR_SILENCE_MAX, until).await.unwrap_or_default();
    let message = || {
        let error = Fields::read(&body).and_then(|fields| fields.get("error").map(error_message));
        let said = error.filter(|said| !said.is_empty()).map(|said| format!(": {said}"));
        format!("it answered with status {}{}", status.as_u16(), said.unwrap_or_default())
    };
    match status.as_u16() {
        429 => {
            let after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = after.and_then(|after| after.trim().parse().ok());
            let fault = Fault::RateLimited(seconds.map(Duration::from_secs));
            Failed::new(fault, message())
        }
        // The supplier's account, the gateway's key there, or a server without this path or model:
        // what another one may not have wrong.
        401 | 402 | 403 | 407 | 408 => Failed::new(Fault::Status(status.as_u16()), message()),
        404 | 405 if ask.kind != Kind::Other => {
            Failed::new(Fault::Status(status.as_u16()), message())
        }
        // What a new server finds wrong, others may not.
        400..=499 if lease.is_on_trial() => Failed::new(Fault::Status(status.as_u16()), message()),
        400..=499 => Failed::Refused { status, headers: head.headers, body },
        code => Failed::new(Fault::Status(code), message()),
    }
}

/// A body within a number of bytes and a time, without a pause longer than `silence`.
pub(super) async fn collect(
    mut body: Incoming,
    bytes_max: usize,
    silence: Duration,
    until: Instant,
) -> Result<Bytes, Failed> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let too_long = || Failed::new(Fault::Garbage, "its answer is too long");
    if expected > bytes_max {
        return Err(too_long());
    }
    let collected = async {
        let mut first = Bytes::new();
        let mut all = Vec::new();
        let silent = |_| Failed::new(Fault::Timeout, "its answer stopped halfway");
        while let Some(frame) = timeout(silence, body.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|_| Failed::new(Fault::Broken, "its answer broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len().max(all.len()) + data.len() > bytes_max {
                return Err(too_long());
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                all.reserve(expected.max(first.len() + data.len()));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { Bytes::from(all) })
    };
    let late = Failed::new(Fault::Timeout, "its answer did not end in time");
    timeout_at(until, collected).await.map_err(|_| late)?
}

pub(super) fn is_media(headers: &HeaderMap, media: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media)
    })
}

/// What of a backend's headers is about the answer, not about the supplier.
pub(super) fn about_the_answer(headers: &HeaderMap) -> HeaderMap {
    const KEPT: [&str; 2] = ["content-type", "content-disposition"];
    let mut kept = HeaderMap::with_capacity(8);
    for name in KEPT {
        if let Some(value) = headers.get(name) {
            kept.insert(name, value.clone());
        }
    }
    kept
}

/// A seed for requests without one, so that what breaks off can go on as it began.
pub(super) fn seed() -> i64 {
    // Half of the range: some servers read seeds as 32-bit or 53-bit numbers.
    (web::random::random_number() >> 33) as i64
}
