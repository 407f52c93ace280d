//! The HTTP client of one backend: kept connections, TLS, the backend's key, and a request made its
//! own. Follows no redirect, and knows nothing of routing or of what is asked.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use hyper::{Request, Response, Version};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::tls::{BackendTlsError, ShownCertificate, client_config};
use crate::config::{BackendConfig, Secret};
use crate::secrets::Secrets;

/// A server that does not take a connection in this time is as good as away: there are others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the minute after which many servers and balancers hang up, so that a request seldom
/// meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(45);
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Of HTTP/2, in bytes: one stream of tokens must not hold up the others of its connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why a backend's address or certificates are of no use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{url}` is no address of a backend; give `http://host:port` or `https://host:port`")]
    Address { url: String },
    #[error(transparent)]
    Tls(#[from] BackendTlsError),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("no connection to {backend}; nothing was sent")]
    Connect {
        backend: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the connection to {backend} closed before the request was sent")]
    Unsent {
        backend: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the connection to {backend} broke off; the request may have arrived")]
    Broken {
        backend: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the key for {backend} cannot be read; nothing was sent")]
    Key { backend: String },
    #[error("the path of the request cannot be put behind the address of {backend}")]
    Path { backend: String },
}

impl SendError {
    /// Whether the backend may have begun to work on it. If not, asking another one is always safe.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, SendError::Broken { .. })
    }
}

pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: Scheme,
    authority: Authority,
    /// Of the address, without `/` at its end.
    prefix: String,
    shown: Option<Arc<ShownCertificate>>,
}

impl Client {
    pub(super) fn new(backend: &BackendConfig) -> Result<Client, ClientError> {
        let unusable = || ClientError::Address { url: backend.url.clone() };
        let parts = backend.url.parse::<Uri>().map_err(|_| unusable())?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(unusable());
        };
        // A name and password in the address would end up in logs; a query has no place there.
        if !matches!(scheme.as_str(), "http" | "https")
            || authority.as_str().contains('@')
            || parts.path_and_query.as_ref().is_some_and(|path| path.query().is_some())
        {
            return Err(unusable());
        }
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
        let path = path.trim_end_matches('/');
        // Requests come with their `/v1`; addresses are often written with it.
        let prefix = path.strip_suffix("/v1").unwrap_or(path).to_owned();

        let (tls, shown) = client_config(backend)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(PING_INTERVAL));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let http = HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(connector);
        Ok(Client { http, scheme, authority, prefix, shown })
    }

    /// What the files of the shown certificate hold now is used from now on.
    pub(super) fn refresh(&self) -> Result<(), BackendTlsError> {
        self.shown.as_ref().map_or(Ok(()), |shown| shown.refresh())
    }

    /// Sends it as the gateway's own request: the backend's address and key, no header that belongs
    /// to the client's connection or names the client's key.
    pub(super) async fn send(
        &self,
        backend: &str,
        key: Option<&Secret>,
        secrets: &Secrets,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, SendError> {
        *request.uri_mut() = self
            .address(request.uri())
            .ok_or_else(|| SendError::Path { backend: backend.to_owned() })?;
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        remove_hop_by_hop(headers);
        for name in [header::HOST, header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
        if let Some(secret) = key {
            let value = secrets.get(secret).and_then(|key| bearer(&key));
            let value = value.ok_or_else(|| SendError::Key { backend: backend.to_owned() })?;
            headers.insert(header::AUTHORIZATION, value);
        }
        let mut response = self
            .http
            .request(request)
            .await
            .map_err(|source| send_error(backend.to_owned(), source))?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response)
    }

    /// Asks for a page of the server itself, for probes: status and headers within `limit`.
    pub(super) async fn get(
        &self,
        backend: &str,
        key: Option<&Secret>,
        secrets: &Secrets,
        path: &str,
        limit: Duration,
    ) -> Result<Response<Incoming>, String> {
        let request = Request::get(path)
            .body(Full::default())
            .map_err(|_| format!("`{path}` is no path that can be asked for"))?;
        match timeout(limit, self.send(backend, key, secrets, request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_) => Err(format!("no answer to {path} within {} ms", limit.as_millis())),
        }
    }

    fn address(&self, asked: &Uri) -> Option<Uri> {
        let path = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = if self.prefix.is_empty() {
            asked.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"))
        } else {
            PathAndQuery::try_from(format!("{}{path}", self.prefix)).ok()?
        };
        let mut parts = hyper::http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).ok()
    }
}

fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn send_error(backend: String, source: hyper_util::client::legacy::Error) -> SendError {
    if source.is_connect() {
        return SendError::Connect { backend, source };
    }
    // hyper calls `canceled` what it gives back without having written any of it.
    let unsent = std::error::Error::source(&source)
        .and_then(|cause| cause.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_canceled);
    if unsent {
        SendError::Unsent { backend, source }
    } else {
        SendError::Broken { backend, source }
    }
}

/// An error with what caused it, for a page or a log.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What says something of one connection only (RFC 9110, section 7.6.1).
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const ALWAYS: [HeaderName; 7] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in ALWAYS {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}
