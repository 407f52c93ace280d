//! A server that speaks OpenAI's interface without a model: for tests and measurements of what asks
//! such servers. What it says is a function of the prompt, the seed and the position, so that any
//! instance can check what another said and go on with it. It can be told to misbehave:
//!
//! ```text
//! POST /misbehave {"mode": "cut", "probability": 0.1}
//! ```
//!
//! Knows nothing of the gateway.

mod answer;
mod asked;
mod misbehaviour;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use answer::Pace;
pub use misbehaviour::{Misbehaviour, Mode};

use crate::body::Body;
use answer::Events;
use asked::Asked;
use misbehaviour::{Fate, Fates};

/// When all answers were made: they do not depend on the time.
const CREATED_SECONDS: u64 = 1_700_000_000;
const BODY_BYTES_MAX: usize = 16 << 20;
/// After the system refused a connection, for want of file descriptors for example.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What the stub is.
#[derive(Clone, Debug)]
pub struct StubSettings {
    /// The names that `/v1/models` lists; any name is answered.
    pub models: Vec<String>,
    pub pace: Pace,
    /// Whether `/version` says that answers can go on by their token ids.
    pub continues_by_tokens: bool,
}

impl Default for StubSettings {
    fn default() -> StubSettings {
        let models = vec!["stub".to_owned()];
        StubSettings { models, pace: Pace::default(), continues_by_tokens: true }
    }
}

/// A stub that listens.
pub struct Stub {
    settings: StubSettings,
    fates: Fates,
    asked: AtomicU64,
    under_way: AtomicU64,
}

/// A connection that is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

impl Stub {
    pub fn new(settings: StubSettings) -> Arc<Stub> {
        Arc::new(Stub {
            settings,
            fates: Fates::default(),
            asked: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
        })
    }

    /// From now on.
    pub fn misbehave(&self, misbehaviour: Misbehaviour) {
        self.fates.set(misbehaviour);
    }

