//! What the tier and its tasks share.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
use redis::RedisError;
use skysail_proto::ModelId;
use tokio::sync::Notify;

use super::{
    LONGEST_TTL, RedisOptions,
    circuit::Circuit,
    drops::Drops,
    link::{Link, RedisTarget},
};
use crate::stats::Counter;

/// Called before a drop that another front end made holds here.
pub(super) type OnDrop = Box<dyn Fn(&ModelId) + Send + Sync>;

pub(super) struct Shared {
    pub(super) target: RedisTarget,
    /// How a person knows it.
    pub(super) shown: String,
    pub(super) budget: Duration,
    pub(super) ttl_ms: u64,
    pub(super) circuit: Circuit,
    pub(super) counters: Counters,
    link: RwLock<Option<Link>>,
    pub(super) drops: Drops,
    /// Wakes the keeper before its time.
    pub(super) wake: Notify,
    /// Bytes of answers that wait to be written.
    pub(super) queued_bytes: AtomicUsize,
    pub(super) on_drop: OnDrop,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) timeouts: Counter,
    pub(super) errors: Counter,
    pub(super) skipped: Counter,
    pub(super) corrupt: Counter,
    pub(super) writes: Counter,
    pub(super) writes_dropped: Counter,
    pub(super) write_errors: Counter,
    /// What Redis said last of itself: keys given up for room, and memory.
    pub(super) evictions: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Shared {
    pub(super) fn new(target: RedisTarget, options: &RedisOptions, on_drop: OnDrop) -> Self {
        Self {
            target,
            shown: options.addresses.to_string(),
            budget: options.budget,
            ttl_ms: u64::try_from(options.ttl.min(LONGEST_TTL).as_millis()).unwrap_or(1).max(1),
            circuit: Circuit::new(),
            counters: Counters::default(),
            link: RwLock::new(None),
            drops: Drops::default(),
            wake: Notify::new(),
            queued_bytes: AtomicUsize::new(0),
            on_drop,
        }
    }

    pub(super) fn link(&self) -> Option<Link> {
        self.link.read().clone()
    }

    pub(super) fn set_link(&self, link: Link) {
        *self.link.write() = Some(link);
    }

    /// Redis answered, but not with what was asked for; or the connection is gone.
    pub(super) fn refused(&self, link: u64, error: &RedisError) {
        if !self.lost_if_broken(link, error) && self.circuit.failure() {
            self.say_open(&error.to_string());
        }
    }

    /// Redis did not answer within the budget.
    pub(super) fn late(&self) {
        if self.circuit.failure() {
            self.say_open("it does not answer within its time budget");
        }
    }

    /// Where an error tells that a connection is of no more use: gives the link up. A cluster's
    /// link mends itself.
    pub(super) fn lost_if_broken(&self, link: u64, error: &RedisError) -> bool {
        let broken = error.is_unrecoverable_error() || error.is_connection_dropped();
        let current = self.link().filter(|current| current.id == link);
        let broken = broken && !current.is_some_and(|current| current.reads.is_cluster());
        if broken {
            self.lost(link, &error.to_string());
            self.wake.notify_one();
        }
        broken
    }

    /// Gives a link up and opens the circuit; nothing if another has taken its place.
    pub(super) fn lost(&self, link: u64, why: &str) {
        {
            let mut current = self.link.write();
            if current.as_ref().is_some_and(|current| current.id != link) {
                return;
            }
            *current = None;
        }
        self.open(why);
    }

    pub(super) fn open(&self, why: &str) {
        if self.circuit.trip() {
            self.say_open(why);
        }
    }

    fn say_open(&self, why: &str) {
        tracing::warn!(
            redis = self.shown,
            why,
            "the shared cache is not used until it answers again; predictions go on without it"
        );
    }
}

/// Milliseconds since 1970.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
