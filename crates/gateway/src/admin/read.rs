//! What is read of a request to the admin port: bodies that are JSON and say so, and are short.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use tokio::time::timeout;

use crate::error::ApiError;

pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The body as a `T`. Only JSON that is called so is taken: a page of somebody else's cannot send that
/// without asking first, and nobody here says yes.
pub(super) async fn read<T, B>(headers: &HeaderMap, body: B) -> Result<T, ApiError>
where
    T: DeserializeOwned,
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "the body must be JSON; send it with `content-type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::new(status, "invalid_request_error", message));
    }
    let collected = timeout(BODY_LIMIT, Limited::new(body, BODY_BYTES_MAX).collect());
    let bytes = match collected.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(ApiError::too_large(BODY_BYTES_MAX));
        }
        Ok(Err(_)) => return Err(ApiError::invalid("the body ended too early")),
        Err(_) => return Err(ApiError::too_slow()),
    };
    serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid(format!("the body: {error}")))
}

/// Tells a field that is `null` from one that is not there.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
