//! What is looked at several times in a second: overdue batches, and leases.

use std::{
    sync::Weak,
    time::{Duration, Instant},
};

use crate::router::Shared;

/// A batch is seen to be overdue so much later at the most.
const EVERY: Duration = Duration::from_millis(10);

/// Ends when the models are dropped.
pub(crate) async fn run(shared: Weak<Shared>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        for model in shared.models() {
            model.tick(now);
            for replica in model.replicas().iter() {
                if replica.lease().is_some_and(|until| until < now)
                    && replica.drain_until().is_none()
                {
                    tracing::warn!(
                        model = %model.version.id, container = &*replica.id,
                        "removed: there was no heartbeat within its lease"
                    );
                    replica.drain(now, "no heartbeat within its lease");
                    model.replica_lost();
                }
            }
        }
    }
}
