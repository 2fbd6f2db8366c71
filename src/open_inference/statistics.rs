//! What is counted of an application for `ModelStatistics`. Atomics alone, since every query pays.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use skysail_proto::pb::inference::{InferStatistics, ModelStatistics, StatisticDuration};
use skysail_selection::{Outcome, Prediction};

use super::VERSION;

/// One application's counts, since it was put.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Milliseconds since the epoch.
    last: AtomicU64,
    /// Rows that some arm computed.
    rows: AtomicU64,
    success: Sum,
    fail: Sum,
    queue: Sum,
    compute: Sum,
    hit: Sum,
    miss: AtomicU64,
}

#[derive(Debug, Default)]
struct Sum {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Sum {
    fn add(&self, took: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(nanoseconds(took), Ordering::Relaxed);
    }

    fn wire(&self) -> StatisticDuration {
        let get = |of: &AtomicU64| of.load(Ordering::Relaxed);
        StatisticDuration { count: get(&self.count), ns: get(&self.ns) }
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

impl Statistics {
    /// Counts an answer, a default one as well; `kept` says whether the application's answers are
    /// kept in the cache.
    pub(crate) fn answered(&self, prediction: &Prediction, took: Duration, kept: bool) {
        self.came();
        self.success.add(took);
        let mut used = false;
        let mut slowest = None;
        for arm in prediction.contributions.iter().filter(|arm| arm.outcome == Outcome::Used) {
            used = true;
            if !arm.cached {
                slowest = slowest.max(Some((arm.queue + arm.compute, arm.queue, arm.compute)));
            }
        }
        // Arms run beside each other: the query waited for the slowest of them.
        if let Some((_, queue, compute)) = slowest {
            self.rows.fetch_add(prediction.row_status.len() as u64, Ordering::Relaxed);
            self.queue.add(queue);
            self.compute.add(compute);
            if kept {
                self.miss.fetch_add(1, Ordering::Relaxed);
            }
        } else if used {
            self.hit.add(took);
        }
    }

    /// Counts a query that was refused, failed or cancelled.
    pub(crate) fn failed(&self, took: Duration) {
        self.came();
        self.fail.add(took);
    }

    fn came(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// As the protocol shows them, under the application's `name`.
    pub(super) fn wire(&self, name: &str) -> ModelStatistics {
        let get = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let compute = self.compute.wire();
        // Tensors go to the models and come back as they are: nothing is prepared, and no time is
        // taken for it.
        let nothing = Some(StatisticDuration { count: compute.count, ns: 0 });
        ModelStatistics {
            name: name.to_owned(),
            version: VERSION.into(),
            last_inference: get(&self.last),
            inference_count: get(&self.rows),
            execution_count: compute.count,
            inference_stats: Some(InferStatistics {
                success: Some(self.success.wire()),
                fail: Some(self.fail.wire()),
                queue: Some(self.queue.wire()),
                compute_input: nothing,
                compute_infer: Some(compute),
                compute_output: nothing,
                cache_hit: Some(self.hit.wire()),
                cache_miss: Some(StatisticDuration { count: get(&self.miss), ns: 0 }),
            }),
        }
    }
}
