//! Answers in memory, and behind it in a Redis that front ends share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};
use skysail_proto::{ModelId, Tensor};

use super::redis::RedisAddressError;
use crate::{
    CacheKey, EmbeddedCache, Fill, Generation, Kept, Lookup, PredictionCache, RedisOptions,
    RedisTier, StoreStats,
};

/// The embedded tier, in front of a Redis where one is configured. What Redis knows and this
/// process does not is copied into its memory with its true age.
#[derive(Debug)]
pub struct TieredCache {
    embedded: Arc<EmbeddedCache>,
    redis: Option<RedisTier>,
}

impl TieredCache {
    /// In memory alone, at most `max_bytes` of it (see [`EmbeddedCache::new`]).
    pub fn embedded(max_bytes: u64) -> Self {
        Self { embedded: Arc::new(EmbeddedCache::new(max_bytes)), redis: None }
    }

    /// In memory and in Redis. Does not wait for Redis, which need not be there yet.
    ///
    /// # Errors
    ///
    /// The addresses do not go together.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn with_redis(max_bytes: u64, options: &RedisOptions) -> Result<Self, RedisAddressError> {
        let embedded = Arc::new(EmbeddedCache::new(max_bytes));
        let forgets = Arc::clone(&embedded);
        let redis = RedisTier::start(options, move |model| {
            forgets.forget(model);
        })?;
        Ok(Self { embedded, redis: Some(redis) })
    }
}

impl PredictionCache for TieredCache {
    fn peek(&self, key: &CacheKey, max_age: Duration, now: Instant) -> Option<Kept> {
        self.embedded.peek(key, max_age, now)
    }

    fn lookup(&self, key: &CacheKey, model: &ModelId, max_age: Duration, now: Instant) -> Lookup {
        if let Some(kept) = self.embedded.peek(key, max_age, now) {
            return Lookup::Hit(kept);
        }
        let Some(redis) = self.redis.clone() else { return Lookup::Miss };
        if redis.skips() {
            return Lookup::Miss;
        }
        let (key, model, embedded) = (*key, model.clone(), Arc::clone(&self.embedded));
        let generation = embedded.generation();
        let asked = async move {
            let kept = redis.get(&key, &model, max_age).await?;
            let fill = Fill { key, model, outputs: kept.outputs, generation };
            let outputs = embedded.insert(fill, kept.at);
            // Dropped while it was on its way: the model is asked, if for nothing.
            (embedded.generation() == generation).then_some(Kept { outputs, at: kept.at })
        };
        Lookup::Pending(asked.boxed())
    }

    fn insert(&self, fill: Fill, now: Instant) -> Arc<[Tensor]> {
        let Some(redis) = &self.redis else { return self.embedded.insert(fill, now) };
        // In this order: a drop counts a generation before it raises the epoch that the slot has.
        // So an answer from before the drop is either seen to be, or written where nobody looks.
        let slot = redis.slot(&fill.key, &fill.model);
        let current = self.embedded.generation() == fill.generation;
        let outputs = self.embedded.insert(fill, now);
        if current {
            redis.put(slot, Arc::clone(&outputs));
        }
        outputs
    }

    fn shares_keys(&self) -> bool {
        self.redis.is_some()
    }

    fn generation(&self) -> Generation {
        self.embedded.generation()
    }

    /// Counts what was found in memory; Redis is swept in the background.
    fn drop_model<'a>(&'a self, model: &'a ModelId) -> BoxFuture<'a, u64> {
        async move {
            let found = self.embedded.forget(model);
            if let Some(redis) = &self.redis {
                redis.drop_model(model);
            }
            found
        }
        .boxed()
    }

    fn stats(&self) -> StoreStats {
        let redis = self.redis.as_ref().map(RedisTier::stats);
        StoreStats { redis, ..self.embedded.stats() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_shared_exactly_where_a_redis_is() {
        let options = RedisOptions::new("redis://127.0.0.1:1".parse().expect("an address"));
        let shared = TieredCache::with_redis(1 << 20, &options).expect("it need not be there");
        assert!(shared.shares_keys());
        assert!(!TieredCache::embedded(1 << 20).shares_keys());
    }
}
