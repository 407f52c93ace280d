//! The clients' side: whose request it is, whether it may come in, and what it is refused with.
//!
//! Knows no backend: an accepted request goes to [`crate::relay`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout};
use web::connections::Serve;
use web::random::random_number;

use crate::ask::{Ask, Head};
use crate::body::Body;
use crate::error::ApiError;
use crate::record::{Outcome, Record};
use crate::relay;
use crate::route::{RouteAsk, RouteError};
use crate::shared::Shared;
use crate::spans::Trace;
use crate::tenants::{Estimate, Known, ReserveError, Tenant};
use crate::ticket::{Ticket, now_milliseconds};

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(60);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;
const PATH_BYTES_MAX: usize = 2048;

/// What answers clients.
pub struct Front {
    shared: Arc<Shared>,
    is_stopping: AtomicBool,
}

impl Serve for Front {
    type Body = Body;

    async fn call(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let arrived = Instant::now();
        let id = request_id(request.headers());
        let mut response = match self.answer(request, arrived, &id).await {
            Ok(response) => response,
            Err(error) => error_response(&error),
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
}

impl Front {
    pub fn new(shared: Arc<Shared>) -> Front {
        Front { shared, is_stopping: AtomicBool::new(false) }
    }

    /// From here on, new requests are refused.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        arrived: Instant,
        id: &str,
    ) -> Result<Response<Body>, ApiError> {
        let is_stopping = self.is_stopping.load(Ordering::Relaxed);
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/health") => return Ok(text(StatusCode::OK, "ok\n")),
            (&Method::GET, "/ready") => return Ok(self.ready(is_stopping)),
            _ => {}
        }
        if is_stopping {
            return Err(ApiError::unavailable("the gateway is stopping; ask again elsewhere"));
        }
        let path = forwarded_path(&request).ok_or_else(|| {
            ApiError::not_found("there is no such path; OpenAI's interface is below /v1/")
        })?;
        let known = self.tenant(request.headers())?;
        let tenant = &known.tenant;
        if tenant.is_suspended {
            return Err(ApiError::suspended());
        }
        if request.method() == Method::GET
            && let Some(answer) = self.models(&path, tenant)
        {
            return answer;
        }
        if !self.shared.meter().has_room() {
            let message =
                "requests cannot be written down at present, so none are taken; try again soon";
            return Err(ApiError::unavailable(message));
        }
        let (head, body) = request.into_parts();
        let limit = self.shared.config().limits.body_bytes_max;
        let body = read(body, limit).await?;
        let head =
            Head { id: id.to_owned(), method: head.method, path, headers: head.headers, arrived };
        let ask = Ask::read(head, body)?;
        if tenant.logs_prompts {
            log_prompt(&ask, &tenant.name);
        }
        self.accept(ask, known).await
    }

    /// Finds the way, waits for room, reserves, and hands over.
    async fn accept(&self, mut ask: Ask, known: Known) -> Result<Response<Body>, ApiError> {
        let shared = &self.shared;
        let tenant = &known.tenant;
        if !may_use(tenant, &ask.model) {
            return Err(ApiError::unknown_model(&ask.model));
        }
        let route_ask = RouteAsk {
            model: &ask.model,
            allowed_pools: &tenant.pools,
            prefix: ask.prefix,
            prompt_tokens: ask.prompt_tokens,
            max_tokens: ask.max_tokens.unwrap_or(0),
        };
        let route = shared.pools.route(&route_ask).map_err(|error| match error {
            RouteError::UnknownModel { .. } => ApiError::unknown_model(&ask.model),
            other => ApiError::unavailable(other.to_string()),
        })?;
        let model = Arc::clone(route.model());
        let completion_max = ask.completion_tokens_max(model.max_tokens);
        let estimate = Estimate {
            tokens: ask.prompt_tokens.saturating_add(completion_max),
            cost: route.dearest(ask.prompt_tokens_max, completion_max),
        };
        let reservation = shared.tenants().reserve(tenant, estimate).await;
        let reservation = reservation.map_err(|error| {
            let ReserveError::Limit(limit) = error;
            self.refused(&ask, &known, ApiError::from(limit))
        })?;
        let name: Arc<str> = Arc::from(tenant.name.as_str());
        let deadline = ask.arrived + model.deadline;
        let permit =
            shared.admission.enter(&name, tenant.priority, deadline).await.map_err(|shed| {
                shared.metrics.shed.fetch_add(1, Ordering::Relaxed);
                self.refused(&ask, &known, ApiError::from(shed))
            })?;
        let tracer = shared.tracer.get();
        let trace = tracer.and_then(|tracer| Trace::begin(tracer, &mut ask.headers));
        let record = record(&ask, &known);
        let ticket = Ticket::new(
            record,
            ask.arrived,
            reservation,
            permit,
            shared.meter().clone(),
            Arc::clone(&shared.metrics),
            trace,
        );
        Ok(relay::answer(Arc::clone(shared), ask, route, ticket).await)
    }

    /// Counts what is refused. It is not written down: it costs nothing, and a flood of it must not fill
    /// the database.
    fn refused(&self, ask: &Ask, known: &Known, error: ApiError) -> ApiError {
        let record = Record {
            status: error.status.as_u16(),
            outcome: Outcome::Refused,
            ..record(ask, known)
        };
        self.shared.metrics.ended(&record);
        error
    }

