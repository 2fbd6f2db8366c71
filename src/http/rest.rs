//! The Open Inference Protocol over REST, with Triton's extensions to it.
//!
//! # Layout
//!
//! - `infer`: one query
//! - `request`, `response`: bodies to messages and back, without a copy of binary tensors
//! - `elements`, `number`: the data of a tensor in JSON
//! - `parameters`, `object`: other parts of JSON
//! - `body`, `coding`: whole bodies, their limit and their compression
//! - `describe`, `repository`: what there is
//! - `feedback`: feedback in proto3 JSON
//! - `refusal`, `target`: errors and paths
//!
//! # What it does not do
//!
//! It decides nothing: what each call answers is `open_inference`'s, for gRPC as well.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;

use self::{refusal::Refusal, target::Target};
use crate::{open_inference, status};

mod body;
mod coding;
mod describe;
mod elements;
mod feedback;
mod infer;
mod number;
mod object;
mod parameters;
mod refusal;
mod repository;
mod request;
mod response;
mod target;

/// What the paths share.
#[derive(Clone, Debug)]
pub struct Rest {
    /// What each call answers.
    pub face: open_inference::Face,
    /// The largest body taken, in bytes, with its content coding and without.
    pub max_message_bytes: usize,
}

/// The paths of the protocol.
pub fn router(rest: Rest) -> Router {
    let model = Router::new()
        .route("/", get(metadata))
        .route("/ready", get(model_ready))
        .route("/config", get(config))
        .route("/stats", get(statistics))
        .route("/infer", post(infer::infer));
    Router::new()
        .route("/v2", get(server))
        .route(
            "/v2/health/live",
            get(|| async { json(StatusCode::OK, &serde_json::json!({ "live": true })) }),
        )
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .nest("/v2/models/{model}", model.clone())
        .nest("/v2/models/{model}/versions/{version}", model)
        .route("/v2/models/{model}/feedback", post(observe))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .with_state(Arc::new(rest))
}

/// Answers where there is nothing.
pub async fn unknown_path(uri: Uri) -> Response {
    let message =
        format!("there is nothing at {}; the protocol's paths begin with /v2", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, message).into_response()
}

/// Answers another method than those that a path has.
pub async fn unknown_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} does not take {method}; see the header Allow", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
}

async fn server(State(rest): State<Arc<Rest>>) -> Response {
    json(StatusCode::OK, &describe::server(&rest.face.server_metadata()))
}

async fn ready(State(rest): State<Arc<Rest>>) -> Response {
    if rest.face.ready() {
        json(StatusCode::OK, &serde_json::json!({ "ready": true }))
    } else {
        let stopping = serde_json::json!({ "ready": false, "error": "the server is stopping" });
        json(StatusCode::SERVICE_UNAVAILABLE, &stopping)
    }
}

async fn model_ready(State(rest): State<Arc<Rest>>, target: Target) -> Result<Response, Refusal> {
    let name = target.model;
    Ok(if rest.face.model_ready(&name, &target.version)? {
        json(StatusCode::OK, &serde_json::json!({ "name": name, "ready": true }))
    } else {
        let error = format!("'{name}' is not ready; POST /v2/repository/index says why");
        let not = serde_json::json!({ "name": name, "ready": false, "error": error });
        json(StatusCode::SERVICE_UNAVAILABLE, &not)
    })
}

async fn metadata(State(rest): State<Arc<Rest>>, target: Target) -> Result<Response, Refusal> {
    let metadata = rest.face.metadata(&target.model, &target.version)?;
    Ok(json(StatusCode::OK, &describe::model(&metadata)))
}

async fn config(State(rest): State<Arc<Rest>>, target: Target) -> Result<Response, Refusal> {
    let config = rest.face.config(&target.model, &target.version)?;
    Ok(json(StatusCode::OK, &describe::config(&config)))
}

async fn statistics(State(rest): State<Arc<Rest>>, target: Target) -> Result<Response, Refusal> {
    let statistics = rest.face.statistics(&target.model, &target.version)?;
    Ok(json(StatusCode::OK, &describe::statistics(&statistics)))
}

async fn all_statistics(State(rest): State<Arc<Rest>>) -> Result<Response, Refusal> {
    Ok(json(StatusCode::OK, &describe::statistics(&rest.face.statistics("", "")?)))
}

async fn observe(
    State(rest): State<Arc<Rest>>,
    target: Target,
    request: Request,
) -> Result<Response, Refusal> {
    let shared = &rest.face.0;
    let refused = |refusal: Refusal| match shared.applications.get(&target.model) {
        Ok(served) => {
            served.metrics.feedback("REFUSED");
            refusal
        }
        Err(error) => {
            shared.metrics.unknown().feedback("REFUSED");
            status::of_predict(&error).into()
        }
    };
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, rest.max_message_bytes).await.map_err(refused)?;
    let request =
        feedback::read(&target.model, &body).map_err(|invalid| refused(invalid.into()))?;
    let parent = shared.tracer.parent(&parts.headers);
    let response = shared.observe(request, parent).await?;
    Ok(json(StatusCode::OK, &feedback::Written::from(&response)))
}

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
