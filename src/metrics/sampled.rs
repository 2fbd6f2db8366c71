//! Gauges that are read from elsewhere when Prometheus asks.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};
use skysail_containers::{ContainerInfo, ContainerState};

use super::{
    cache::CacheMetrics,
    labels::{ApplicationLabels, ArmLabels, ReplicaLabels, VersionLabels},
    process::ProcessMetrics,
    state::StateMetrics,
    traces::TraceMetrics,
};

type Real = Gauge<f64, AtomicU64>;

/// Set when Prometheus asks, all under the lock of the registry: what has gone is cleared first, and
/// nobody may look meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    objective: Family<ApplicationLabels, Real>,
    in_flight: Family<ApplicationLabels, Gauge>,
    weight: Family<ArmLabels, Real>,
    mean_loss: Family<ArmLabels, Real>,
    batch_limit: Family<ReplicaLabels, Gauge>,
    queue_rows: Family<ReplicaLabels, Gauge>,
    feasible: Family<ReplicaLabels, Gauge>,
    live_replicas: Family<VersionLabels, Gauge>,
    pub(crate) cache: CacheMetrics,
    pub(crate) state: StateMetrics,
    pub(crate) process: ProcessMetrics,
    pub(crate) traces: TraceMetrics,
}

impl Sampled {
    pub(super) fn register(&self, registry: &mut Registry) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Which build this is", version);
        registry.register_with_unit(
            "objective",
            "The latency within which an application's answers are due",
            Unit::Seconds,
            self.objective.clone(),
        );
        let in_flight = "Queries that were admitted and are not answered yet";
        registry.register("in_flight_queries", in_flight, self.in_flight.clone());
        registry.register("selection_weight", "Normalised weight of an arm", self.weight.clone());
        let loss = "Mean loss of an arm by all feedback; 0 before there is any";
        registry.register("arm_mean_loss", loss, self.mean_loss.clone());
        registry.register("batch_limit_rows", "The batch sizer's limit", self.batch_limit.clone());
        registry.register("queue_rows", "Rows that wait", self.queue_rows.clone());
        let feasible = "0: a single row takes longer than the objective allows";
        registry.register("objective_feasible", feasible, self.feasible.clone());
        registry.register("live_replicas", "Replicas that take work", self.live_replicas.clone());
        self.cache.register(registry);
    }

    pub(crate) fn containers(&self, containers: &[ContainerInfo]) {
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
            self.batch_limit.get_or_create(&labels).set(whole(container.batch_limit));
            self.queue_rows.get_or_create(&labels).set(whole(container.queue_rows));
            self.feasible.get_or_create(&labels).set(i64::from(container.feasible));
            let live = VersionLabels { model: labels.model, version: labels.version };
            let ready = container.state == ContainerState::Ready;
            self.live_replicas.get_or_create(&live).inc_by(i64::from(ready));
        }
    }

    /// Forgets all applications; those that there are follow.
    pub(crate) fn clear_applications(&self) {
        self.objective.clear();
        self.in_flight.clear();
        self.weight.clear();
        self.mean_loss.clear();
    }

    pub(crate) fn application(&self, name: &str, objective: Duration, in_flight: u32) {
        let labels = ApplicationLabels { application: name.to_owned() };
        self.objective.get_or_create(&labels).set(objective.as_secs_f64());
        self.in_flight.get_or_create(&labels).set(in_flight.into());
    }

    pub(crate) fn arm(&self, application: &str, arm: &str, weight: f64, mean_loss: f64) {
        let labels = ArmLabels { application: application.to_owned(), arm: arm.to_owned() };
        self.weight.get_or_create(&labels).set(weight);
        self.mean_loss.get_or_create(&labels).set(mean_loss);
    }
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
