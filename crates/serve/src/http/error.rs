//! Errors as clients of the OpenAI interface know them.

use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::body::{Body, json_response};
use crate::engine::{EmbedError, Failure, Refusal};
use crate::structure::StructureError;

/// What went wrong with a request, with its HTTP status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// `type` in the error object.
    pub kind: &'static str,
    /// The field that is at fault (`messages[0].role`).
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub retry_after_seconds: Option<u64>,
    /// The methods that the path has, with 405.
    pub allow: Option<&'static str>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
            kind,
            param: None,
            code: None,
            retry_after_seconds: None,
            allow: None,
        }
    }

    /// 400.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// 400 because of one field.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..ApiError::invalid(message) }
    }

    /// 400 because of a field that exists elsewhere but not here.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code: Some("unsupported_parameter"), ..ApiError::field(param, message) }
    }

    pub fn unknown_model(name: &str) -> ApiError {
        ApiError {
            param: Some("model".to_owned()),
            code: Some("model_not_found"),
            ..ApiError::not_found(format!(
                "the model `{name}` is not served here; GET /v1/models lists those that are"
            ))
        }
    }

    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, INVALID, message)
    }

    pub fn wrong_method(allow: &'static str) -> ApiError {
        ApiError {
            allow: Some(allow),
            ..ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID,
                format!("this path only takes {allow}"),
            )
        }
    }

    pub fn wrong_key() -> ApiError {
        ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(
                StatusCode::UNAUTHORIZED,
                INVALID,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
            )
        }
    }

    pub fn wrong_content_type() -> ApiError {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            INVALID,
            "the body must be JSON and say so; send `Content-Type: application/json`",
        )
    }

    pub fn too_large(limit_bytes: usize) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            INVALID,
            format!("the body is longer than {limit_bytes} bytes, the server's limit"),
        )
    }

    /// 408: the client or the model took too long.
    pub fn too_slow(message: impl Into<String>) -> ApiError {
        ApiError {
            code: Some("timeout"),
            ..ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", message)
        }
    }

    /// 503 while the model is being loaded.
    pub fn starting() -> ApiError {
        ApiError {
            retry_after_seconds: Some(5),
            code: Some("starting"),
            ..unavailable("the server is starting; GET /ready says when it takes requests")
        }
    }

    pub fn stopping() -> ApiError {
        ApiError { code: Some("stopping"), ..unavailable(Refusal::Stopping.to_string()) }
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The error as it stands in a body or a stream.
    pub fn to_json(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.status, &self.to_json());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, header::HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", message)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal {
            Refusal::QueueFull { retry_after_seconds, .. } => ApiError {
                code: Some("rate_limit_exceeded"),
                retry_after_seconds: Some(retry_after_seconds),
                ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            },
            Refusal::Stopping => ApiError::stopping(),
            Refusal::TooLong { .. } => {
                ApiError { code: Some("context_length_exceeded"), ..ApiError::invalid(message) }
            }
            // An adapter is asked for by its name as a model, so it was unloaded just now.
            Refusal::UnknownAdapter(name) => ApiError::unknown_model(&name),
            Refusal::OutOfRange { parameter, .. } => ApiError::field(parameter, message),
            Refusal::EmptyPrompt | Refusal::UnknownToken { .. } => ApiError::invalid(message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        match failure {
            Failure::Stopping => ApiError::stopping(),
            failure => ApiError::internal(failure.to_string()),
        }
    }
}

impl From<EmbedError> for ApiError {
    fn from(error: EmbedError) -> ApiError {
        match error {
            EmbedError::Refused(refusal) => refusal.into(),
            EmbedError::Failed(failure) => failure.into(),
        }
    }
}

impl From<StructureError> for ApiError {
    fn from(error: StructureError) -> ApiError {
        ApiError { code: Some("invalid_structure"), ..ApiError::field(error.param, error.what) }
    }
}
