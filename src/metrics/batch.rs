//! What is counted of batches, and of what a queue gave up.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use skysail_containers::{BatchReport, DropReason, Release};
use skysail_proto::ModelId;

use super::{
    Families,
    histogram::Histogram,
    labels::{DropLabels, ReleaseLabels, ReplicaLabels, StageLabels},
};

const RELEASES: [Release; 4] = [Release::Full, Release::Idle, Release::Timer, Release::Deadline];

/// The counters of one replica's batches.
#[derive(Debug)]
pub(super) struct ReplicaMetrics {
    rows: Histogram,
    queue: Histogram,
    compute: Histogram,
    /// In the order of [`RELEASES`].
    releases: [Counter; 4],
}

/// The counters of what the queues of one model gave up, in the order of [`DropReason::ALL`].
#[derive(Debug)]
pub(super) struct DropMetrics([Counter; 5]);

impl Families {
    pub(super) fn batch(&self, report: &BatchReport<'_>) {
        if !self.on {
            return;
        }
        let key = (report.model.clone(), report.replica);
        let known = self.replicas.read().get(&key).map(Arc::clone);
        let counted = known.unwrap_or_else(|| {
            let made = Arc::new(self.replica(report.model, report.replica));
            Arc::clone(self.replicas.write().entry(key).or_insert(made))
        });
        counted.rows.observe(report.rows as u64);
        counted.queue.observe_duration(report.queue_max);
        counted.compute.observe_duration(report.compute);
        if let Some(place) = RELEASES.iter().position(|release| *release == report.release) {
            counted.releases[place].inc();
        }
    }

    pub(super) fn dropped(&self, model: &ModelId, reason: DropReason, queries: u64) {
        if !self.on {
            return;
        }
        let known = self.dropped.read().get(&model.name).map(Arc::clone);
        let counted = known.unwrap_or_else(|| {
            let made = Arc::new(DropMetrics(DropReason::ALL.map(|reason| {
                let labels = DropLabels { model: model.name.to_string(), reason: reason.name() };
                self.drops.get_or_create_owned(&labels)
            })));
            Arc::clone(self.dropped.write().entry(Arc::clone(&model.name)).or_insert(made))
        });
        if let Some(place) = DropReason::ALL.iter().position(|known| *known == reason) {
            counted.0[place].inc_by(queries);
        }
    }

    fn replica(&self, model: &ModelId, replica: usize) -> ReplicaMetrics {
        let (model, version) = (model.name.to_string(), model.version.to_string());
        let stage = |stage| {
            let labels = StageLabels { model: model.clone(), version: version.clone(), stage };
            self.stage_seconds.get_or_create_owned(&labels)
        };
        let (queue, compute) = (stage("queue"), stage("compute"));
        let releases = RELEASES.map(|release| {
            let reason = release.name();
            let labels = ReleaseLabels { model: model.clone(), version: version.clone(), reason };
            self.releases.get_or_create_owned(&labels)
        });
        let labels = ReplicaLabels { model, version, replica: replica.to_string() };
        let rows = self.batch_rows.get_or_create_owned(&labels);
        ReplicaMetrics { rows, queue, compute, releases }
    }
}
