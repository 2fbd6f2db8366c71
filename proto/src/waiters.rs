//! What a queue may know of those who wait for a call.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Those who wait for one call: how many are left, and their earliest and latest deadline.
///
/// The cache's flight and the queue share one of these. The flight adds a waiter for each caller
/// that joins; the queue reads it when it forms a batch: a call with no waiter left leaves the
/// queue, one whose latest deadline has passed is dropped, and order is by the earliest deadline.
/// A joiner with an earlier deadline tells the queue through [`Requeue`].
#[derive(Debug)]
pub struct Waiters {
    origin: Instant,
    count: AtomicUsize,
    /// Nanoseconds since `origin`.
    earliest: AtomicU64,
    latest: AtomicU64,
    queue: OnceLock<Hook>,
}

/// A queue that moves a call up when somebody with an earlier deadline joins it.
pub trait Requeue: Send + Sync {
    /// The call that was queued under `ticket` is now due at `earliest`.
    fn requeue(&self, ticket: u64, earliest: Instant);
}

struct Hook {
    queue: Weak<dyn Requeue>,
    ticket: u64,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// One who waits. Dropping it tells that the caller has gone.
#[derive(Debug)]
pub struct Waiter {
    waiters: Arc<Waiters>,
}

impl Waiters {
    /// A call with one waiter, who is due at `deadline`.
    pub fn new(deadline: Instant) -> (Arc<Self>, Waiter) {
        let waiters = Arc::new(Self {
            origin: deadline,
            count: AtomicUsize::new(1),
            earliest: AtomicU64::new(OFFSET),
            latest: AtomicU64::new(OFFSET),
            queue: OnceLock::new(),
        });
        (Arc::clone(&waiters), Waiter { waiters })
    }

    /// Adds a waiter; moves the call up in its queue where the new deadline is the earliest.
    pub fn join(self: &Arc<Self>, deadline: Instant) -> Waiter {
        self.count.fetch_add(1, Ordering::AcqRel);
        let nanos = self.encode(deadline);
        self.latest.fetch_max(nanos, Ordering::AcqRel);
        if self.earliest.fetch_min(nanos, Ordering::AcqRel) > nanos
            && let Some(hook) = self.queue.get()
            && let Some(queue) = hook.queue.upgrade()
        {
            queue.requeue(hook.ticket, deadline);
        }
        Waiter { waiters: Arc::clone(self) }
    }

    /// How many are left.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// True when nobody waits any more.
    pub fn is_abandoned(&self) -> bool {
        self.count() == 0
    }

    /// The earliest deadline of all that ever joined: the call is queued by it.
    pub fn earliest(&self) -> Instant {
        self.decode(self.earliest.load(Ordering::Acquire))
    }

    /// The latest deadline of all that ever joined: the call is given up only after it.
    pub fn latest(&self) -> Instant {
        self.decode(self.latest.load(Ordering::Acquire))
    }

    /// Called once by the queue that holds the call. The caller should look at
    /// [`Waiters::earliest`] once more afterwards: a joiner may have come in between.
    pub fn queued_in(&self, queue: Weak<dyn Requeue>, ticket: u64) {
        // A call that is queued a second time (its replica was lost) keeps its first hook; the
        // queue of a model version is one and the same, and so is the ticket.
        let _ = self.queue.set(Hook { queue, ticket });
    }

    fn encode(&self, deadline: Instant) -> u64 {
        let nanos = if deadline >= self.origin {
            i128::try_from((deadline - self.origin).as_nanos()).unwrap_or(i128::MAX)
        } else {
            -i128::try_from((self.origin - deadline).as_nanos()).unwrap_or(i128::MAX)
        };
        u64::try_from(nanos.saturating_add(i128::from(OFFSET)).clamp(0, i128::from(u64::MAX)))
            .unwrap_or(u64::MAX)
    }

    fn decode(&self, encoded: u64) -> Instant {
        if encoded >= OFFSET {
            self.origin + Duration::from_nanos(encoded - OFFSET)
        } else {
            self.origin.checked_sub(Duration::from_nanos(OFFSET - encoded)).unwrap_or(self.origin)
        }
    }
}

/// The first deadline is encoded as this, so that earlier ones stay above zero.
const OFFSET: u64 = 1 << 62;

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_and_latest_follow_the_joiners() {
        let now = Instant::now() + Duration::from_secs(60);
        let (waiters, first) = Waiters::new(now);
        let second = waiters.join(now - Duration::from_millis(5));
        let third = waiters.join(now + Duration::from_millis(7));
        assert_eq!(waiters.earliest(), now - Duration::from_millis(5));
        assert_eq!(waiters.latest(), now + Duration::from_millis(7));
        drop((first, second));
        assert_eq!(waiters.count(), 1);
        drop(third);
        assert!(waiters.is_abandoned());
    }
}
