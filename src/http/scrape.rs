//! `/metrics`: what Prometheus asks for, in the format that it asks for.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::encoding::{prometheus_text, text};

use super::Face;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// OpenMetrics for who accepts it, else the text format that everybody reads.
pub(super) async fn metrics(State(face): State<Face>, headers: HeaderMap) -> Response {
    if !face.metrics.is_on() {
        let off = "metrics are off: [telemetry] metrics = false";
        return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, PLAIN)], off).into_response();
    }
    let open_metrics = |accepted: &str| accepted.contains("application/openmetrics-text");
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    let open = accepted.any(|value| value.to_str().is_ok_and(open_metrics));
    let mut body = String::new();
    // Held over both: what is sampled is cleared first, and must not be encoded half done.
    let registry = face.registry.lock();
    sample(&face);
    let encoded = if open {
        text::encode(&mut body, &registry)
    } else {
        prometheus_text::encode(&mut body, &registry)
    };
    drop(registry);
    let kind = if open { OPEN_METRICS } else { prometheus_text::CONTENT_TYPE };
    match encoded {
        Ok(()) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(error) => {
            let error = error.to_string();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, PLAIN)], error)
                .into_response()
        }
    }
}

fn sample(face: &Face) {
    let sampled = &face.metrics.sampled;
    sampled.process.sample();
    sampled.containers(&face.models.containers());
    sampled.cache.sample(&face.cache.stats());
    if let Some(redis) = &face.redis_state {
        sampled.state.sample(&redis.stats(), &face.refreshed);
    }
    if let Some(spans) = &face.spans {
        sampled.traces.sample(&spans.stats());
    }
    sampled.clear_applications();
    for served in face.applications.list() {
        let name = &served.wire.name;
        sampled.application(name, served.application().objective, served.admission.under_way());
        // From memory: a scrape waits for no store. An application whose models are not known yet
        // has no weights.
        let Some(selector) = served.stack() else { continue };
        for arm in selector.selection_in_memory().arms {
            sampled.arm(name, &arm.arm, arm.weight, arm.mean_loss);
        }
    }
}
