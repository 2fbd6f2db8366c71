//! The services of the gRPC port: those of `skysail.v1`, and the Open Inference Protocol.

mod admin;
mod convert;
mod feedback;
mod open_inference;
mod prediction;
mod registry;
mod stream;

use std::sync::Arc;

use skysail_cache::CacheLayer;
use skysail_containers::Models;
use tokio::sync::watch;

use crate::{
    applications::Applications,
    metrics::Metrics,
    record::DecisionLogFile,
    state::StateFile,
    telemetry::{RefusalLog, Tracer},
};

pub use admin::AdminService;
pub use feedback::FeedbackService;
pub use open_inference::OpenInferenceService;
pub use prediction::PredictionService;
pub use registry::RegistryService;

/// What the services share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The applications.
    pub applications: Applications,
    /// The models.
    pub models: Models,
    /// The embedded cache.
    pub cache: CacheLayer,
    /// Versions that were set.
    pub state: StateFile,
    /// The decision log, to which feedback is joined.
    pub log: Arc<DecisionLogFile>,
    /// Counters.
    pub metrics: Metrics,
    /// Samples queries.
    pub tracer: Tracer,
    /// The log of refusals to those who name no application that there is.
    pub unknown: Arc<RefusalLog>,
    /// Messages of one stream that may be under way.
    pub stream_in_flight: usize,
    /// True once the server is stopping: streams read no further.
    pub stopping: watch::Receiver<bool>,
}
