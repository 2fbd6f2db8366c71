//! Every metric of the front end, by name.
//!
//! What is counted per query is resolved once per application, so that the hot path touches
//! atomics alone. What the layers below count is read from them when Prometheus asks.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use skysail_containers::{BatchObserver, BatchReport, DropReason};
use skysail_selection::{Status, query::Acknowledgement};

use self::{cache::CacheMetrics, state::StateMetrics};
use crate::recent::Recent;

mod cache;
mod state;

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

    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc_stream",
            Self::OpenInferenceGrpc => "oip_grpc",
            Self::OpenInferenceRest => "oip_rest",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    application: String,
    status: &'static str,
    protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeedbackLabels {
    application: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApplicationLabels {
    application: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    application: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplicaLabels {
    model: String,
    version: String,
    replica: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    model: String,
    version: String,
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    model: String,
    version: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArmLabels {
    application: String,
    arm: String,
}

type Seconds = Family<StageLabels, Histogram, fn() -> Histogram>;
type Rows = Family<ReplicaLabels, Histogram, fn() -> Histogram>;
type RequestSeconds = Family<ApplicationLabels, Histogram, fn() -> Histogram>;

/// The front end's metrics. Cloning it shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: RequestSeconds,
    goodput: Family<ApplicationLabels, Counter>,
    feedback: Family<FeedbackLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    batch_rows: Rows,
    stage_seconds: Seconds,
    releases: Family<ReasonLabels, Counter>,
    drops: Family<ReasonLabels, Counter>,
    /// Set when Prometheus asks.
    pub(crate) sampled: Sampled,
}

/// Gauges that are read from elsewhere when Prometheus asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sampled {
    batch_limit: Family<ReplicaLabels, Gauge>,
    queue_rows: Family<ReplicaLabels, Gauge>,
    live_replicas: Family<VersionLabels, Gauge>,
    feasible: Family<ReplicaLabels, Gauge>,
    weight: Family<ArmLabels, Gauge<f64, AtomicU64>>,
    pub(crate) cache: CacheMetrics,
    pub(crate) state: StateMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    model: String,
    version: String,
}

fn seconds() -> Histogram {
    // 50 µs to 6.5 s.
    Histogram::new(exponential_buckets(50e-6, 2.0, 18))
}

fn rows() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let skysail = registry.sub_registry_with_prefix("skysail");
        let metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            goodput: Family::default(),
            feedback: Family::default(),
            refusals: Family::default(),
            batch_rows: Family::new_with_constructor(rows),
            stage_seconds: Family::new_with_constructor(seconds),
            releases: Family::default(),
            drops: Family::default(),
            sampled: Sampled::default(),
        };
        let m = &metrics;
        skysail.register("requests", "Prediction replies, each counted once", m.requests.clone());
        skysail.register_with_unit(
            "request_latency",
            "From a query's arrival to its reply",
            Unit::Seconds,
            m.request_seconds.clone(),
        );
        skysail.register(
            "goodput",
            "Answers by their deadline, defaults not counted",
            m.goodput.clone(),
        );
        skysail.register("feedback", "Feedback by what became of it", m.feedback.clone());
        skysail.register("refusals", "Queries refused, by reason", m.refusals.clone());
        skysail.register("batch_rows", "Rows per batch that a replica ran", m.batch_rows.clone());
        skysail.register_with_unit(
            "stage_latency",
            "Time in the queue of a batch's oldest query, and in the container",
            Unit::Seconds,
            m.stage_seconds.clone(),
        );
        skysail.register("batch_releases", "Batches by why they were released", m.releases.clone());
        skysail.register("drops", "Queries that a queue gave up, by reason", m.drops.clone());
        m.sampled.register(skysail);
        metrics
    }

    /// The counters of one application, resolved once.
    pub fn application(&self, name: &str) -> ApplicationMetrics {
        let requests = |status: &'static str| {
            Protocol::ALL.map(|protocol| {
                let labels = RequestLabels {
                    application: name.to_owned(),
                    status,
                    protocol: protocol.name(),
                };
                self.requests.get_or_create_owned(&labels)
            })
        };
        let labels = ApplicationLabels { application: name.to_owned() };
        ApplicationMetrics {
            name: name.into(),
            answered: requests("ANSWERED"),
            partial: requests("PARTIAL"),
            default: requests("DEFAULT"),
            seconds: self.request_seconds.get_or_create_owned(&labels),
            goodput: self.goodput.get_or_create_owned(&labels),
            recent: Arc::default(),
            all: self.clone(),
        }
    }

    /// Counts a reply to a query for an application that is not known.
    pub fn unknown_application(&self, code: tonic::Code, protocol: Protocol) {
        self.refused("unknown", code, "unknown_application", protocol);
    }

    fn refused(
        &self,
        application: &str,
        code: tonic::Code,
        reason: &'static str,
        protocol: Protocol,
    ) {
        self.requests
            .get_or_create(&RequestLabels {
                application: application.to_owned(),
                status: crate::status::code_name(code),
                protocol: protocol.name(),
            })
            .inc();
        self.refusals
            .get_or_create(&RefusalLabels { application: application.to_owned(), reason })
            .inc();
    }

    /// Counts one feedback message.
    pub fn feedback(&self, application: &str, outcome: &'static str) {
        self.feedback
            .get_or_create(&FeedbackLabels { application: application.to_owned(), outcome })
            .inc();
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

/// The counters of one application.
#[derive(Clone, Debug)]
pub struct ApplicationMetrics {
    name: Arc<str>,
    answered: [Counter; Protocol::ALL.len()],
    partial: [Counter; Protocol::ALL.len()],
    default: [Counter; Protocol::ALL.len()],
    seconds: Histogram,
    goodput: Counter,
    recent: Arc<Recent>,
    all: Metrics,
}

impl ApplicationMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: Status, took: Duration, in_time: bool, protocol: Protocol) {
        let counters = match status {
            Status::Answered => &self.answered,
            Status::Partial => &self.partial,
            Status::Default => &self.default,
        };
        counters[protocol as usize].inc();
        self.seconds.observe(took.as_secs_f64());
        self.recent.answered(status, took, in_time);
        if in_time && status != Status::Default {
            self.goodput.inc();
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, code: tonic::Code, reason: &'static str, protocol: Protocol) {
        self.recent.refused(code);
        self.all.refused(&self.name, code, reason, protocol);
    }

