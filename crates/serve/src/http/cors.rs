//! Which other sites' pages may use the interface from a browser.

use hyper::header::{self, HeaderMap, HeaderValue};

/// What a browser is told about a request from `origin`, where that may use the interface.
pub(crate) fn headers(
    origins: &[String],
    request: &HeaderMap,
) -> Vec<(header::HeaderName, HeaderValue)> {
    let Some(origin) = request.get(header::ORIGIN) else { return Vec::new() };
    let named = |allowed: &String| allowed.as_bytes() == origin.as_bytes();
    let allow = if origins.iter().any(|allowed| allowed == "*") {
        HeaderValue::from_static("*")
    } else if origins.iter().any(named) {
        origin.clone()
    } else {
        return Vec::new();
    };
    vec![
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, allow),
        (header::VARY, HeaderValue::from_static("origin")),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id, retry-after"),
        ),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS")),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            // `*` does not cover `authorization`, and OpenAI's client adds headers of its own.
            request
                .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
                .cloned()
                .unwrap_or_else(|| HeaderValue::from_static("authorization, content-type")),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ]
}
