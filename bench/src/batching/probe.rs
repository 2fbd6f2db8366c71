//! What a server tells of its batches while it is loaded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use skysail_proto::pb::v1::{ListModelsRequest, admin_client::AdminClient};

use crate::{process::metrics, target::connect};

/// Rows and batches so far, from the histogram `skysail_batch_rows`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batches {
    rows: f64,
    batches: f64,
}

impl Batches {
    /// Reads `/metrics`.
    pub(super) fn read(http: &str, model: &str) -> anyhow::Result<Self> {
        let text = metrics(http)?;
        let label = format!("model=\"{model}\"");
        let sum = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(&label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok(Self { rows: sum("skysail_batch_rows_sum{"), batches: sum("skysail_batch_rows_count{") })
    }

    /// Mean rows of the batches since `before`.
    pub(super) fn mean_since(&self, before: &Self) -> f64 {
        (self.rows - before.rows) / (self.batches - before.batches).max(1.0)
    }
}

/// Polls a model's batch limit until it is stopped.
pub(super) struct Limits {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<Vec<(Instant, f64)>>>,
}

const EVERY: Duration = Duration::from_millis(5);

impl Limits {
    pub(super) fn poll(server: &str, model: &str) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, server, model) = (Arc::clone(&stop), server.to_owned(), model.to_owned());
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut client = AdminClient::new(connect(&server).await?);
                let mut seen = Vec::new();
                while !told.load(Ordering::Relaxed) {
                    let models =
                        client.list_models(ListModelsRequest {}).await?.into_inner().models;
                    let at = Instant::now();
                    let own = models.into_iter().find(|one| one.name == model);
                    let containers = own.into_iter().flat_map(|one| one.versions);
                    let limit = containers
                        .flat_map(|version| version.containers)
                        .map(|container| f64::from(container.batch_limit))
                        .next();
                    seen.extend(limit.map(|limit| (at, limit)));
                    tokio::time::sleep(EVERY).await;
                }
                Ok(seen)
            })
        };
        Ok(Self { stop, thread: thread::Builder::new().name("limits".into()).spawn(body)? })
    }

    pub(super) fn stop(self) -> anyhow::Result<Vec<(Instant, f64)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the polling thread panicked"))?
    }
}

/// Seconds from `start` until the limit is at nine tenths of its final median or above, and, but for
/// a tenth of what is seen, is there for the next [`STAYS`]: so neither slow start's last doubling
/// nor a single back-off decides.
pub(super) fn ramp(seen: &[(Instant, f64)], start: Instant) -> Option<f64> {
    let last = seen.last()?.0;
    let settled = start + last.saturating_duration_since(start).mul_f64(2.0 / 3.0);
    let tail: Vec<f64> = seen.iter().filter(|one| one.0 >= settled).map(|one| one.1).collect();
    let enough = crate::report::median(&tail)? * 0.9;
    let stays = |at: Instant| {
        let next = || seen.iter().filter(|one| one.0 >= at && one.0 < at + STAYS);
        let up = next().filter(|one| one.1 >= enough).count();
        up * 10 >= next().count() * 9
    };
    let reached = seen.iter().find(|one| one.0 >= start && one.1 >= enough && stays(one.0));
    reached.map(|one| one.0.saturating_duration_since(start).as_secs_f64())
}

const STAYS: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_ends_when_the_limit_stays_up() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut seen = vec![(at(10), 1.0), (at(20), 128.0)];
        seen.extend((3..13).map(|step| (at(step * 10), 64.0)));
        seen.extend(
            (13..300).map(|step| (at(step * 10), if step % 20 == 9 { 70.0 } else { 89.0 })),
        );
        assert_eq!(ramp(&seen, start), Some(0.13));
        assert_eq!(ramp(&[], start), None);
    }
}
