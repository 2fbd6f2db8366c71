//! What the tests of the shared tier have in common.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod cluster;
pub(crate) mod redis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt};
use skysail_cache::{
    CacheLayer, CacheService, PredictionCache, RedisOptions, RedisStats, TieredCache,
};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Signature,
    Tensor,
    call::{ModelResult, call_identity},
};
use tower::{Layer, Service, ServiceExt};

use self::redis::until;

pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A model whose answer depends on all of its input: the tensors themselves, and which model it
/// was. Counts how often it was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) asked: Arc<AtomicU64>,
    /// In each answer, so that one from before a change is known.
    pub(crate) build: Arc<AtomicU64>,
}

impl Model {
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn answer(&self, call: &ModelCall) -> Arc<[Tensor]> {
        let build = self.build.load(Ordering::SeqCst);
        let who = format!("{} {:?} {build}", call.model.id, call.outputs);
        let who = Tensor::from_strings("who", &[who]);
        let echo = call.inputs.tensors().iter();
        [who].into_iter().chain(echo.map(|of| of.renamed(format!("of {}", of.name())))).collect()
    }
}

impl Service<ModelCall> for Model {
    type Response = ModelReply;
    type Error = PredictError;
    type Future = BoxFuture<'static, ModelResult>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), PredictError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ModelCall) -> Self::Future {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let outputs = self.answer(&call);
        async move {
            Ok(ModelReply {
                outputs,
                cached: false,
                batch_rows: 1,
                queue: Duration::ZERO,
                compute: Duration::ZERO,
            })
        }
        .boxed()
    }
}

/// A front end's cache over a model.
pub(crate) struct FrontEnd<P: PredictionCache = TieredCache> {
    pub(crate) layer: CacheLayer<P>,
    service: CacheService<Model, P>,
    pub(crate) model: Model,
}

impl FrontEnd {
    /// Tiered, over the Redis at `url`; waits until that is used.
    pub(crate) async fn over(url: &str) -> Self {
        let front_end = Self::unconnected(url, 64 << 20);
        front_end.is_connected().await;
        front_end
    }

    /// With no memory of its own: Redis alone.
    pub(crate) async fn redis_alone(url: &str) -> Self {
        let front_end = Self::unconnected(url, 0);
        front_end.is_connected().await;
        front_end
    }

    pub(crate) fn unconnected(url: &str, bytes: u64) -> Self {
        Self::new(TieredCache::with_redis(bytes, &options(url)).unwrap())
    }

    pub(crate) async fn is_connected(&self) {
        until("Redis is used", async || !self.redis().circuit_open).await;
    }

    pub(crate) fn redis(&self) -> RedisStats {
        self.layer.stats().store.redis.unwrap()
    }

    /// Waits until all that was to be written has been, or could not be.
    pub(crate) async fn written(&self, answers: u64) {
        until("the answers are written", async || {
            let redis = self.redis();
            redis.writes + redis.write_errors + redis.writes_dropped >= answers
        })
        .await;
    }
}

impl<P: PredictionCache> FrontEnd<P> {
    pub(crate) fn new(store: P) -> Self {
        let layer = CacheLayer::new(store);
        let model = Model::default();
        Self { service: layer.layer(model.clone()), layer, model }
    }

    pub(crate) async fn ask(&self, call: ModelCall) -> ModelReply {
        self.service.clone().oneshot(call).await.expect("no query fails")
    }
}

/// With a budget that a busy machine keeps to, for tests that are not about it.
pub(crate) fn options(url: &str) -> RedisOptions {
    RedisOptions { budget: Duration::from_millis(500), ..RedisOptions::new(url.parse().unwrap()) }
}

pub(crate) fn version(name: &str, version: &str, digest: &str) -> Arc<ModelVersion> {
    Arc::new(ModelVersion {
        id: ModelId::new(name, version),
        digest: digest.into(),
        signature: Signature::default(),
        cacheable: true,
        max_batch_rows: 0,
    })
}

pub(crate) fn call_with(model: Arc<ModelVersion>, inputs: Vec<Tensor>) -> ModelCall {
    let outputs: Arc<[Arc<str>]> = Arc::new(["y".into()]);
    ModelCall {
        identity: call_identity(&model, &outputs),
        model,
        inputs: Arc::new(Inputs::new(inputs).unwrap()),
        outputs,
        deadline: Instant::now() + LONG,
        max_age: Some(LONG),
        waiters: None,
        trace: None,
    }
}

/// The query number `n` to the model `m:1`.
pub(crate) fn call(n: u64) -> ModelCall {
    call_to("1", n)
}

pub(crate) fn call_to(to: &str, n: u64) -> ModelCall {
    let data = n.to_le_bytes().to_vec();
    let x = Tensor::new("x", DataType::Uint8, vec![1, 8], data).unwrap();
    call_with(version("m", to, "d"), vec![x])
}
