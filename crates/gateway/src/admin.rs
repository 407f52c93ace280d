//! The side of those who run the gateway: a page, an interface in JSON, and metrics, on a port of their own
//! behind a key of its own. A tenant's key opens nothing here, and is told no more than that.
//!
//! Knows of requests what the gateway counts and writes down. Neither a prompt nor a key of anybody comes
//! through here, but for a new key in the answer that makes it.

mod key;
mod overview;
pub mod page;
mod read;
mod tenants;
mod trials;
mod usage;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use web::connections::Serve;
use web::exposition;

use crate::body::Body;
use crate::config::Secret;
use crate::error::ApiError;
use crate::secrets::Secrets;
use crate::shared::Shared;
use overview::Overview;
use read::read;

/// Takes the config's file as it is now: keys that take effect with the next start only, or why nothing was
/// changed.
pub type Reload = Box<dyn Fn() -> Result<Vec<&'static str>, String> + Send + Sync>;

/// Answers those who run the gateway.
pub struct Admin {
    shared: Arc<Shared>,
    secrets: Arc<Secrets>,
    key: Secret,
    reload: Reload,
    overview: Overview,
}

/// A backend that is to get no further requests, or to get some again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    backend: String,
    #[serde(default = "yes")]
    drain: bool,
}

fn yes() -> bool {
    true
}

/// Sent with every answer. What is shown here is nobody else's, so no cache keeps it and no other page
/// may hold it.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

impl Serve for Admin {
    type Body = Body;

    async fn call(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let mut response = match self.answer(request).await {
            Ok(response) => response,
            Err(error) => failed(&error),
        };
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl Admin {
    /// `key` opens it; while it cannot be read, nothing does.
    pub fn new(
        shared: Arc<Shared>,
        secrets: Arc<Secrets>,
        key: Secret,
        reload: Reload,
    ) -> Arc<Admin> {
        Arc::new(Admin { shared, secrets, key, reload, overview: Overview::new() })
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
        let path = request.uri().path();
        // The page itself says nothing: what it shows it has to ask for.
        if [Method::GET, Method::HEAD].contains(request.method()) {
            if path == "/health" {
                return Ok(response("text/plain; charset=utf-8", "ok\n"));
            }
            if let Some(asset) = page::asset(path.strip_suffix('/').unwrap_or(path)) {
                return Ok(response(asset.content_type, asset.bytes));
            }
        }
        let key = self.secrets.get(&self.key);
        if !key.is_some_and(|key| key::is_right(request.headers(), &key)) {
            return Err(ApiError::wrong_key());
        }
        if path == "/metrics" && request.method() == Method::GET {
            let pools = self.shared.pools.view();
            let page = self.shared.metrics.page(&overview::gauges(&self.shared, &pools));
            return Ok(response(exposition::CONTENT_TYPE, page));
        }
        let (head, body) = request.into_parts();
        let there_is_none = || ApiError::not_found("there is no such path; see docs/gateway.md");
        let rest = head.uri.path().strip_prefix("/admin/api/").ok_or_else(there_is_none)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let (shared, tenants) = (&self.shared, self.shared.tenants());
        let headers = &head.headers;
        let answer = match (head.method.as_str(), &parts[..]) {
            ("GET", ["overview"]) => self.overview.show(shared).await,
            ("GET", ["pools"]) => json!({ "data": shared.pools.view() }),
            ("GET", ["mirrors"]) => trials::mirrors(&shared.pools),
            ("GET", ["canaries"]) => trials::canaries(&shared.pools),
            ("POST", ["canaries"]) => trials::try_again(&shared.pools, read(headers, body).await?)?,
            ("GET", ["traffic"]) => json!(shared.metrics.traffic().view()),
            ("GET", ["usage"]) => {
                usage::usage(&shared.ledger, head.uri.query().unwrap_or_default()).await?
            }
            ("GET", ["tenants"]) => tenants::list(tenants),
            ("POST", ["tenants"]) => tenants::add(tenants, read(headers, body).await?).await?,
            ("PATCH", ["tenants", name]) => {
                tenants::change(tenants, name, read(headers, body).await?).await?
            }
            ("DELETE", ["tenants", name]) => tenants::remove(tenants, name).await?,
            ("POST", ["tenants", name, "keys"]) => {
                tenants::add_key(tenants, name, read(headers, body).await?).await?
            }
            ("POST", ["tenants", name, "keys", key, "rotate"]) => {
                tenants::rotate_key(tenants, name, key, read(headers, body).await?).await?
            }
            ("DELETE", ["tenants", name, "keys", key]) => {
                tenants::revoke_key(tenants, name, key).await?
            }
            ("POST", ["drain"]) => {
                let Drain { backend, drain } = read(headers, body).await?;
                if !shared.pools.drain(&backend, drain) {
                    let message = format!("there is no backend `{backend}`");
                    return Err(ApiError::not_found(message));
                }
                json!({ "backend": backend, "drain": drain })
            }
            ("POST", ["reload"]) => {
                let _: Value = read(headers, body).await?;
                self.reload()?
            }
            _ => return Err(there_is_none()),
        };
        Ok(response("application/json", answer.to_string()))
    }

    fn reload(&self) -> Result<Value, ApiError> {
        let reloaded = (self.reload)();
        self.overview.reloaded(reloaded.as_ref().err().cloned());
        let needs_restart = reloaded.map_err(ApiError::invalid)?;
        Ok(json!({ "needs_restart": needs_restart }))
    }
}

fn response(content_type: &'static str, body: impl Into<hyper::body::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn failed(error: &ApiError) -> Response<Body> {
    let mut response = response("application/json", error.body());
    *response.status_mut() = error.status;
    if error.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}
