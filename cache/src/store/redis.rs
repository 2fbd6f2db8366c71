//! Answers in a Redis that front ends share.
//!
//! A look-up waits for a few milliseconds at most. A Redis that is slow, full, lost, restarted or
//! not to be reached at all is a miss, and after some of those it is not asked until it is well
//! again. Nothing here fails, and nothing waits for a write. docs/adr/0007-shared-cache.md says
//! how front ends agree on what is dead.
//!
//! # Layout
//!
//! - `value`: what stands under a key
//! - `drops`: names of keys, and epochs, by which a drop holds for all front ends
//! - `batch`: look-ups and writes, gathered into pipelines
//! - `circuit`: whether it is asked
//! - `keeper`: connects, hears of drops, closes the circuit, sweeps
//! - `shared`: what all of these share
//! - [`addresses`], [`link`]: where Redis is, and connections to it; for whoever else uses a Redis, too

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use skysail_proto::{ModelId, Tensor};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

pub use self::addresses::{RedisAddressError, RedisAddresses};
use self::{
    batch::{Failed, Fetched, Get, Write},
    link::PATIENCE,
    shared::{OnDrop, Shared, wall_ms},
};
use crate::{CacheKey, Kept, RedisStats};

pub mod addresses;
mod batch;
mod circuit;
mod drops;
mod keeper;
pub mod link;
mod shared;
mod value;

/// Look-ups that may wait for the next pipeline. Beyond it there is no hope of an answer in time.
const GET_QUEUE: usize = 4_096;

/// Writes that may wait.
const WRITE_QUEUE: usize = 4_096;

/// Bytes of answers that may wait to be written.
const WRITE_QUEUE_BYTES: usize = 32 << 20;

/// Redis refuses times to live that it cannot add to its clock.
const LONGEST_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Bytes of the largest answer that is written. Longer ones would seldom be read within the budget,
/// and would keep the look-ups behind them from it.
const LARGEST_BYTES: usize = 1 << 20;

/// Models whose dead answers may wait for a sweep.
const SWEEP_QUEUE: usize = 64;

/// How a shared Redis is used.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Where it is.
    pub addresses: RedisAddresses,
    /// How long Redis keeps an answer, at most. An application whose `max_age` is longer finds
    /// answers up to this age. Default 1 h. Raising it costs Redis memory.
    pub ttl: Duration,
    /// How long a look-up may wait before it is a miss. Default 3 ms; the query's model runs that
    /// much later when Redis is slow.
    pub budget: Duration,
}

impl RedisOptions {
    /// The default of `ttl`.
    pub const TTL: Duration = Duration::from_secs(3600);
    /// The default of `budget`.
    pub const BUDGET: Duration = Duration::from_millis(3);

    /// That Redis, with defaults.
    pub fn new(addresses: RedisAddresses) -> Self {
        Self { addresses, ttl: Self::TTL, budget: Self::BUDGET }
    }
}

/// A shared Redis, used if it can be. Cloning it shares it; the last clone ends its tasks.
#[derive(Clone)]
pub struct RedisTier {
    shared: Arc<Shared>,
    gets: mpsc::Sender<Get>,
    writes: mpsc::Sender<Write>,
    /// Its tasks are aborted when it is dropped.
    _tasks: Arc<JoinSet<()>>,
}

