//! Answers in this process's memory.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};
use parking_lot::{RwLock, RwLockWriteGuard};
use quick_cache::{DefaultHashBuilder, Lifecycle, Options, OptionsBuilder, Weighter, sync::Cache};
use skysail_proto::{Digest, ModelId, Tensor};

use crate::{
    CacheKey, Fill, Generation, Kept, Lookup, PredictionCache, StoreStats, stats::Counter,
};

/// A cache bounded by accounted bytes, safe against scans: answers asked for once go before those
/// asked for again (quick_cache's variant of CLOCK-Pro and S3-FIFO).
///
/// The hash tables are seeded at random, so that nobody can choose inputs that collide in them.
pub struct EmbeddedCache {
    entries: Cache<CacheKey, Entry, Weight, DefaultHashBuilder, Collect>,
    /// Which identities have ever been kept, by model. Grows with what is configured (models,
    /// builds, sets of outputs), never with what clients send. Fills hold it for reading, so that
    /// no fill of an older generation comes in after `drop_model` has begun to scan.
    identities: RwLock<HashMap<Digest, ModelId>>,
    generation: AtomicU64,
    max_bytes: u64,
    largest: u64,
    insertions: Counter,
    evictions: Counter,
    oversized: Counter,
}

/// One kept answer. `weight` is kept, since the cache asks for it at every eviction.
#[derive(Clone)]
struct Entry {
    outputs: Arc<[Tensor]>,
    at: Instant,
    weight: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<CacheKey, Entry> for Weight {
    fn weight(&self, _: &CacheKey, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Collects what an insertion pushes out: counted, and freed once the shard's lock is off.
#[derive(Clone)]
struct Collect;

impl Lifecycle<CacheKey, Entry> for Collect {
    type RequestState = Vec<(CacheKey, Entry)>;

    fn on_evict(&self, state: &mut Self::RequestState, key: CacheKey, entry: Entry) {
        state.push((key, entry));
    }
}

/// A block's header and rounding in the allocator.
const BLOCK_BYTES: usize = 16;

/// The table's slot for an entry (key, value, links): 120 bytes, doubled, since the slab grows by
/// doubling; 12 for the index at its lowest load; and the block that holds the outputs with its
/// two reference counts.
const SLOT_BYTES: usize = 2 * 120 + 12 + BLOCK_BYTES + 16;

/// What an answer usually takes; sets how many evicted keys are remembered (half as many as
/// entries fit), which is how an answer asked for again is told from a scan.
const USUAL_ENTRY_BYTES: u64 = 1024;

/// Share of the bound set aside for the remembered keys: 132 bytes for half an entry of 1 KiB.
const GHOST_SHARE: u64 = 15;

/// A shard is not made smaller, since an answer larger than one is not kept.
const SMALLEST_SHARD_BYTES: u64 = 4 << 20;

impl EmbeddedCache {
    /// An empty cache that takes at most `max_bytes`, keys and overhead counted. Zero keeps
    /// nothing; equal calls at the same time still run once.
    ///
    /// An answer larger than a shard is not kept: a shard is the bound divided by up to four times
    /// the number of cores, but at least 4 MiB.
    pub fn new(max_bytes: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = (max_bytes / SMALLEST_SHARD_BYTES).max(1);
        let shards = (cores as u64 * 4).next_power_of_two().min(1 << most.ilog2());
        Self::with_shards(max_bytes, shards)
    }

    fn with_shards(max_bytes: u64, shards: u64) -> Self {
        let usable = max_bytes - max_bytes / GHOST_SHARE;
        let entries = Cache::with_options(
            options(usable / shards * shards, max_bytes / USUAL_ENTRY_BYTES, shards),
            Weight,
            DefaultHashBuilder::default(),
            Collect,
        );
        // quick_cache turns away what is above the hot share (0.97) of a shard.
        let largest = entries.shard_capacity() / 100 * 97;
        Self {
            entries,
            identities: RwLock::default(),
            generation: AtomicU64::new(0),
            max_bytes,
            largest,
            insertions: Counter::default(),
            evictions: Counter::default(),
            oversized: Counter::default(),
        }
    }

    /// Forgets all answers of a model version; see [`PredictionCache::drop_model`]. Walks over all
    /// entries, a shard at a time.
    pub fn forget(&self, model: &ModelId) -> u64 {
        let dead: HashSet<Digest> = {
            let mut identities = self.identities.write();
            self.generation.fetch_add(1, Ordering::AcqRel);
            identities.extract_if(|_, of| of == model).map(|(identity, _)| identity).collect()
        };
        let found = Counter::default();
        if !dead.is_empty() {
            self.entries.retain(|key, _| {
                let keep = !dead.contains(&key.identity);
                found.add(u64::from(!keep));
                keep
            });
        }
        found.get()
    }
}

fn options(weight: u64, entries: u64, shards: u64) -> Options {
    OptionsBuilder::new()
        .weight_capacity(weight)
        .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX))
        .shards(usize::try_from(shards).unwrap_or(1))
        .build()
        .expect("both capacities are set")
}

/// Bytes that keeping these outputs takes, with key and overhead.
fn accounted_bytes(outputs: &[Tensor]) -> u64 {
    let tensors: usize = outputs
        .iter()
        .map(|tensor| {
            size_of::<Tensor>()
                + tensor.name().len()
                + size_of_val(tensor.shape())
                + tensor.data().len()
                + 3 * BLOCK_BYTES
        })
        .sum();
    (SLOT_BYTES + tensors) as u64
}

impl PredictionCache for EmbeddedCache {
    fn peek(&self, key: &CacheKey, max_age: Duration, now: Instant) -> Option<Kept> {
        // One that is too old stays: it may be young enough for another application, and the
        // miss that it causes here will replace it.
        let entry = self.entries.get(key)?;
        let young = now.saturating_duration_since(entry.at) <= max_age;
        young.then_some(Kept { outputs: entry.outputs, at: entry.at })
    }

