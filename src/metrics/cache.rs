//! The prediction cache, by tier.

use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use skysail_cache::{CacheStats, RedisStats};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    tier: &'static str,
}

const EMBEDDED: TierLabels = TierLabels { tier: "embedded" };
const REDIS: TierLabels = TierLabels { tier: "redis" };

type Counted = Family<TierLabels, Counter>;

/// What the cache counts, copied when Prometheus asks. `redis` is shown where one is configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheMetrics {
    hits: Counted,
    misses: Counted,
    joins: Counted,
    evictions: Counted,
    bytes: Family<TierLabels, Gauge>,
    timeouts: Counted,
    errors: Counted,
    skipped: Counted,
    corrupt: Counted,
    writes: Counted,
    writes_dropped: Counted,
    write_errors: Counted,
    circuit_state: Family<TierLabels, Gauge>,
    circuit_opened: Counted,
}

impl CacheMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let counted = [
            ("cache_hits", "Look-ups answered", &self.hits),
            ("cache_misses", "Look-ups not answered", &self.misses),
            ("cache_joins", "Look-ups that joined a call", &self.joins),
            ("cache_evictions", "Entries given up for room", &self.evictions),
            ("cache_timeouts", "Look-ups without an answer within the budget", &self.timeouts),
            ("cache_errors", "Look-ups that were refused or cut off", &self.errors),
            ("cache_skipped", "Look-ups not made, the circuit being open", &self.skipped),
            ("cache_corrupt", "Look-ups that found a damaged value", &self.corrupt),
            ("cache_writes", "Answers written", &self.writes),
            ("cache_writes_dropped", "Answers not sent to be written", &self.writes_dropped),
            ("cache_write_errors", "Answers whose writing failed", &self.write_errors),
            ("cache_circuit_opened", "Times the circuit opened", &self.circuit_opened),
        ];
        for (name, help, family) in counted {
            registry.register(name, help, family.clone());
        }
        registry.register("cache_bytes", "Accounted bytes", self.bytes.clone());
        registry.register(
            "cache_circuit_state",
            "1: the tier is not asked, since it is slow or lost; 0: it is",
            self.circuit_state.clone(),
        );
    }

    pub(crate) fn sample(&self, stats: &CacheStats) {
        copy(&self.hits, EMBEDDED, stats.hits);
        copy(&self.misses, EMBEDDED, stats.misses);
        copy(&self.joins, EMBEDDED, stats.joins);
        copy(&self.evictions, EMBEDDED, stats.store.evictions);
        set(&self.bytes, EMBEDDED, stats.store.bytes);
        if let Some(redis) = &stats.store.redis {
            self.sample_redis(redis);
        }
    }

    fn sample_redis(&self, redis: &RedisStats) {
        let counted = [
            (&self.hits, redis.hits),
            (&self.misses, redis.misses),
            (&self.evictions, redis.evictions),
            (&self.timeouts, redis.timeouts),
            (&self.errors, redis.errors),
            (&self.skipped, redis.skipped),
            (&self.corrupt, redis.corrupt),
            (&self.writes, redis.writes),
            (&self.writes_dropped, redis.writes_dropped),
            (&self.write_errors, redis.write_errors),
            (&self.circuit_opened, redis.circuit_opened),
        ];
        for (family, value) in counted {
            copy(family, REDIS, value);
        }
        set(&self.bytes, REDIS, redis.bytes);
        set(&self.circuit_state, REDIS, u64::from(redis.circuit_open));
    }
}

/// They only rise where they are counted, so what is shown only rises, too.
fn copy(family: &Counted, tier: TierLabels, value: u64) {
    family.get_or_create(&tier).inner().store(value, Ordering::Relaxed);
}

fn set(family: &Family<TierLabels, Gauge>, tier: TierLabels, value: u64) {
    family.get_or_create(&tier).set(i64::try_from(value).unwrap_or(i64::MAX));
}
