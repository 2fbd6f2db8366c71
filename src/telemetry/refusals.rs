//! A line in the log for refusals, and not one for each.
//!
//! The first refusal of an application for a reason is told at once, with its message and ids; then
//! there is at most one line in ten seconds, which says how many were not told. So an overload fills
//! no disk, and the lines still add up to all refusals.

use std::{
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::REASONS;

/// The reason of all feedback that is refused; its code tells more.
pub const FEEDBACK: &str = "feedback";

/// At most one line per application and reason in that time.
const EVERY: Duration = Duration::from_secs(10);

/// Lets one through in ten seconds, and counts the others.
#[derive(Debug, Default)]
struct Limiter {
    /// When the next may pass, in milliseconds after [`EPOCH`]; 0: at once.
    due: AtomicU64,
    held: AtomicU64,
}

impl Limiter {
    /// `Some`: this one passes, and so many were held back since the last one that did.
    fn pass(&self, now: u64) -> Option<u64> {
        if self.turn(now) {
            return Some(self.held.swap(0, Ordering::Relaxed));
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// `Some`: so many were held back, and it is time to say so.
    fn flush(&self, now: u64) -> Option<u64> {
        let some = self.held.load(Ordering::Relaxed) > 0 && self.turn(now);
        some.then(|| self.held.swap(0, Ordering::Relaxed)).filter(|held| *held > 0)
    }

    fn turn(&self, now: u64) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let next = now + EVERY.as_millis() as u64;
        // Of those who come at once, one passes.
        now >= due
            && self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Tokio's clock, which tests can stop.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now() -> u64 {
    u64::try_from(Instant::now().saturating_duration_since(*EPOCH).as_millis()).unwrap_or(u64::MAX)
}

/// What is said of one refusal.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// As the metric's label says it.
    pub reason: &'static str,
    /// The code's name.
    pub code: &'static str,
    /// What the client was told.
    pub message: &'a str,
    /// The client's id of the request; may be empty.
    pub request_id: &'a str,
    /// Of a sampled query; else empty.
    pub trace_id: &'a str,
}

/// The refusals of one application.
#[derive(Debug)]
pub struct RefusalLog {
    application: Arc<str>,
    /// In the order of [`REASONS`], and one for feedback.
    limiters: [Limiter; REASONS.len() + 1],
}

impl RefusalLog {
    /// Says it, or counts it for a later line.
    pub fn say(&self, refusal: &Refusal<'_>) {
        let Some(held) = self.limiter(refusal.reason).pass(now()) else { return };
        tracing::warn!(
            application = &*self.application,
            reason = refusal.reason,
            code = refusal.code,
            error = refusal.message,
            request_id = refusal.request_id,
            trace_id = refusal.trace_id,
            suppressed = held,
            "refused"
        );
    }

    fn limiter(&self, reason: &str) -> &Limiter {
        let place = REASONS.iter().position(|known| *known == reason);
        &self.limiters[place.unwrap_or(REASONS.len())]
    }

    fn flush(&self, now: u64) {
        for (limiter, reason) in self.limiters.iter().zip(REASONS.into_iter().chain([FEEDBACK])) {
            if let Some(held) = limiter.flush(now) {
                let application = &*self.application;
                tracing::warn!(application, reason, suppressed = held, "refused more");
            }
        }
    }
}

impl Drop for RefusalLog {
    fn drop(&mut self) {
        self.flush(u64::MAX - EVERY.as_millis() as u64);
    }
}

/// Those of all applications. Cloning it shares them.
#[derive(Clone, Debug, Default)]
pub struct RefusalLogs(Arc<Mutex<Vec<Weak<RefusalLog>>>>);

impl RefusalLogs {
    /// The log of one application.
    pub fn application(&self, name: &str) -> Arc<RefusalLog> {
        let log = Arc::new(RefusalLog { application: name.into(), limiters: Default::default() });
        let mut all = self.0.lock();
        all.retain(|log| log.strong_count() > 0);
        all.push(Arc::downgrade(&log));
        log
    }

    /// Says from time to time what was held back, where no further refusal does. Never ends.
    pub async fn run(self) {
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            self.flush(now());
        }
    }

    /// Says all that was held back.
    pub fn close(&self) {
        self.flush(u64::MAX - EVERY.as_millis() as u64);
    }

    fn flush(&self, now: u64) {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for log in all {
            log.flush(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_first_passes_and_then_one_in_ten_seconds() {
        let limiter = Limiter::default();
        assert_eq!(limiter.pass(3), Some(0));
        for at in [3, 4, 5_000, 10_002] {
            assert_eq!(limiter.pass(at), None, "{at}");
        }
        assert_eq!(limiter.pass(10_003), Some(4));
        assert_eq!(limiter.pass(10_004), None);
        assert_eq!(limiter.flush(20_002), None);
        assert_eq!(limiter.flush(20_003), Some(1));
        assert_eq!(limiter.flush(40_000), None, "nothing was held back");
        assert_eq!(limiter.pass(40_000), Some(0));
    }

    #[test]
    fn what_passes_and_what_is_held_back_add_up() {
        let limiter = Limiter::default();
        let told = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (limiter, told) = (&limiter, &told);
                scope.spawn(move || {
                    for at in 0..50_000_u64 {
                        if let Some(held) = limiter.pass(at * 7 + thread) {
                            told.fetch_add(held + 1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let rest = limiter.flush(u64::MAX / 2).unwrap_or_default();
        assert_eq!(told.into_inner() + rest, 200_000);
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_and_applications_are_told_apart() {
        let logs = RefusalLogs::default();
        let (a, b) = (logs.application("a"), logs.application("b"));
        let refusal = |reason| Refusal {
            reason,
            code: "RESOURCE_EXHAUSTED",
            message: "full",
            request_id: "",
            trace_id: "",
        };
        for log in [&a, &b] {
            for reason in ["overloaded", "late", "overloaded"] {
                log.say(&refusal(reason));
            }
            let held = |reason| log.limiter(reason).held.load(Ordering::Relaxed);
            assert_eq!((held("overloaded"), held("late")), (1, 0));
        }
        let task = tokio::spawn(logs.clone().run());
        tokio::time::advance(EVERY * 2).await;
        tokio::time::sleep(EVERY).await;
        assert_eq!(a.limiter("overloaded").held.load(Ordering::Relaxed), 0);
        task.abort();
    }
}
