//! Queries that were sent to a container and come back without an answer: they are passed on, as
//! long as somebody waits and another replica, or the same one in another batch, may answer them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use skysail_proto::PredictError;

use super::{Model, Reply};
use crate::{
    error::ContainerError,
    observer::DropReason,
    queue::Entry,
    replica::{ContainerState, Replica, Why, failure},
};

/// See [`Model::tick`].
pub(super) const OVERDUE: Why<'static> = Why::Overdue;

/// A query is sent to at most so many containers: one that kills them must not kill all.
const DISPATCHES: u8 = 3;

impl Model {
    /// Passes `entries`, which `replica` had, on; answers those for which nothing is left to try.
    pub(crate) fn give_back(&self, replica: &Replica, entries: Vec<Entry<Reply>>, why: Why<'_>) {
        let now = Instant::now();
        let other = self.has_other(replica.serial);
        let here = replica.is_live();
        let (mut again, mut dead, mut refused, mut lost) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for mut entry in entries {
            if let Some(reason) = entry.dead(now) {
                dead.push((entry, reason));
                continue;
            }
            let past = &mut entry.past;
            let retry = past.dispatches < DISPATCHES
                && match why {
                    // Alone it broke a container; it is not let near another.
                    Why::Failed { error: ContainerError::Panicked(_), queries: 1 } => false,
                    Why::Failed { error: ContainerError::Panicked(_), .. } => {
                        past.alone = true;
                        other
                    }
                    Why::Failed { .. } if other && past.failed_on.is_none() => {
                        past.failed_on = Some(replica.serial);
                        true
                    }
                    // One query may have spoilt the batch for all.
                    Why::Failed { queries, .. } if queries > 1 => {
                        past.alone = true;
                        here || other
                    }
                    Why::Failed { .. } => false,
                    Why::Lost(_) | Why::Overdue => other,
                };
            if retry {
                again.push(entry);
                continue;
            }
            let error = match why {
                Why::Failed { error, .. } => failure(self, error),
                Why::Lost(reason) => {
                    lost += 1;
                    PredictError::ReplicaLost { model: self.version.id.clone(), why: reason.into() }
                }
                Why::Overdue => {
                    lost += 1;
                    PredictError::ReplicaLost {
                        model: self.version.id.clone(),
                        why: "it takes too long".into(),
                    }
                }
            };
            refused.push((entry, error));
        }
        if lost > 0 {
            self.observer.dropped(&self.version.id, DropReason::ReplicaLost, lost);
        }
        self.answer_dropped(dead);
        for (entry, error) in refused {
            // Whoever asked may have gone.
            entry.payload.send(Err(error));
        }
        if again.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for entry in again {
            // They have been let in before, so the bounds do not matter.
            state.queue.push(entry);
        }
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        drop(state);
        self.wake_all();
    }

    /// Called when a replica is lost. After the last one nothing waits any longer.
    pub(crate) fn replica_lost(&self) {
        let replicas = self.replicas();
        let hopeful = |replica: &Arc<Replica>| {
            // A stalled one may come back any moment; what waits has deadlines.
            !matches!(replica.state(), ContainerState::Broken)
        };
        if replicas.iter().any(hopeful) {
            // What was left to the lost one is looked at again.
            self.wake_all();
            return;
        }
        let why = self.refusal().unwrap_or_else(|| "it was lost".into());
        let mut state = self.state.lock();
        let left = state.queue.drain();
        self.queue_rows.store(0, Ordering::Relaxed);
        drop(state);
        if !left.is_empty() {
            let count = left.len() as u64;
            self.observer.dropped(&self.version.id, DropReason::ReplicaLost, count);
        }
        for entry in left {
            entry.payload.send(Err(self.unavailable(Arc::clone(&why))));
        }
    }
}
