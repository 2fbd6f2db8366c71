//! The Open Inference Protocol over REST.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;

mod body;
mod coding;
mod elements;
mod feedback;
mod number;
mod object;
mod parameters;
mod refusal;
mod request;
mod response;

/// What of a request or an answer is not as the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Invalid(String);

/// From so many bytes on a body is worked on beside the other requests, not between them: some
/// milliseconds.
const HEAVY: usize = 1 << 20;

/// Does what takes a time that grows with `bytes`.
fn heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > HEAVY { tokio::task::block_in_place(work) } else { work() }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let (status, body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
