//! What is accounted is what the process really takes. Alone in its binary, so that no other test
//! allocates beside it.
#![cfg(target_os = "linux")]

use std::{sync::Arc, time::Instant};

use skysail_cache::{CacheKey, EmbeddedCache, Fill, PredictionCache};
use skysail_proto::{DataType, ModelId, Tensor};

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux has it");
    let kilobytes: u64 =
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kilobytes << 10
}

/// A label and ten scores, in a buffer that a whole batch shared.
fn outputs(batch: &bytes::Bytes) -> Arc<[Tensor]> {
    let tensor = |name, datatype, shape: Vec<i64>, data| {
        Tensor::new(name, datatype, shape, data).expect("it fits")
    };
    Arc::new([
        tensor("label", DataType::Int64, vec![1], batch.slice(..8)),
        tensor("scores", DataType::Fp32, vec![1, 10], batch.slice(8..48)),
    ])
}

#[test]
fn the_process_grows_by_no_more_than_the_bound() {
    const MAX_BYTES: u64 = 64 << 20;
    let store = EmbeddedCache::new(MAX_BYTES);
    let (now, model) = (Instant::now(), ModelId::new("digits", "1"));
    let before = resident_bytes();
    // About four times what fits.
    for count in 0..400_000_u64 {
        let mut input = [0; 32];
        input[..8].copy_from_slice(&count.to_le_bytes());
        let batch = bytes::Bytes::from(vec![1; 64 << 4]);
        let fill = Fill {
            key: CacheKey { identity: [1; 32], input },
            model: model.clone(),
            outputs: outputs(&batch),
            generation: store.generation(),
        };
        store.insert(fill, now);
    }
    let grown = resident_bytes() - before;
    let stats = store.stats();
    println!("accounted {} of {MAX_BYTES}, resident {grown}, {stats:?}", stats.bytes);
    assert!(stats.bytes <= MAX_BYTES);
    assert!(stats.bytes >= MAX_BYTES / 10 * 9, "the bound is made use of");
    assert!(grown <= MAX_BYTES, "resident {grown}");
    assert!(grown >= MAX_BYTES / 2, "resident {grown}: accounting is far too high");
}