impl RedisTier {
    /// Begins to connect. Whether that succeeds is nobody's matter but the counters'.
    ///
    /// `on_drop` is called before a drop of a model that another front end made holds here.
    ///
    /// # Errors
    ///
    /// The addresses do not go together.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn start(
        options: &RedisOptions,
        on_drop: impl Fn(&ModelId) + Send + Sync + 'static,
    ) -> Result<Self, RedisAddressError> {
        let target = options.addresses.target(PATIENCE)?;
        let on_drop: OnDrop = Box::new(on_drop);
        let shared = Arc::new(Shared::new(target, options, on_drop));
        let (gets, get_queue) = mpsc::channel(GET_QUEUE);
        let (writes, write_queue) = mpsc::channel(WRITE_QUEUE);
        let (sweeps, sweep_queue) = mpsc::channel(SWEEP_QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(batch::read(Arc::clone(&shared), get_queue));
        tasks.spawn(batch::write(Arc::clone(&shared), write_queue));
        tasks.spawn(keeper::keep(Arc::clone(&shared), sweeps));
        tasks.spawn(keeper::sweep(Arc::clone(&shared), sweep_queue));
        tasks.spawn(keeper::inform(Arc::clone(&shared)));
        Ok(Self { shared, gets, writes, _tasks: Arc::new(tasks) })
    }

    /// Whether it is not asked now; counts the look-up that this is about.
    pub fn skips(&self) -> bool {
        let open = !self.shared.circuit.is_closed();
        self.shared.counters.skipped.add(u64::from(open));
        open
    }

    /// The answer kept for `key` of `model`, if it is at most `max_age` old and comes within the
    /// budget.
    pub async fn get(&self, key: &CacheKey, model: &ModelId, max_age: Duration) -> Option<Kept> {
        let counters = &self.shared.counters;
        let (tag, epoch) = self.shared.drops.epoch(model);
        let name = drops::entry_name(&tag, epoch, key);
        let value = match timeout(self.shared.budget, self.fetch(name.clone())).await {
            Ok(Ok(Some(value))) => value,
            Ok(Ok(None)) => {
                counters.misses.add(1);
                return None;
            }
            Ok(Err(Failed::Refused)) => {
                counters.errors.add(1);
                return None;
            }
            Ok(Err(Failed::TimedOut)) | Err(_) => {
                counters.timeouts.add(1);
                return None;
            }
        };
        let Some((outputs, computed_ms)) = value::decode(&name, value) else {
            counters.corrupt.add(1);
            let _ = self.writes.try_send(Write::Delete { name });
            return None;
        };
        // The clock of whoever wrote it may be ahead of ours: then it is new, not in the future.
        let age = Duration::from_millis(wall_ms().saturating_sub(computed_ms));
        let at = now().checked_sub(age).filter(|_| age <= max_age);
        // Dropped while it was on its way?
        let Some(at) = at.filter(|_| self.shared.drops.epoch_of(&tag) == epoch) else {
            counters.misses.add(1);
            return None;
        };
        counters.hits.add(1);
        Some(Kept { outputs, at })
    }

    async fn fetch(&self, name: Vec<u8>) -> Fetched {
        if self.shared.link().is_some_and(|link| link.reads.is_cluster()) {
            // By itself: it waits for its own node, and not for the slowest of a batch.
            let values = batch::fetch(&self.shared, vec![batch::get_command(&name)]).await?;
            return values.into_iter().next().unwrap_or(Ok(None)).map_err(|_| Failed::Refused);
        }
        let (answer, answered) = oneshot::channel();
        self.gets.try_send(Get { name, answer }).map_err(|_| Failed::TimedOut)?;
        answered.await.unwrap_or(Err(Failed::Refused))
    }

    /// Where an answer of `model` is to be written. To be taken before it is known that the answer
    /// may be kept: a drop in between makes it one that nobody reads.
    pub fn slot(&self, key: &CacheKey, model: &ModelId) -> RedisSlot {
        let (tag, epoch) = self.shared.drops.epoch(model);
        RedisSlot(drops::entry_name(&tag, epoch, key))
    }

    /// Keeps an answer of up to 1 MiB, later. Where there is no place to wait, or nobody to write
    /// to, it is lost and counted.
    pub fn put(&self, slot: RedisSlot, outputs: Arc<[Tensor]>) {
        let bytes: usize = outputs.iter().map(|tensor| tensor.data().len()).sum();
        let queued = &self.shared.queued_bytes;
        let waiting = queued.fetch_add(bytes, Ordering::Relaxed);
        let write = Write::Keep { name: slot.0, outputs, computed_ms: wall_ms(), bytes };
        let has_room = bytes <= LARGEST_BYTES && waiting + bytes <= WRITE_QUEUE_BYTES;
        let takes = has_room && self.shared.circuit.is_closed();
        if !takes || self.writes.try_send(write).is_err() {
            queued.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.counters.writes_dropped.add(1);
        }
    }

    /// Makes the answers of a model unreadable: here at once, elsewhere within a second of Redis'
    /// being told. Their memory is given back in the background. To be called after the caller has
    /// seen to it that it writes nothing any more that was computed before.
    pub fn drop_model(&self, model: &ModelId) {
        self.shared.drops.drop_model(model, wall_ms());
        self.shared.wake.notify_one();
    }

    /// What is counted, now.
    pub fn stats(&self) -> RedisStats {
        let counters = &self.shared.counters;
        RedisStats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            timeouts: counters.timeouts.get(),
            errors: counters.errors.get(),
            skipped: counters.skipped.get(),
            corrupt: counters.corrupt.get(),
            writes: counters.writes.get(),
            writes_dropped: counters.writes_dropped.get(),
            write_errors: counters.write_errors.get(),
            circuit_open: !self.shared.circuit.is_closed(),
            circuit_opened: self.shared.circuit.opened.get(),
            evictions: counters.evictions.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
        }
    }
}

/// The name of an answer to be written.
#[derive(Debug)]
pub struct RedisSlot(Vec<u8>);

impl fmt::Debug for RedisTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTier")
            .field("addresses", &self.shared.shown)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// Tokio's clock, as the layer has it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
