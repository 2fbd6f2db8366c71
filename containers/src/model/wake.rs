//! Who is woken for a call, and when.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Instant};

use super::State;
use crate::replica::Replica;

/// Replicas that are to look at the queue. Woken after its lock is given back.
pub(super) enum Woken {
    Nobody,
    One(Arc<Replica>),
    Several(Vec<Arc<Replica>>),
}

impl Woken {
    /// After the tasks that are ready on this thread: calls that they make are in the same batch, and
    /// the replica does not take the processor from them.
    pub(super) fn wake_behind(self) {
        if matches!(self, Self::Nobody) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.wake() };
        // Where the runtime ends before that, the next tick wakes.
        runtime.spawn(async move {
            let mut behind = false;
            // Not `yield_now`, which waits until the thread has nothing to do at all.
            poll_fn(|cx| {
                if std::mem::replace(&mut behind, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            self.wake();
        });
    }

    pub(super) fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::One(replica) => replica.wake(),
            Self::Several(replicas) => replicas.iter().for_each(|replica| replica.wake()),
        }
    }
}

impl State {
    /// Of those that idle the one that would finish a call first; of those that wait for more or
    /// other calls all.
    pub(super) fn whom_to_wake(&mut self, now: Instant) -> Woken {
        if self.sleepers.iter().any(|sleeper| sleeper.choosy) {
            let all = self.sleepers.drain(..).map(|sleeper| sleeper.replica);
            return Woken::Several(all.collect());
        }
        let one = match self.sleepers.len() {
            0 => return Woken::Nobody,
            1 => 0,
            _ => {
                let live = self.sleepers.iter().enumerate().filter(|(_, s)| s.replica.is_live());
                let first = live.min_by_key(|(_, sleeper)| sleeper.replica.finish(1, now));
                first.map_or(0, |(at, _)| at)
            }
        };
        Woken::One(self.sleepers.swap_remove(one).replica)
    }
}