    /// Counts one feedback message.
    pub fn feedback(&self, outcome: &'static str) {
        self.recent.feedback(outcome);
        self.all.feedback(&self.name, outcome);
    }

    /// What is counted for the page.
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }
}

impl BatchObserver for Metrics {
    fn batch(&self, report: &BatchReport<'_>) {
        let (model, version) = (report.model.name.to_string(), report.model.version.to_string());
        self.batch_rows
            .get_or_create(&ReplicaLabels {
                model: model.clone(),
                version: version.clone(),
                replica: report.replica.to_string(),
            })
            .observe(report.rows as f64);
        for (stage, took) in [("queue", report.queue_max), ("compute", report.compute)] {
            self.stage_seconds
                .get_or_create(&StageLabels {
                    model: model.clone(),
                    version: version.clone(),
                    stage,
                })
                .observe(took.as_secs_f64());
        }
        let reason = report.release.name();
        self.releases.get_or_create(&ReasonLabels { model, version, reason }).inc();
    }

    fn dropped(&self, model: &skysail_proto::ModelId, reason: DropReason, queries: u64) {
        let labels = ReasonLabels {
            model: model.name.to_string(),
            version: model.version.to_string(),
            reason: reason.name(),
        };
        self.drops.get_or_create(&labels).inc_by(queries);
    }
}

impl Sampled {
    fn register(&self, registry: &mut Registry) {
        registry.register("batch_limit_rows", "The batch sizer's limit", self.batch_limit.clone());
        registry.register("queue_rows", "Rows that wait", self.queue_rows.clone());
        registry.register("live_replicas", "Replicas that take work", self.live_replicas.clone());
        registry.register(
            "objective_feasible",
            "0: a single row takes longer than the objective allows",
            self.feasible.clone(),
        );
        registry.register("selection_weight", "Normalised weight of an arm", self.weight.clone());
        self.cache.register(registry);
    }

    pub(crate) fn containers(&self, containers: &[skysail_containers::ContainerInfo]) {
        // Those that have gone are not shown any more.
        self.live_replicas.clear();
        for family in [&self.batch_limit, &self.queue_rows, &self.feasible] {
            family.clear();
        }
        for container in containers {
            let labels = ReplicaLabels {
                model: container.model.to_string(),
                version: container.version.to_string(),
                replica: container.replica.to_string(),
            };
            self.batch_limit.get_or_create(&labels).set(container.batch_limit as i64);
            self.queue_rows.get_or_create(&labels).set(container.queue_rows as i64);
            self.feasible.get_or_create(&labels).set(i64::from(container.feasible));
            let live = VersionLabels { model: labels.model, version: labels.version };
            let ready = container.state == skysail_containers::ContainerState::Ready;
            self.live_replicas.get_or_create(&live).inc_by(i64::from(ready));
        }
    }

    pub(crate) fn weight(&self, application: &str, arm: &str, weight: f64) {
        let labels = ArmLabels { application: application.to_owned(), arm: arm.to_owned() };
        self.weight.get_or_create(&labels).set(weight);
    }
}
