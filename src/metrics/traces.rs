//! What became of spans.

use std::sync::atomic::Ordering;

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::labels::ReasonLabels;
use crate::telemetry::SpanStats;

/// Copied from the exporter when Prometheus asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct TraceMetrics {
    exported: Counter,
    dropped: Family<ReasonLabels, Counter>,
}

impl TraceMetrics {
    /// Where traces are exported.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("skysail");
        let exported = "Spans that the collector took";
        registry.register("spans_exported", exported, self.exported.clone());
        let dropped = "Spans that were given up, by reason";
        registry.register("spans_dropped", dropped, self.dropped.clone());
    }

    pub(crate) fn sample(&self, stats: &SpanStats) {
        self.exported.inner().store(stats.exported, Ordering::Relaxed);
        for (reason, count) in [("queue_full", stats.full), ("export_failed", stats.failed)] {
            let dropped = self.dropped.get_or_create(&ReasonLabels { reason });
            dropped.inner().store(count, Ordering::Relaxed);
        }
    }
}
