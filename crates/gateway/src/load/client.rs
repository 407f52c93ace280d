//! One request and its answer, over connections that are kept.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Of an answer that is an error, so much is read.
const ERROR_BYTES_MAX: usize = 4096;
/// Of those bytes, so many characters are told.
const ERROR_CHARACTERS_MAX: usize = 200;

/// The request that is sent again and again.
#[derive(Clone, Debug)]
pub struct Target {
    /// HTTP without TLS.
    pub url: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A header that was given as text is none.
#[derive(Debug, thiserror::Error)]
#[error("a header has to be NAME: VALUE, not {0:?}")]
pub struct HeaderError(String);

impl Target {
    /// With a JSON body, and headers as they are written in a request.
    ///
    /// # Errors
    /// A header without a colon, or with characters that headers cannot have.
    pub fn new(url: Uri, lines: &[String], body: impl Into<Bytes>) -> Result<Target, HeaderError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for line in lines {
            let header = line.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::try_from(name.trim()).ok()?;
                Some((name, HeaderValue::try_from(value.trim()).ok()?))
            });
            let (name, value) = header.ok_or_else(|| HeaderError(line.clone()))?;
            headers.insert(name, value);
        }
        Ok(Target { url, headers, body: body.into() })
    }
}

/// Why a request counts as failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the address has to be http://HOST:PORT/PATH, not {0}")]
    Address(Uri),
    #[error("no connection to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("answered {status}: {text}")]
    Refused { status: StatusCode, text: String },
}

/// When what came, in seconds since the request was due.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub first_byte: f64,
    pub end: f64,
    pub ended_at: Option<Instant>,
    /// Of each event of a stream. None for an answer that is none.
    pub events: Vec<f32>,
}

pub(super) struct Client {
    target: Target,
    /// Those that nobody uses. The last one that became free is used first, so that there are only
    /// as many as are needed.
    idle: Rc<RefCell<Vec<Connection>>>,
}

type Connection = SendRequest<Full<Bytes>>;

impl Client {
    pub fn new(target: Target) -> Client {
        Client { target, idle: Rc::default() }
    }

    /// Sends the request and reads its answer to the end.
    pub async fn ask(&self, due: Instant) -> Result<Answer, ProbeError> {
        let (response, connection) = loop {
            let kept = self.take_idle();
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            match connection.send_request(self.request()).await {
                Ok(response) => break (response, connection),
                // The server closed a connection that it had kept, before anything was sent.
                Err(error) if was_kept && error.is_canceled() => {}
                Err(error) => return Err(error.into()),
            }
        };
        let first_byte = due.elapsed().as_secs_f64();
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let events = read(response, due).await?;
        let ended_at = Instant::now();
        let end = ended_at.saturating_duration_since(due).as_secs_f64();
        self.idle.borrow_mut().push(connection);
        Ok(Answer { first_byte, end, ended_at: Some(ended_at), events })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, ProbeError> {
        let url = &self.target.url;
        let wrong = || ProbeError::Address(url.clone());
        if url.scheme_str() != Some("http") {
            return Err(wrong());
        }
        let host = url.host().ok_or_else(wrong)?.trim_matches(['[', ']']);
        let port = url.port_u16().unwrap_or(80);
        let failed = |source| ProbeError::Connect { address: format!("{host}:{port}"), source };
        let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer is told what broke.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let Target { url, headers, body } = &self.target;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = if body.is_empty() { Method::GET } else { Method::POST };
        *request.headers_mut() = headers.clone();
        if let Some(host) = url.authority().and_then(|host| host.as_str().parse().ok()) {
            request.headers_mut().insert(HOST, host);
        }
        let path = url.path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        request
    }
}

/// Reads an answer to its end and says when each event ended.
async fn read(mut response: Response<Incoming>, due: Instant) -> Result<Vec<f32>, ProbeError> {
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_stream =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let (mut events, mut is_line_begin) = (Vec::new(), false);
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame?;
        let (Some(data), true) = (frame.data_ref(), is_stream) else { continue };
        let after = due.elapsed().as_secs_f32();
        for byte in data {
            match byte {
                // An empty line ends an event.
                b'\n' if is_line_begin => {
                    events.push(after);
                    is_line_begin = false;
                }
                b'\n' => is_line_begin = true,
                b'\r' => {}
                _ => is_line_begin = false,
            }
        }
    }
    Ok(events)
}

async fn refusal(response: Response<Incoming>) -> ProbeError {
    let status = response.status();
    let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).chars().take(ERROR_CHARACTERS_MAX).collect();
    ProbeError::Refused { status, text }
}
