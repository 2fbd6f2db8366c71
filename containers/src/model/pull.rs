//! How a free replica gets its next batch.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{Model, Reply, Sleeper, State};
use crate::{
    observer::{BatchTrace, Release},
    queue::{Entry, Formed, Past, Room, hold_until},
    replica::{ContainerState, Replica},
};

/// A batch on its way to a container.
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry<Reply>>,
    pub(crate) rows: usize,
    pub(crate) limit: usize,
    pub(crate) limited: bool,
    pub(crate) release: Release,
    /// Where a query in it is sampled.
    pub(crate) trace: Option<Box<BatchTrace>>,
}

/// What a replica does next.
pub(crate) enum Next {
    /// It computes this.
    Batch(Batch),
    /// It waits until it is woken, or until then.
    Wait(Option<Instant>),
    /// All is done and no more will come.
    Closed,
}

/// How long a replica waits that leaves calls to a faster one, which may yet be lost.
const LEFT_TO_OTHERS: Duration = Duration::from_millis(20);

enum Hold {
    Wait(Instant),
    Release(Release),
}

impl Model {
    /// What a replica that has room does next. Where it waits, it has been noted who is to be
    /// woken.
    pub(crate) fn next(&self, replica: &Arc<Replica>) -> Next {
        let mut state = self.state.lock();
        state.sleepers.retain(|sleeper| sleeper.replica.serial != replica.serial);
        loop {
            let draining = replica.state() == ContainerState::Draining;
            // What is left is for the others, if there are any.
            let done = state.closed.is_some() || draining;
            if state.queue.is_empty() || (draining && self.has_other(replica.serial)) {
                return if done { Next::Closed } else { sleep(&mut state, replica, false, None) };
            }
            let now = Instant::now();
            let limit = replica.limit();
            let mut release = Release::Idle;
            if !done && !self.config.batch_wait.is_zero() {
                match self.hold(&state, replica, limit, now) {
                    Hold::Wait(until) => return sleep(&mut state, replica, true, Some(until)),
                    Hold::Release(why) => release = why,
                }
            }
            let formed = self.form(&mut state, replica, limit, now);
            let nothing = formed.entries.is_empty();
            if nothing && formed.dropped.is_empty() {
                let until = Some(now + LEFT_TO_OTHERS);
                return sleep(&mut state, replica, true, until);
            }
            let Formed { mut entries, rows, limited, dropped } = formed;
            if !dropped.is_empty() {
                MutexGuard::unlocked(&mut state, || self.answer_dropped(dropped));
            }
            if nothing {
                continue;
            }
            if limited {
                release = Release::Full;
            }
            for entry in &mut entries {
                entry.past.dispatches = entry.past.dispatches.saturating_add(1);
            }
            return Next::Batch(Batch { entries, rows, limit, limited, release, trace: None });
        }
    }

    fn hold(&self, state: &State, replica: &Replica, limit: usize, now: Instant) -> Hold {
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
        Hold::Wait(until)
    }

    fn form(
        &self,
        state: &mut State,
        replica: &Replica,
        limit: usize,
        now: Instant,
    ) -> Formed<Reply> {
        let replicas = self.replicas.load();
        let others = || replicas.iter().filter(|r| r.serial != replica.serial && r.is_live());
        // A margin gives up some that would have been in time, so that those behind them are. Where
        // nobody is behind, that would be for nothing.
        let behind = state.queue.rows() > limit;
        let end = |replica: &Replica, rows| {
            if behind { replica.finish(rows, now) } else { replica.expected_finish(rows, now) }
        };
        let finish = |rows| end(replica, rows);
        let fastest = |rows| others().map(|r| end(r, rows)).fold(finish(rows), Instant::min);
        let alone = others().next().is_none();
        let accepts = |past: &Past| alone || past.failed_on != Some(replica.serial);
        let formed = state.queue.form(&Room {
            now,
            limit,
            max_bytes: self.config.max_batch_bytes,
            finish: &finish,
            fastest: &fastest,
            accepts: &accepts,
        });
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        formed
    }
}

fn sleep(state: &mut State, replica: &Arc<Replica>, choosy: bool, until: Option<Instant>) -> Next {
    state.sleepers.push(Sleeper { replica: Arc::clone(replica), choosy });
    Next::Wait(until)
}
