//! Metrics and health over HTTP.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::sync::watch;

use crate::{applications::Applications, metrics::Metrics};

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
    /// True once the server is stopping: it is not ready any more.
    pub stopping: watch::Receiver<bool>,
}

/// The paths of the HTTP door.
pub fn router(face: Face) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "{\"live\":true}" }))
        .route("/health/ready", get(ready))
        .with_state(face)
}

async fn ready(State(face): State<Face>) -> impl IntoResponse {
    if *face.stopping.borrow() {
        (StatusCode::SERVICE_UNAVAILABLE, "{\"ready\":false}")
    } else {
        (StatusCode::OK, "{\"ready\":true}")
    }
}

async fn metrics(State(face): State<Face>) -> impl IntoResponse {
    sample(&face).await;
    let mut text = String::new();
    let encoded = text::encode(&mut text, &face.registry.lock());
    match encoded {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string(),
        ),
    }
}

async fn sample(face: &Face) {
    let sampled = &face.metrics.sampled;
    sampled.containers(&face.models.containers());
    sampled.cache.sample(&face.cache.stats());
    for served in face.applications.list() {
        // An application whose models are not known yet has no weights.
        let Ok(selector) = face.applications.selector(&served).await else { continue };
        let Ok(view) = selector.selection("").await else { continue };
        for arm in view.arms {
            sampled.weight(&served.wire.name, &arm.arm, arm.weight);
        }
    }
}
