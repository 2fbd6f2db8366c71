use bytes::Bytes;
use proptest::prelude::*;
use skysail_proto::DataType;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn key(model: u8, input: u64) -> CacheKey {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&input.to_le_bytes());
    CacheKey { identity: [model; 32], input: digest }
}

fn id(model: u8) -> ModelId {
    ModelId::new("m", model.to_string())
}

fn outputs(data: impl Into<Bytes>) -> Arc<[Tensor]> {
    let data = data.into();
    let shape = vec![1, i64::try_from(data.len()).expect("small")];
    Arc::new([Tensor::new("y", DataType::Uint8, shape, data).expect("it fits")])
}

fn fill(store: &EmbeddedCache, key: CacheKey, outputs: Arc<[Tensor]>, now: Instant) {
    let generation = store.generation();
    let model = id(key.identity[0]);
    store.insert(Fill { key, model, outputs, generation }, now);
}

fn get(store: &EmbeddedCache, key: &CacheKey, now: Instant) -> Option<Arc<[Tensor]>> {
    store.peek(key, LONG, now).map(|kept| kept.outputs)
}

#[test]
fn what_is_kept_pins_no_frame() {
    let store = EmbeddedCache::new(1 << 20);
    let now = Instant::now();
    let frame = Bytes::from(vec![7; 100_000]);
    fill(&store, key(1, 1), outputs(frame.slice(10..20)), now);
    assert!(frame.is_unique(), "nothing else holds the frame");
    let kept = get(&store, &key(1, 1), now).expect("kept");
    assert_eq!(kept, outputs(vec![7; 10]));
}

#[test]
fn age_is_checked_on_read() {
    let store = EmbeddedCache::new(1 << 20);
    let now = Instant::now();
    fill(&store, key(1, 1), outputs(vec![1]), now);
    for (age_ms, max_age_ms, hit) in
        [(0, 10, true), (10, 10, true), (11, 10, false), (11, 20, true)]
    {
        let looked = store.lookup(
            &key(1, 1),
            &id(1),
            Duration::from_millis(max_age_ms),
            now + Duration::from_millis(age_ms),
        );
        assert_eq!(matches!(looked, Lookup::Hit(_)), hit, "{age_ms} ms of {max_age_ms}");
    }
}

#[test]
fn an_answer_larger_than_its_share_is_handed_on_and_not_kept() {
    let store = EmbeddedCache::with_shards(64 << 10, 1);
    let now = Instant::now();
    fill(&store, key(1, 1), outputs(vec![1; 10]), now);
    fill(&store, key(1, 2), outputs(vec![1; 64 << 10]), now);
    let stats = store.stats();
    assert_eq!((stats.entries, stats.oversized, stats.evictions), (1, 1, 0));
}

#[test]
fn zero_bytes_keep_nothing() {
    let store = EmbeddedCache::new(0);
    fill(&store, key(1, 1), outputs(vec![1]), Instant::now());
    assert_eq!((store.stats().entries, store.stats().bytes), (0, 0));
}

#[test]
fn a_scan_does_not_push_out_what_is_asked_for_again() {
    let store = EmbeddedCache::with_shards(1 << 20, 1);
    let now = Instant::now();
    let popular: Vec<_> = (0..200).map(|i| key(1, i)).collect();
    for key in &popular {
        fill(&store, *key, outputs(vec![1; 100]), now);
    }
    for _ in 0..2 {
        for key in &popular {
            assert!(get(&store, key, now).is_some());
        }
    }
    for i in 0..20_000 {
        fill(&store, key(1, 1_000 + i), outputs(vec![2; 100]), now);
    }
    let kept = popular.iter().filter(|key| get(&store, key, now).is_some()).count();
    assert!(kept >= 190, "{kept} of 200 outlast a scan of ten times the cache");
}

#[test]
fn a_dropped_model_gives_its_memory_back_and_leaves_the_others() {
    let store = EmbeddedCache::new(1 << 20);
    let now = Instant::now();
    for i in 0..100 {
        fill(&store, key(1, i), outputs(vec![1; 100]), now);
        fill(&store, key(2, i), outputs(vec![2; 100]), now);
    }
    let before = store.stats();
    let began = store.generation();
    assert_eq!(store.forget(&id(1)), 100);
    assert_eq!((store.stats().entries, store.stats().bytes), (100, before.bytes / 2));
    assert!(get(&store, &key(1, 1), now).is_none());
    assert!(get(&store, &key(2, 1), now).is_some());
    assert_eq!(store.forget(&id(1)), 0);

    let outputs = outputs(vec![3]);
    store.insert(Fill { key: key(1, 1), model: id(1), outputs, generation: began }, now);
    assert!(get(&store, &key(1, 1), now).is_none(), "begun before the drop");
}

#[test]
fn fills_that_race_with_drops_leave_nothing_behind() {
    let store = EmbeddedCache::new(4 << 20);
    let now = Instant::now();
    for round in 0..50 {
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let store = &store;
                let generation = store.generation();
                scope.spawn(move || {
                    for i in 0..200 {
                        let key = key(1, round * 1_000 + thread * 500 + i);
                        let outputs = outputs(vec![1]);
                        store.insert(Fill { key, model: id(1), outputs, generation }, now);
                    }
                });
            }
            scope.spawn(|| store.forget(&id(1)));
        });
        assert_eq!(store.stats().entries, 0, "all fills began before the drop");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_bound_holds_while_ten_times_it_streams_through(
        shards in prop_oneof![Just(1_u64), Just(4), Just(8)],
        kilobytes in 64_u64..512,
        largest in 1_usize..4_000,
        seed in any::<u64>(),
    ) {
        let max_bytes = kilobytes << 10;
        let store = EmbeddedCache::with_shards(max_bytes, shards);
        let now = Instant::now();
        let (mut streamed, mut state, mut fresh) = (0, seed | 1, 0_u64);
        while streamed < 10 * max_bytes {
            // Marsaglia's xorshift: some keys come again, with other sizes.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let key = key(1, state % 5_000);
            fresh += u64::from(get(&store, &key, now).is_none());
            let answer = outputs(vec![1; usize::try_from(state >> 40).expect("small") % largest]);
            streamed += accounted_bytes(&answer);
            fill(&store, key, answer, now);
            let stats = store.stats();
            prop_assert!(stats.bytes <= max_bytes, "{} of {max_bytes}", stats.bytes);
        }
        let stats = store.stats();
        prop_assert!(stats.evictions > 0);
        prop_assert!(stats.entries + stats.evictions <= stats.insertions);
        prop_assert_eq!(stats.entries + stats.evictions, fresh - stats.oversized);
    }
}