    fn tenant(&self, headers: &HeaderMap) -> Result<Known, ApiError> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let first = given.next();
        if given.next().is_some() {
            return Err(ApiError::wrong_key());
        }
        match first {
            Some(value) => {
                let value = value.to_str().ok().and_then(|value| value.split_once(' '));
                let key = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let known = key.and_then(|(_, key)| self.shared.tenants().find(key.trim()));
                known.ok_or_else(ApiError::wrong_key)
            }
            None => self.shared.anonymous().ok_or_else(ApiError::wrong_key),
        }
    }

    fn ready(&self, is_stopping: bool) -> Response<Body> {
        if is_stopping {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
        }
        match self.shared.meter().has_room() {
            true => text(StatusCode::OK, "ready\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "records cannot be written\n"),
        }
    }

    /// The models that this tenant may use, or one of them.
    fn models(&self, path: &str, tenant: &Tenant) -> Option<Result<Response<Body>, ApiError>> {
        let rest = path.strip_prefix("/v1/models")?;
        let entry = |name: &str| json!({"id": name, "object": "model", "created": 0, "owned_by": "fungible"});
        let models = self.shared.pools.models();
        let names =
            models.iter().map(|model| model.name.as_str()).filter(|name| may_use(tenant, name));
        if rest.is_empty() {
            let list: Vec<_> = names.map(entry).collect();
            let body = json!({"object": "list", "data": list}).to_string();
            return Some(Ok(json_response(StatusCode::OK, body.into())));
        }
        let wanted = rest.strip_prefix('/')?;
        let found = names.into_iter().find(|&name| name == wanted);
        Some(match found {
            Some(name) => Ok(json_response(StatusCode::OK, entry(name).to_string().into())),
            None => Err(ApiError::unknown_model(wanted)),
        })
    }
}

/// Of a request that has just been accepted.
fn record(ask: &Ask, known: &Known) -> Record {
    Record {
        id: record_id(&ask.id),
        time_milliseconds: now_milliseconds(),
        tenant: known.tenant.name.clone(),
        key: known.key.to_string(),
        model: ask.model.clone(),
        path: ask.path.split('?').next().unwrap_or_default().to_owned(),
        streamed: ask.streamed,
        outcome: Outcome::Failed,
        ..Record::default()
    }
}

/// Whether one of the tenant's patterns stands for the model.
fn may_use(tenant: &Tenant, model: &str) -> bool {
    tenant.models.is_empty() || tenant.models.iter().any(|pattern| matches(pattern, model))
}

/// Whether `pattern`, in which `*` stands for any text, stands for `name`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // Each part as early as possible leaves the most for those behind it.
    let mut rest = rest;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The path for backends, with its query, if it is below `/v1/` and means the same to everybody: what steps
/// out of it, in whatever spelling, could reach a supplier's other paths with the gateway's key.
fn forwarded_path(request: &Request<Incoming>) -> Option<String> {
    let path = request.uri().path();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:@,+=".contains(&byte);
    let is_right = path.starts_with("/v1/")
        && path.bytes().all(is_plain)
        && path[1..].split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    let whole = request.uri().path_and_query()?.as_str();
    (is_right && whole.len() <= PATH_BYTES_MAX).then(|| whole.to_owned())
}

/// The client's own, if it is fit to be shown, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let own = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_fit = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match own.filter(is_fit) {
        Some(own) => own.to_owned(),
        None => format!("{:016x}{:016x}", random_number(), random_number()),
    }
}

/// As records call a request: a client that gives two of them one number must not hide one of them.
fn record_id(id: &str) -> String {
    format!("{id}.{:016x}", random_number())
}

async fn read(mut body: Incoming, limit_bytes: usize) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(ApiError::too_large(limit_bytes));
    }
    let collected = async {
        let mut first = Bytes::new();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::invalid("the body ended too early"))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > limit_bytes {
                return Err(ApiError::too_large(limit_bytes));
            }
            match first.is_empty() && rest.is_empty() {
                // Most bodies come as one piece, which is not copied.
                true => first = data,
                false => {
                    if rest.is_empty() {
                        rest.extend_from_slice(&first);
                        first = Bytes::new();
                    }
                    rest.extend_from_slice(&data);
                }
            }
        }
        Ok(if rest.is_empty() { first } else { Bytes::from(rest) })
    };
    timeout(BODY_LIMIT, collected).await.map_err(|_| ApiError::too_slow())?
}

fn log_prompt(ask: &Ask, tenant: &str) {
    let prompt = ["messages", "prompt", "input"].into_iter().find_map(|name| ask.field(name));
    tracing::info!(
        target: "fungible::prompts",
        tenant, id = ask.id, model = ask.model, prompt = prompt.unwrap_or_default(),
        "a prompt, by the tenant's policy"
    );
}

pub(crate) fn json_response(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// An error as an answer.
pub(crate) fn error_response(error: &ApiError) -> Response<Body> {
    let mut response = json_response(error.status, error.body());
    if let Some(after) = error.retry_after {
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, scheme);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, expected) in [
            ("chat", "chat", true),
            ("chat", "chats", false),
            ("chat-*", "chat-large", true),
            ("chat-*", "chat", false),
            ("*", "", true),
            ("*-large", "chat-large", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*b*", "abc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
