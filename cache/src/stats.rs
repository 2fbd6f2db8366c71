//! What the cache counts. Counters only rise; the others are levels.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the layer counts; `hits + misses + joins + bypassed` is the calls it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Calls answered from the store.
    pub hits: u64,
    /// Calls that started a flight.
    pub misses: u64,
    /// Calls that joined a flight in progress.
    pub joins: u64,
    /// Calls that went past the cache: their application or model does not want one.
    pub bypassed: u64,
    /// Times a waiter queued once again, since its flight failed for a reason that was not its
    /// own.
    pub again: u64,
    /// Flights in progress now.
    pub in_flight: u64,
    /// What the store counts.
    pub store: StoreStats,
}

/// What a store counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Answers kept now.
    pub entries: u64,
    /// Bytes accounted to them: keys, values and overhead.
    pub bytes: u64,
    /// The bound on `bytes`.
    pub max_bytes: u64,
    /// Answers ever kept.
    pub insertions: u64,
    /// Answers that made room for others.
    pub evictions: u64,
    /// Answers not kept, since one alone would have taken too much of the bound.
    pub oversized: u64,
    /// What the shared Redis behind it counts, where there is one.
    pub redis: Option<RedisStats>,
}

/// What became of the look-ups in a shared Redis, and of the answers written there:
/// `hits + misses + timeouts + errors + skipped + corrupt` is the look-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStats {
    /// Answered, young enough.
    pub hits: u64,
    /// Redis has no such answer, or one that is too old.
    pub misses: u64,
    /// No answer within the budget.
    pub timeouts: u64,
    /// Redis refused, or the connection broke.
    pub errors: u64,
    /// Not asked, since the circuit was open.
    pub skipped: u64,
    /// The value was damaged; it is deleted.
    pub corrupt: u64,
    /// Answers written.
    pub writes: u64,
    /// Answers not written: the circuit was open, too many waited, or it was above 1 MiB.
    pub writes_dropped: u64,
    /// Answers that Redis refused, as a full one does, or that were lost on their way.
    pub write_errors: u64,
    /// Whether Redis is not asked now.
    pub circuit_open: bool,
    /// Times that began.
    pub circuit_opened: u64,
    /// Keys that Redis gave up for room, by its own count.
    pub evictions: u64,
    /// Memory that Redis takes, by its own count, which is a few seconds old.
    pub bytes: u64,
}

/// The layer's own counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) joins: Counter,
    pub(crate) bypassed: Counter,
    pub(crate) again: Counter,
}

/// A counter that tells nothing about other memory, hence relaxed.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
