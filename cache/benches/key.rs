//! What the key costs, against what else it could be, and what a hit and a miss cost.
//!
//! `cargo bench -p skysail-cache`; docs/adr/0001-cache-key.md holds a run.

use std::{
    future::Future,
    hash::BuildHasher,
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use skysail_cache::{CacheKey, CacheLayer, EmbeddedCache, Fill, PredictionCache};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Signature,
    Tensor, call::call_identity,
};
use tower::{Layer, Service};

/// An image of Fashion-MNIST and one of ImageNet, as FP32.
const SIZES: [usize; 2] = [784, 3 * 224 * 224];

fn inputs(elements: usize, fill: u8) -> Inputs {
    let shape = vec![1, i64::try_from(elements).expect("small")];
    let data = Bytes::from(vec![fill; elements * 4]);
    Inputs::new(vec![Tensor::new("x", DataType::Fp32, shape, data).expect("it fits")])
        .expect("one tensor")
}

fn call(inputs: Arc<Inputs>) -> ModelCall {
    let model = Arc::new(ModelVersion {
        id: ModelId::new("digits", "1"),
        digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        signature: Signature::default(),
        cacheable: true,
        max_batch_rows: 0,
    });
    let outputs: Arc<[Arc<str>]> = Arc::new(["label".into(), "scores".into()]);
    ModelCall {
        identity: call_identity(&model, &outputs),
        model,
        inputs,
        outputs,
        deadline: Instant::now() + Duration::from_secs(3600),
        max_age: Some(Duration::from_secs(3600)),
        waiters: None,
        trace: None,
    }
}

/// A label and ten scores.
fn reply() -> ModelReply {
    let label = Tensor::new("label", DataType::Int64, vec![1], vec![3; 8]).expect("it fits");
    let scores = Tensor::new("scores", DataType::Fp32, vec![1, 10], vec![0; 40]).expect("it fits");
    ModelReply {
        outputs: Arc::new([label, scores]),
        cached: false,
        batch_rows: 1,
        queue: Duration::ZERO,
        compute: Duration::ZERO,
    }
}

fn keys(c: &mut Criterion) {
    for elements in SIZES {
        let mut group = c.benchmark_group(format!("key/{} bytes", elements * 4));
        let (one, other) = (inputs(elements, 1), inputs(elements, 1));
        group.bench_function("blake3", |b| {
            // New `Inputs` over the same bytes: the old ones remember their digest.
            b.iter_batched_ref(
                || Inputs::new(one.tensors().to_vec()).expect("they were inputs"),
                |inputs| *inputs.digest(),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("private", |b| {
            b.iter_batched_ref(
                || Inputs::new(one.tensors().to_vec()).expect("they were inputs"),
                |inputs| *inputs.private_digest(),
                BatchSize::SmallInput,
            );
        });
        let (one, other) = (one.tensors()[0].data(), other.tensors()[0].data());
        let hasher = quick_cache::DefaultHashBuilder::default();
        group.bench_function("foldhash and compare", |b| {
            b.iter(|| (hasher.hash_one(black_box(&one[..])), black_box(one) == black_box(other)));
        });
        group.bench_function("foldhash alone", |b| {
            b.iter(|| hasher.hash_one(black_box(&one[..])));
        });
        group.bench_function("copy of the input", |b| {
            b.iter(|| Bytes::copy_from_slice(black_box(one)));
        });
        group.finish();
    }
    let wanted = call(Arc::new(inputs(784, 1)));
    c.bench_function("key/identity of an arm", |b| {
        b.iter(|| call_identity(black_box(&wanted.model), &wanted.outputs));
    });
}

fn paths(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _entered = runtime.enter();
    let answer = reply();
    let inner = tower::service_fn(move |_: ModelCall| {
        let answer = answer.clone();
        async move { Ok::<_, PredictError>(answer) }
    });
    let layer = CacheLayer::new(EmbeddedCache::new(256 << 20));
    let mut service = layer.layer(inner.clone());

    let known = Arc::new(inputs(784, 1));
    runtime.block_on(service.call(call(Arc::clone(&known)))).expect("an answer");
    let mut context = Context::from_waker(Waker::noop());
    let template = call(known);
    c.bench_function("path/clone of a call", |b| b.iter(|| black_box(&template).clone()));
    c.bench_function("path/hit, key known, clone of the call included", |b| {
        b.iter(|| match pin!(service.call(template.clone())).poll(&mut context) {
            Poll::Ready(answer) => black_box(answer).is_ok(),
            Poll::Pending => false,
        });
    });
    c.bench_function("path/hit, key computed", |b| {
        b.iter_batched(
            || ModelCall { inputs: Arc::new(inputs(784, 1)), ..template.clone() },
            |call| pin!(service.call(call)).poll(&mut context).is_ready(),
            BatchSize::LargeInput,
        );
    });

    let mut next = template.identity;
    let mut fresh = || {
        let count = u64::from_le_bytes(next[..8].try_into().expect("eight bytes"));
        next[..8].copy_from_slice(&count.wrapping_add(1).to_le_bytes());
        next
    };
    c.bench_function("path/past the cache", |b| {
        b.iter(|| {
            let call = ModelCall { max_age: None, ..template.clone() };
            runtime.block_on(service.call(call)).is_ok()
        });
    });
    // Nothing is kept, so that the flight alone is measured.
    let misses = CacheLayer::new(EmbeddedCache::new(0));
    let mut missing = misses.layer(inner);
    c.bench_function("path/miss, nothing kept", |b| {
        b.iter(|| {
            let call = ModelCall { identity: fresh(), ..template.clone() };
            runtime.block_on(missing.call(call)).is_ok()
        });
    });

    let store = EmbeddedCache::new(64 << 20);
    let outputs = reply().outputs;
    let (mut count, now) = (0_u64, Instant::now());
    c.bench_function("store/insert, evicting", |b| {
        b.iter(|| {
            count += 1;
            let mut input = [0; 32];
            input[..8].copy_from_slice(&count.to_le_bytes());
            store.insert(
                Fill {
                    key: CacheKey { identity: template.identity, input },
                    model: template.model.id.clone(),
                    outputs: Arc::clone(&outputs),
                    generation: store.generation(),
                },
                now,
            )
        });
    });
}

criterion_group!(benches, keys, paths);
criterion_main!(benches);
