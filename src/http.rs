//! The HTTP port: the Open Inference Protocol over REST, metrics, health and the page.

pub mod rest;
mod scrape;

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::{
    applications::Applications,
    metrics::Metrics,
    page::{self, Page},
    refresh::Refreshed,
    state::RedisState,
    telemetry::export::SpanCounter,
};

/// What the HTTP door shows.
#[derive(Clone, Debug)]
pub struct Face {
    /// All metrics.
    pub registry: Arc<Mutex<Registry>>,
    /// Those of them that are read when Prometheus asks.
    pub metrics: Metrics,
    /// For weights.
    pub applications: Applications,
    /// For batch limits and queues.
    pub models: skysail_containers::Models,
    /// For cache counters.
    pub cache: skysail_cache::CacheLayer,
    /// For its counters.
    pub redis_state: Option<RedisState>,
    /// For what became of spans; `None`: there are no traces.
    pub spans: Option<SpanCounter>,
    /// How far what other front ends commit is known here.
    pub refreshed: Refreshed,
    /// For a browser.
    pub page: Page,
    /// True once the server is stopping: it is not ready any more.
    pub stopping: watch::Receiver<bool>,
    /// The Open Inference Protocol.
    pub rest: rest::Rest,
}

/// The paths of the HTTP door.
pub fn router(face: Face) -> Router {
    let page = page::routes(face.page.clone());
    let rest = rest::router(face.rest.clone());
    Router::new()
        .route("/metrics", get(scrape::metrics))
        .route("/health/live", get(|| async { "{\"live\":true}" }))
        .route("/health/ready", get(ready))
        .with_state(face)
        .merge(page)
        .merge(rest)
        .fallback(rest::unknown_path)
        .method_not_allowed_fallback(rest::unknown_method)
}

async fn ready(State(face): State<Face>) -> impl IntoResponse {
    if *face.stopping.borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "{\"ready\":false}")
    } else {
        (StatusCode::OK, "{\"ready\":true}")
    }
}
