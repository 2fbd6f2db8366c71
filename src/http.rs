//! The HTTP port: the Open Inference Protocol over REST, metrics, health and the page.

pub mod rest;

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

use crate::{
    applications::Applications,
    metrics::Metrics,
    page::{self, Page},
    refresh::Refreshed,
    state::RedisState,
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
        .route("/metrics", get(metrics))
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

async fn metrics(State(face): State<Face>) -> impl IntoResponse {
    sample(&face);
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

fn sample(face: &Face) {
    let sampled = &face.metrics.sampled;
    sampled.containers(&face.models.containers());
    sampled.cache.sample(&face.cache.stats());
    if let Some(redis) = &face.redis_state {
        sampled.state.sample(&redis.stats(), &face.refreshed);
    }
    // From memory: a scrape waits for no store. An application whose models are not known yet has
    // no weights.
    for (name, selector) in face.applications.stacks() {
        let arms = selector.application().arms.iter();
        for (arm, weight) in arms.zip(selector.weights()) {
            sampled.weight(&name, &arm.name, weight);
        }
    }
}
