//! The embedded store, in process.

use std::{
    fs,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use skysail_cache::{CacheKey, EmbeddedCache, Fill, PredictionCache};
use skysail_proto::{DataType, ModelId, Tensor};

/// What the store does alone.
#[derive(Debug, Serialize)]
pub struct Store {
    /// Of a look-up that hits, the key given; one per repeat.
    pub hit_ns: Vec<f64>,
    /// The bound.
    pub bound_bytes: u64,
    /// The most that it ever accounted to itself, over the bound.
    pub bytes_over_bound: f64,
    /// What the process grew by, over the bound; 0 where the system does not tell.
    pub resident_over_bound: f64,
    /// Answers that streamed through, ten times what fits.
    pub answers: u64,
}

/// Entries of the store that is asked.
const ENTRIES: u64 = 10_000;
const LOOKUPS: u64 = 1_000_000;
/// Roughly what an answer below takes, overhead included.
const ENTRY_BYTES: u64 = 640;

pub(super) fn measure(bound: u64, repeats: usize) -> Store {
    measure_with(bound, repeats, LOOKUPS)
}

fn measure_with(bound: u64, repeats: usize, lookups: u64) -> Store {
    let asked = EmbeddedCache::new(64 << 20);
    let now = Instant::now();
    for count in 0..ENTRIES {
        asked.insert(fill(&asked, count), now);
    }
    let hit_ns = (0..repeats.max(1)).map(|_| hit_ns(&asked, lookups, now)).collect();
    drop(asked);

    let before = resident();
    let store = EmbeddedCache::new(bound);
    let answers = 10 * bound / ENTRY_BYTES;
    let mut most = 0;
    for count in 0..answers {
        store.insert(fill(&store, count), now);
        if count.is_multiple_of(1024) {
            most = most.max(store.stats().bytes);
        }
    }
    let grown = resident().zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
    Store {
        hit_ns,
        bound_bytes: bound,
        bytes_over_bound: most as f64 / bound as f64,
        resident_over_bound: grown as f64 / bound as f64,
        answers,
    }
}

fn hit_ns(store: &EmbeddedCache, lookups: u64, now: Instant) -> f64 {
    let (max_age, model) = (Duration::from_secs(3600), ModelId::new("digits", "1"));
    let begun = Instant::now();
    for count in 0..lookups {
        // A stride through the entries, so that they do not lie in the nearest cache line.
        let key = key(count.wrapping_mul(7_919) % ENTRIES);
        black_box(store.lookup(&key, &model, max_age, now));
    }
    begun.elapsed().as_secs_f64() * 1e9 / lookups as f64
}

fn key(count: u64) -> CacheKey {
    let mut input = [0; 32];
    if let Some(low) = input.get_mut(..8) {
        low.copy_from_slice(&count.to_le_bytes());
    }
    CacheKey { identity: [1; 32], input }
}

/// A label and ten scores.
fn fill(store: &EmbeddedCache, count: u64) -> Fill {
    let tensor = |name: &str, datatype, shape: &[i64], bytes: usize| {
        Tensor::new(name, datatype, shape, vec![1_u8; bytes]).ok()
    };
    let label = tensor("label", DataType::Int64, &[1], 8);
    let scores = tensor("scores", DataType::Fp32, &[1, 10], 40);
    let outputs: Arc<[Tensor]> = label.into_iter().chain(scores).collect();
    let model = ModelId::new("digits", "1");
    Fill { key: key(count), model, outputs, generation: store.generation() }
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_store_is_filled_to_its_bound_and_not_beyond() {
        let store = measure_with(8 << 20, 1, 10_000);
        assert!(store.hit_ns[0] > 0.0);
        assert!((0.8..=1.0).contains(&store.bytes_over_bound), "{}", store.bytes_over_bound);
    }
}