    /// Requests for answers so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Answers that have been begun and neither ended nor given up.
    pub fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Serves until it is dropped, and every connection with it.
    pub async fn serve(self: Arc<Stub>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        connections.spawn(Arc::clone(&self).speak(stream, from));
                    }
                    Err(_) => sleep(ACCEPT_AGAIN).await,
                },
            }
        }
    }

    async fn speak(self: Arc<Stub>, stream: TcpStream, _from: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| Arc::clone(&self).answer(request));
        // A connection that broke is no news to a stub.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(
        self: Arc<Stub>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refused> {
        let path = request.uri().path().to_owned();
        if path == "/misbehave" {
            return Ok(self.be_told(request).await);
        }
        if self.fates.refuses() {
            return Err(Refused);
        }
        let is_chat = path == "/v1/chat/completions";
        Ok(match (request.method(), path.as_str()) {
            (&Method::POST, "/v1/chat/completions" | "/v1/completions") => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let fate = self.fates.draw();
                match fate.mode {
                    Mode::Refuse => return Err(Refused),
                    Mode::Failing => {
                        error(StatusCode::INTERNAL_SERVER_ERROR, "it was told to fail")
                    }
                    Mode::Rejecting => error(StatusCode::BAD_REQUEST, "it was told to reject"),
                    Mode::Limited => {
                        let mut response = error(StatusCode::TOO_MANY_REQUESTS, "told to be full");
                        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                        response
                    }
                    _ => match read(request).await {
                        Ok(body) => self.complete(&body, is_chat, fate).await,
                        Err(response) => response,
                    },
                }
            }
            (&Method::POST, "/v1/embeddings") => self.embed(request).await,
            (&Method::GET, "/v1/models") => {
                let model = |name| json!({"id": name, "object": "model", "owned_by": "stub"});
                let data: Vec<_> = self.settings.models.iter().map(model).collect();
                json_response(StatusCode::OK, &json!({"object": "list", "data": data}))
            }
            (&Method::GET, "/health" | "/ready") => {
                json_response(StatusCode::OK, &json!({"status": "ok"}))
            }
            (&Method::GET, "/version") => {
                let name = match self.settings.continues_by_tokens {
                    true => "fungible-stub",
                    false => "stub",
                };
                let version = env!("CARGO_PKG_VERSION");
                json_response(StatusCode::OK, &json!({"name": name, "version": version}))
            }
            _ => error(StatusCode::NOT_FOUND, "there is no such path"),
        })
    }

    async fn be_told(&self, request: Request<Incoming>) -> Response<Body> {
        let body = match read(request).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        match serde_json::from_slice(&body) {
            Ok(misbehaviour) => {
                self.misbehave(misbehaviour);
                json_response(StatusCode::OK, &json!({"now": misbehaviour}))
            }
            Err(wrong) => error(StatusCode::BAD_REQUEST, &wrong.to_string()),
        }
    }

    async fn complete(self: Arc<Stub>, body: &[u8], is_chat: bool, fate: Fate) -> Response<Body> {
        let asked = match Asked::read(body, is_chat) {
            Ok(asked) => asked,
            Err(wrong) => return error(StatusCode::BAD_REQUEST, &wrong),
        };
        let id = format!("stub-{:x}", web::random::random_number());
        let under_way = UnderWay::new(&self);
        let pace = self.settings.pace;
        if asked.is_streamed {
            let body = Body::written(move |writer| {
                let events = Events::new(writer, fate, &asked, &id);
                async move {
                    let _under_way = under_way;
                    events.say(asked, pace).await
                }
            });
            let mut response = respond(StatusCode::OK, "text/event-stream", body);
            let headers = response.headers_mut();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            return response;
        }
        let tokens: u64 = asked.scripts.iter().map(|script| asked.end(script).0).max().unwrap_or(0);
        let takes =
            pace.first + pace.each.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX));
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let bytes = answer::whole(&asked, &id);
        let body = match fate.mode {
            Mode::Garbage | Mode::Cut | Mode::Stall => Body::written(move |writer| async move {
                let _under_way = under_way;
                answer::write_whole(writer, bytes, fate).await
            }),
            Mode::Slow => Body::written(move |writer| async move {
                let _under_way = under_way;
                sleep(Duration::from_millis(500)).await;
                answer::write_whole(writer, bytes, fate).await
            }),
            _ => Body::whole(bytes),
        };
        respond(StatusCode::OK, "application/json", body)
    }

    /// A vector that depends on the text only.
    async fn embed(&self, request: Request<Incoming>) -> Response<Body> {
        let body = match read(request).await {
            Ok(body) => body,
            Err(response) => return response,
        };
        let Ok(asked) = serde_json::from_slice::<serde_json::Value>(&body) else {
            return error(StatusCode::BAD_REQUEST, "the body is not JSON");
        };
        let input = asked["input"].to_string();
        let drawn = text::hash(&[input.as_bytes()]);
        let vector: Vec<f64> =
            (0..8).map(|at| (text::mix(drawn.wrapping_add(at)) >> 40) as f64 / 1e7).collect();
        let tokens = input.len() as u64 / 4 + 1;
        let value = json!({
            "object": "list", "model": asked["model"],
            "data": [{"object": "embedding", "index": 0, "embedding": vector}],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        });
        json_response(StatusCode::OK, &value)
    }
}

/// Counts an answer until it ends or is given up.
struct UnderWay(Arc<Stub>);

impl UnderWay {
    fn new(stub: &Arc<Stub>) -> UnderWay {
        stub.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(stub))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Response<Body>> {
    match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(error(StatusCode::BAD_REQUEST, "the body is too long, or it broke off")),
    }
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    let error = json!({"message": message, "type": "stub_error", "param": null, "code": null});
    json_response(status, &json!({"error": error}))
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", Body::whole(value.to_string()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
