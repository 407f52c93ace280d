//! Errors as clients of OpenAI's interface know them.

use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::json;

use crate::admission::Shed;
use crate::ask::AskError;
use crate::tenants::LimitError;

/// What went wrong with a request, with its HTTP status.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// `type` in the error object.
    pub kind: &'static str,
    /// The field that is at fault.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub retry_after: Option<Duration>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        let message = message.into();
        ApiError { status, message, kind, param: None, code: None, retry_after: None }
    }

    /// 400.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, INVALID, message)
    }

    /// The same for a model that does not exist and for one that the tenant must not know.
    pub fn unknown_model(name: &str) -> ApiError {
        ApiError {
            param: Some("model".to_owned()),
            code: Some("model_not_found"),
            ..ApiError::not_found(format!(
                "the model `{name}` is not served here; GET /v1/models lists those that are"
            ))
        }
    }

    pub fn wrong_key() -> ApiError {
        let message = "a key is missing or wrong; send it as `Authorization: Bearer KEY`";
        let error = ApiError::new(StatusCode::UNAUTHORIZED, INVALID, message);
        ApiError { code: Some("invalid_api_key"), ..error }
    }

    pub fn suspended() -> ApiError {
        let message = "this account is suspended; ask whoever runs this service";
        ApiError::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    pub fn too_large(limit_bytes: usize) -> ApiError {
        let message =
            format!("the body is longer than {limit_bytes} bytes, which is the limit here");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message)
    }

    pub fn too_slow() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, INVALID, "the body did not arrive in time")
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        ApiError { retry_after: Some(Duration::from_secs(1)), ..error }
    }

    /// 502: backends were asked, and none of them could answer.
    pub fn no_answer(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_GATEWAY, "server_error", message)
    }

    /// 504.
    pub fn deadline() -> ApiError {
        let message = "the request took longer than its model's deadline";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message)
    }

    /// `{"error": {...}}`, also for the last event of a stream.
    pub fn body(&self) -> Bytes {
        let error = json!({
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        });
        Bytes::from(json!({ "error": error }).to_string())
    }
}

impl From<AskError> for ApiError {
    fn from(error: AskError) -> ApiError {
        let status = match error {
            AskError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::BAD_REQUEST,
        };
        let param = error.param().map(str::to_owned);
        ApiError { param, ..ApiError::new(status, INVALID, error.to_string()) }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> ApiError {
        let (kind, code, retry_after) = match &error {
            LimitError::Requests { retry_after, .. } => {
                ("requests", "rate_limit_exceeded", Some(*retry_after))
            }
            LimitError::Tokens { retry_after, .. } => {
                ("tokens", "rate_limit_exceeded", Some(*retry_after))
            }
            LimitError::Concurrency { .. } => {
                ("requests", "rate_limit_exceeded", Some(Duration::from_secs(1)))
            }
            // OpenAI's clients know by the code that it is of no use to try again soon.
            LimitError::Budget { .. } => ("insufficient_quota", "insufficient_quota", None),
        };
        ApiError {
            code: Some(code),
            retry_after,
            ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, kind, error.to_string())
        }
    }
}

impl From<Shed> for ApiError {
    fn from(shed: Shed) -> ApiError {
        let (Shed::Full { retry_after } | Shed::Waited { retry_after }) = shed;
        let error =
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded_error", shed.to_string());
        ApiError { retry_after: Some(retry_after), ..error }
    }
}
