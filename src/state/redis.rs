//! Selection state in a Redis that front ends share.
//!
//! The promises are those of the embedded store: state and marks change together, by a script, and
//! what Redis has acknowledged is as durable as Redis itself is. docs/adr/0008-shared-state.md says
//! what that is, and why things are named and trimmed as they are.
//!
//! No prediction waits for any of this. Feedback does, for a few seconds at most.
//!
//! # Layout
//!
//! - `link`: one connection, made again when it is lost; refuses a server that may evict
//! - `keys`: how things are named
//! - [`store`]: [`RedisStore`], and with it the scripts
//! - [`records`]: decision records, written behind the answer for other front ends
//! - [`log`]: [`SharedLog`], the file and those records as one decision log
//! - [`changes`]: what other front ends say that they have committed

pub mod changes;
mod keys;
mod link;
pub mod log;
pub mod records;
pub mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use skysail_cache::RedisAddresses;

use self::{changes::Changes, link::Link};
pub use self::{log::SharedLog, records::Records, store::RedisStore};
use crate::record::DecisionLogFile;

/// How long Redis may take to answer before feedback is refused. Above the longest fsync of a
/// healthy disk; raising it keeps feedback waiting for a Redis that is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a start waits for a Redis that is not there yet.
const START: Duration = Duration::from_secs(10);

/// The state cannot be kept in that Redis.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStateError {
    /// It is not there, or refuses.
    #[error(
        "cannot reach the Redis at {redis} for selection state: {why}; start it, or correct \
         --redis-state"
    )]
    Unreachable {
        /// Where.
        redis: Arc<str>,
        /// Why.
        why: Arc<str>,
    },
    /// It may give up keys for room.
    #[error(
        "the Redis at {redis} may evict selection state: {node} has maxmemory-policy {policy} and \
         maxmemory {maxmemory}; expected noeviction, or no maxmemory: set one of them, or give \
         --redis-state a Redis of its own (a cache may be evicted, state may not)"
    )]
    Evicts {
        /// Where.
        redis: Arc<str>,
        /// Which of its servers.
        node: Arc<str>,
        /// Its policy.
        policy: Arc<str>,
        /// In bytes.
        maxmemory: u64,
    },
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    conflicts: AtomicU64,
    errors: AtomicU64,
    connects: AtomicU64,
    records: AtomicU64,
    records_lost: AtomicU64,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisStateStats {
    /// Commits that were acknowledged.
    pub commits: u64,
    /// Commits before which somebody else was first.
    pub conflicts: u64,
    /// Calls that failed: refused, cut off, or not answered in time.
    pub errors: u64,
    /// Connections made.
    pub connects: u64,
    /// There is a connection now.
    pub connected: bool,
    /// Decision records written.
    pub records: u64,
    /// Decision records that wait to be written now.
    pub records_waiting: u64,
    /// Decision records that could not be read back or encoded.
    pub records_lost: u64,
}

/// A Redis that holds selection state. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct RedisState {
    link: Arc<Link>,
    addresses: RedisAddresses,
    records: Records,
}

impl RedisState {
    /// Connects, and makes sure that nothing will be evicted. `file` is where records that had to
    /// wait long are read back from; `instance` stands in the ids of this front end's decisions.
    ///
    /// # Errors
    ///
    /// It cannot be reached within 10 s; it may evict.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn open(
        addresses: RedisAddresses,
        file: Arc<DecisionLogFile>,
        instance: [u8; 3],
    ) -> Result<Self, RedisStateError> {
        let link = Arc::new(Link::new(&addresses, PATIENCE)?);
        link.open(START).await?;
        let records = Records::start(Arc::clone(&link), file, instance);
        Ok(Self { link, addresses, records })
    }

    /// Selection state, of applications that give default rewards or of those that don't.
    pub fn store(&self, has_defaults: bool) -> RedisStore {
        RedisStore::new(Arc::clone(&self.link), has_defaults)
    }

    /// Decision records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// What front ends commit from now on. Not all of it, where connections are lost.
    pub fn changes(&self) -> Changes {
        Changes::new(self.addresses.clone(), PATIENCE)
    }

    /// What is counted, now.
    pub fn stats(&self) -> RedisStateStats {
        let counters = self.link.counters();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RedisStateStats {
            commits: get(&counters.commits),
            conflicts: get(&counters.conflicts),
            errors: get(&counters.errors),
            connects: get(&counters.connects),
            connected: self.link.is_connected(),
            records: get(&counters.records),
            records_waiting: self.records.waiting(),
            records_lost: get(&counters.records_lost),
        }
    }
}
