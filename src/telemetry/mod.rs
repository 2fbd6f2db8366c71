//! What the process tells of itself beside its metrics: traces, and the log.
//!
//! - [`tracer`]: which queries are sampled, and what is told of them
//! - [`export`]: sends spans to a collector, and never waits for one
//! - [`refusals`]: a line in the log for refusals, and not one for each
//! - [`log`]: how the log is written

use std::sync::Arc;

use skysail_containers::{BatchObserver, BatchReport, DropReason};
use skysail_proto::ModelId;

pub mod export;
pub mod log;
pub mod refusals;
mod span;
pub mod tracer;

pub use export::{Exporter, SpanStats};
pub use log::LogFormat;
pub use refusals::{RefusalLog, RefusalLogs};
pub use tracer::{Parent, Traced, Tracer};

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceConfig {
    /// A collector that speaks OTLP over gRPC, as a URL; `None`: there are no traces.
    pub otlp_endpoint: Option<String>,
    /// The share of queries that are sampled where their caller does not say, in [0, 1].
    pub ratio: f64,
    /// The name of the service; `None`: what the program is.
    pub service_name: Option<String>,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { otlp_endpoint: None, ratio: 0.01, service_name: None }
    }
}

/// Hears of batches for the metrics and the traces.
#[derive(Debug)]
pub struct Observer {
    /// The metrics.
    pub metrics: crate::metrics::Metrics,
    /// The traces.
    pub tracer: Tracer,
}

impl Observer {
    /// As the models want it.
    pub fn shared(metrics: crate::metrics::Metrics, tracer: Tracer) -> Arc<dyn BatchObserver> {
        Arc::new(Self { metrics, tracer })
    }
}

impl BatchObserver for Observer {
    fn batch(&self, report: &BatchReport<'_>) {
        self.metrics.batch(report);
        self.tracer.batch(report);
    }

    fn dropped(&self, model: &ModelId, reason: DropReason, queries: u64) {
        self.metrics.dropped(model, reason, queries);
    }
}