    fn lookup(&self, key: &CacheKey, _: &ModelId, max_age: Duration, now: Instant) -> Lookup {
        self.peek(key, max_age, now).map_or(Lookup::Miss, Lookup::Hit)
    }

    fn insert(&self, fill: Fill, now: Instant) -> Arc<[Tensor]> {
        let weight = accounted_bytes(&fill.outputs);
        if weight > self.largest {
            self.oversized.add(1);
            return fill.outputs;
        }
        // Always copied: from outside nobody can tell whether the bytes are a slice of a network
        // frame or of a batch's buffer, which they would keep alive as a whole.
        let outputs: Arc<[Tensor]> = fill.outputs.iter().map(Tensor::detached).collect();
        let entry = Entry { outputs: Arc::clone(&outputs), at: now, weight };

        let mut gate = self.identities.read();
        if !gate.contains_key(&fill.key.identity) {
            drop(gate);
            let mut writer = self.identities.write();
            if self.generation() == fill.generation {
                writer.insert(fill.key.identity, fill.model);
            }
            gate = RwLockWriteGuard::downgrade(writer);
        }
        if self.generation() != fill.generation {
            return outputs;
        }
        let mut pushed_out = Vec::new();
        self.entries.insert_with_lifecycle(fill.key, entry, &mut pushed_out);
        drop(gate);
        self.insertions.add(1);
        // The entry that this one replaces is among them, and is no eviction.
        self.evictions.add(pushed_out.iter().filter(|(key, _)| *key != fill.key).count() as u64);
        outputs
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    fn drop_model<'a>(&'a self, model: &'a ModelId) -> BoxFuture<'a, u64> {
        async { self.forget(model) }.boxed()
    }

    fn stats(&self) -> StoreStats {
        StoreStats {
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
            max_bytes: self.max_bytes,
            insertions: self.insertions.get(),
            evictions: self.evictions.get(),
            oversized: self.oversized.get(),
            redis: None,
        }
    }
}

impl fmt::Debug for EmbeddedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
