//! Selection state in a Redis that front ends share.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{refresh::Refreshed, state::RedisStateStats};

/// What is counted of it, copied when Prometheus asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateMetrics {
    commits: Counter,
    conflicts: Counter,
    errors: Counter,
    connects: Counter,
    connected: Gauge,
    records: Counter,
    records_waiting: Gauge,
    records_lost: Counter,
    refreshed: Counter,
    refresh_failures: Counter,
    refresh_lag: Gauge<f64, AtomicU64>,
}

impl StateMetrics {
    /// Where there is such a Redis.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("skysail");
        let counted = [
            ("state_commits", "Commits that Redis acknowledged", &self.commits),
            ("state_conflicts", "Commits before which somebody was first", &self.conflicts),
            ("state_errors", "Calls that Redis refused or did not answer", &self.errors),
            ("state_connects", "Connections made to Redis", &self.connects),
            ("state_records", "Decision records written to Redis", &self.records),
            ("state_records_lost", "Decision records not written", &self.records_lost),
            ("state_refreshed", "States loaded that others had changed", &self.refreshed),
            ("state_refresh_failures", "Looks at versions that failed", &self.refresh_failures),
        ];
        for (name, help, counter) in counted {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "state_connected",
            "1: there is a connection to the Redis of selection state",
            self.connected.clone(),
        );
        registry.register(
            "state_records_waiting",
            "Decision records that wait to be written to Redis",
            self.records_waiting.clone(),
        );
        registry.register_with_unit(
            "state_refresh_lag",
            "How old what is in memory of other front ends' commits may be",
            Unit::Seconds,
            self.refresh_lag.clone(),
        );
    }

    pub(crate) fn sample(&self, stats: &RedisStateStats, refreshed: &Refreshed) {
        let counted = [
            (&self.commits, stats.commits),
            (&self.conflicts, stats.conflicts),
            (&self.errors, stats.errors),
            (&self.connects, stats.connects),
            (&self.records, stats.records),
            (&self.records_lost, stats.records_lost),
            (&self.refreshed, refreshed.loaded()),
            (&self.refresh_failures, refreshed.failed()),
        ];
        for (counter, value) in counted {
            // They only rise where they are counted, so what is shown only rises, too.
            counter.inner().store(value, Ordering::Relaxed);
        }
        self.connected.set(i64::from(stats.connected));
        let waiting = i64::try_from(stats.records_waiting).unwrap_or(i64::MAX);
        self.records_waiting.set(waiting);
        self.refresh_lag.set(refreshed.lag().as_secs_f64());
    }
}
