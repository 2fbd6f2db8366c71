//! Refusals: a status that is not 200, and JSON that says why.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tonic::{Code, Status};

use super::{Invalid, json};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    /// What metrics call it.
    code: Code,
    message: String,
    /// When it may be sent again, in seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => Code::OutOfRange,
            StatusCode::NOT_FOUND => Code::NotFound,
            _ => Code::InvalidArgument,
        };
        Self { status, code, message: message.into(), retry_after: None }
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    /// What the client is told.
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Invalid> for Refusal {
    fn from(Invalid(message): Invalid) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<Status> for Refusal {
    fn from(refused: Status) -> Self {
        let status = match refused.code() {
            // No code of HTTP says that the server, not the request, has to change first; 400 is what
            // clients of the protocol take as final.
            Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
            Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let milliseconds = refused.metadata().get("retry-after-ms");
        let milliseconds = milliseconds.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        Self {
            status,
            code: refused.code(),
            message: refused.message().to_owned(),
            // HTTP counts whole seconds, and 0 would say: at once.
            retry_after: milliseconds.map(|milliseconds| milliseconds.div_ceil(1000).max(1)),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &serde_json::json!({ "error": self.message }));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
