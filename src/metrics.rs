//! Every metric of the front end, by name; docs/metrics.md lists them.
//!
//! What is counted per query or per batch is resolved once, so that the hot path touches atomics
//! alone. What the layers below count is read from them when Prometheus asks.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};
use skysail_containers::{BatchObserver, BatchReport, DropReason};
use skysail_proto::ModelId;
use skysail_selection::query::Acknowledgement;

pub use self::application::ApplicationMetrics;
pub(crate) use self::application::REASONS;
use self::{
    batch::{DropMetrics, ReplicaMetrics},
    histogram::Histogram,
    labels::{
        ApplicationLabels, DropLabels, FeedbackLabels, RefusalLabels, ReleaseLabels, ReplicaLabels,
        RequestLabels, StageLabels,
    },
    sampled::Sampled,
};

mod application;
mod batch;
mod cache;
mod histogram;
mod labels;
mod process;
mod sampled;
mod state;
mod traces;

/// By which door a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A unary call.
    Grpc,
    /// A message of a stream.
    GrpcStream,
    /// A call of the Open Inference Protocol over gRPC.
    OpenInferenceGrpc,
    /// A call of the Open Inference Protocol over REST.
    OpenInferenceRest,
}

impl Protocol {
    const ALL: [Self; 4] =
        [Self::Grpc, Self::GrpcStream, Self::OpenInferenceGrpc, Self::OpenInferenceRest];

    /// As the label says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc_stream",
            Self::OpenInferenceGrpc => "oip_grpc",
            Self::OpenInferenceRest => "oip_rest",
        }
    }
}

/// How many doors there are.
const PROTOCOLS: usize = Protocol::ALL.len();

/// The front end's metrics. Cloning it shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    families: Arc<Families>,
    unknown: ApplicationMetrics,
    /// Set when Prometheus asks.
    pub(crate) sampled: Arc<Sampled>,
}

type ByReplica<M> = Family<ReplicaLabels, M, fn() -> M>;

/// All that is counted where it happens.
#[derive(Debug)]
struct Families {
    /// False: nothing is counted.
    on: bool,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<ApplicationLabels, Histogram, fn() -> Histogram>,
    goodput: Family<ApplicationLabels, Counter>,
    feedback: Family<FeedbackLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    batch_rows: ByReplica<Histogram>,
    stage_seconds: Family<StageLabels, Histogram, fn() -> Histogram>,
    releases: Family<ReleaseLabels, Counter>,
    drops: Family<DropLabels, Counter>,
    /// Those of a replica, resolved when its first batch is told of.
    replicas: RwLock<HashMap<(ModelId, usize), Arc<ReplicaMetrics>>>,
    /// The same for what a model's queue gives up.
    dropped: RwLock<HashMap<Arc<str>, Arc<DropMetrics>>>,
}

impl Metrics {
    /// Registers all of them. Where they are not `on`, nothing is counted and nothing registered.
    pub fn new(registry: &mut Registry, on: bool) -> Self {
        let families = Arc::new(Families {
            on,
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(Histogram::seconds),
            goodput: Family::default(),
            feedback: Family::default(),
            refusals: Family::default(),
            batch_rows: Family::new_with_constructor(Histogram::rows),
            stage_seconds: Family::new_with_constructor(Histogram::seconds),
            releases: Family::default(),
            drops: Family::default(),
            replicas: RwLock::default(),
            dropped: RwLock::default(),
        });
        let sampled = Arc::new(Sampled::default());
        if on {
            let skysail = registry.sub_registry_with_prefix("skysail");
            families.register(skysail);
            sampled.register(skysail);
            sampled.process.register(registry);
        }
        let unknown = ApplicationMetrics::lazy(&families, "unknown");
        Self { families, unknown, sampled }
    }

    /// False: nothing is counted.
    pub fn is_on(&self) -> bool {
        self.families.on
    }

    /// The counters of one application, resolved once.
    pub fn application(&self, name: &str) -> ApplicationMetrics {
        ApplicationMetrics::new(&self.families, name)
    }

    /// The counters of what names no application that there is.
    pub fn unknown(&self) -> &ApplicationMetrics {
        &self.unknown
    }
}

impl Families {
    fn register(&self, skysail: &mut Registry) {
        let counted = "Prediction replies, each counted once";
        skysail.register("requests", counted, self.requests.clone());
        skysail.register_with_unit(
            "request_latency",
            "From a query's arrival to its answer",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        let goodput = "Answers within the objective, defaults not counted";
        skysail.register("goodput", goodput, self.goodput.clone());
        let feedback = "Feedback messages by what became of them";
        skysail.register("feedback", feedback, self.feedback.clone());
        skysail.register("refusals", "Queries refused, by reason", self.refusals.clone());
        let rows = "Rows per batch that a replica ran";
        skysail.register("batch_rows", rows, self.batch_rows.clone());
        skysail.register_with_unit(
            "stage_latency",
            "Per batch: time in the queue of its oldest query, and in the container",
            Unit::Seconds,
            self.stage_seconds.clone(),
        );
        let releases = "Batches by why they were held open no longer";
        skysail.register("batch_releases", releases, self.releases.clone());
        skysail.register("drops", "Queries that a queue gave up, by reason", self.drops.clone());
    }
}

/// What became of feedback, as the label says it.
pub fn outcome_name(acknowledgement: &Acknowledgement) -> &'static str {
    match acknowledgement {
        Acknowledgement::Applied { .. } => "APPLIED",
        Acknowledgement::Duplicate => "DUPLICATE",
        Acknowledgement::Unknown => "UNKNOWN",
        Acknowledgement::Expired => "EXPIRED",
    }
}

impl BatchObserver for Metrics {
    fn batch(&self, report: &BatchReport<'_>) {
        self.families.batch(report);
    }

    fn dropped(&self, model: &ModelId, reason: DropReason, queries: u64) {
        self.families.dropped(model, reason, queries);
    }
}
