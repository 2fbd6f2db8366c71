//! How a free replica gets its next batch.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{Model, Reply, State};
use crate::{
    observer::Release,
    queue::{Entry, Formed, Room, hold_until},
    replica::Replica,
};

/// A batch on its way to a container.
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry<Reply>>,
    pub(crate) rows: usize,
    pub(crate) limit: usize,
    pub(crate) limited: bool,
    pub(crate) release: Release,
}

enum Hold {
    Wait,
    Release(Release),
}

impl Model {
    /// What the next batch of replica `index` is, as soon as there is one; `None` when all is done
    /// and no more will come.
    pub(crate) fn next_batch(&self, index: usize) -> Option<Batch> {
        let replica = self.replicas.get(index)?;
        let mut state = self.state.lock();
        loop {
            if state.queue.is_empty() {
                if state.closed.is_some() {
                    return None;
                }
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
                continue;
            }
            let now = Instant::now();
            let limit = replica.limit();
            let mut release = Release::Idle;
            if state.closed.is_none() && !self.config.batch_wait.is_zero() {
                match self.hold(&mut state, replica, limit, now) {
                    Hold::Wait => continue,
                    Hold::Release(why) => release = why,
                }
            }
            let formed = self.form(&mut state, index, limit, now);
            let nothing = formed.entries.is_empty();
            if nothing && formed.dropped.is_empty() {
                // All that waits is left to a faster replica, which may yet be lost.
                state.choosy += 1;
                self.wake.wait_for(&mut state, Duration::from_millis(20));
                state.choosy -= 1;
                continue;
            }
            let Formed { entries, rows, limited, dropped } = formed;
            if !dropped.is_empty() {
                MutexGuard::unlocked(&mut state, || self.answer_dropped(dropped));
            }
            if nothing {
                continue;
            }
            if limited {
                release = Release::Full;
            }
            return Some(Batch { entries, rows, limit, limited, release });
        }
    }

    fn hold(
        &self,
        state: &mut MutexGuard<'_, State>,
        replica: &Replica,
        limit: usize,
        now: Instant,
    ) -> Hold {
        // Whether it is full in the end is for `form` to say.
        let rows = state.queue.head_rows();
        let Some(head) = state.queue.head().filter(|_| rows < limit) else {
            return Hold::Release(Release::Idle);
        };
        // One that came when the replica was free already is not kept waiting for company.
        if head.1 >= replica.free_since() {
            return Hold::Release(Release::Idle);
        }
        let service = replica.predict(limit, now);
        let (until, for_deadline) = hold_until(head, self.config.batch_wait, service);
        if until <= now {
            return Hold::Release(if for_deadline { Release::Deadline } else { Release::Timer });
        }
        state.choosy += 1;
        self.wake.wait_until(state, until);
        state.choosy -= 1;
        Hold::Wait
    }

    fn form(&self, state: &mut State, index: usize, limit: usize, now: Instant) -> Formed<Reply> {
        let finish = |rows| match self.replicas.get(index) {
            Some(replica) => now + replica.predict(rows, now),
            None => now,
        };
        let fastest = |rows| {
            let live = self.replicas.iter().enumerate();
            let others = live.filter_map(|(at, replica)| {
                (at != index).then(|| replica.finish(rows, now)).flatten()
            });
            others.fold(finish(rows), Instant::min)
        };
        let formed = state.queue.form(&Room {
            now,
            limit,
            max_bytes: self.config.max_batch_bytes,
            finish: &finish,
            fastest: &fastest,
        });
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        formed
    }
}
