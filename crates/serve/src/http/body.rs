//! Bodies: those of answers, whole or as events, and those of requests, read within limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::{Request, Response, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::error::ApiError;

/// An answer's body.
#[derive(Debug)]
pub(crate) struct Body(Content);

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    /// Ends when the sender is dropped.
    Events(mpsc::Receiver<Bytes>),
}

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        Body(Content::Whole(Some(bytes.into())))
    }

    pub fn empty() -> Body {
        Body(Content::Whole(None))
    }

    pub fn events(receiver: mpsc::Receiver<Bytes>) -> Body {
        Body(Content::Events(receiver))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().0 {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Events(receiver) => {
                receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Events(_) => SizeHint::new(),
        }
    }
}

pub(crate) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => response(status, "application/json", Body::whole(bytes)),
        // Our own types have no maps with keys that are not texts, so this does not happen.
        Err(_) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// What should be the JSON of a request.
///
/// # Errors
/// 415, 413, 408, or 400 if it is cut off.
pub(crate) async fn read(
    request: Request<Incoming>,
    limit_bytes: usize,
    limit: Duration,
) -> Result<Vec<u8>, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::wrong_content_type());
    }
    tokio::time::timeout(limit, collect(request.into_body(), limit_bytes))
        .await
        .map_err(|_| ApiError::too_slow("the body did not arrive in time"))?
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("the body is not valid JSON: {error}")))
}

/// Asking for the type keeps pages of other sites from sending requests from a visitor's browser
/// without asking first.
fn is_json(headers: &header::HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    let Ok(value) = value.to_str() else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

async fn collect(mut body: Incoming, limit_bytes: usize) -> Result<Vec<u8>, ApiError> {
    use hyper::body::Body as _;
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(ApiError::too_large(limit_bytes));
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("the body ended too early"))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > limit_bytes {
                return Err(ApiError::too_large(limit_bytes));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}
