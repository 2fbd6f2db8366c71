//! Closed loops into [`Models`] in this process: what a model does without a network before it.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use skysail_containers::{BatchStrategy, Container, ModelConfig, Models, Registration};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelVersion, Signature, Tensor, call::call_identity,
};
use tokio::runtime::Runtime;
use tower::Service as _;

use crate::{
    process::ServerProcess,
    sleeper::{FEATURES, INPUT, Sleeper, Speed},
};

/// As [`skysail_containers::config::DEFAULT_SLACK`], for which the containers' target is made.
const SLACK: Duration = Duration::from_millis(1);

/// One closed loop.
#[derive(Clone, Debug, Serialize)]
pub struct Loop {
    /// How the batch was sized.
    pub strategy: String,
    /// Queries under way.
    pub depth: usize,
    /// Answers within the objective, per second.
    pub in_time_per_s: f64,
    /// Of all that ended, those within the objective.
    pub in_time_ratio: f64,
    /// Of the answers, in microseconds.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// Rows per batch, weighted by queries.
    pub mean_batch: f64,
}

/// What computes.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    /// A container that only waits.
    Sleeper(Speed),
    /// An ONNX file.
    Onnx(&'a Path),
    /// Containers in processes of their own, that only wait: a replica each.
    Remote(&'a [ServerProcess]),
}

/// One way of running the model.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Of its version.
    pub name: String,
    pub batch: BatchStrategy,
    pub batch_wait: Duration,
    /// Threads with a copy each.
    pub replicas: usize,
}

impl Variant {
    /// A strategy, by which it is named.
    pub(super) fn strategy(name: &str) -> anyhow::Result<Self> {
        let (batch, name) = (name.parse()?, name.to_owned());
        Ok(Self { name, batch, batch_wait: Duration::ZERO, replicas: 1 })
    }
}

/// One model in several variants, each a version of its own.
pub(super) struct World<'a> {
    runtime: &'a Runtime,
    models: Models,
    versions: Vec<Arc<ModelVersion>>,
    inputs: Vec<Arc<Inputs>>,
    objective: Duration,
}

impl<'a> World<'a> {
    pub(super) fn start(
        runtime: &'a Runtime,
        kind: Kind<'_>,
        objective: Duration,
        strategies: &[&str],
    ) -> anyhow::Result<Self> {
        let variants: Vec<_> =
            strategies.iter().map(|name| Variant::strategy(name)).collect::<Result<_, _>>()?;
        Self::with(runtime, kind, objective, &variants)
    }

    pub(super) fn with(
        runtime: &'a Runtime,
        kind: Kind<'_>,
        objective: Duration,
        variants: &[Variant],
    ) -> anyhow::Result<Self> {
        let models = Models::new();
        let mut versions = Vec::new();
        for variant in variants {
            let path = if let Kind::Onnx(path) = kind { path } else { Path::new("") };
            let mut config = ModelConfig::new(ModelId::new("model", variant.name.as_str()), path);
            config.objective = Some(objective);
            config.batch = variant.batch;
            config.batch_wait = variant.batch_wait;
            config.replicas = variant.replicas;
            let version = match kind {
                Kind::Remote(containers) => {
                    for container in containers {
                        let registration = registration(&config, &container.address)?;
                        runtime.block_on(models.register(registration))?;
                    }
                    let version = models.resolve(&format!("model:{}", variant.name));
                    version.context("nothing was registered")?
                }
                Kind::Sleeper(speed) => {
                    let open = move || Ok(Box::new(Sleeper { speed }) as Box<dyn Container>);
                    runtime.block_on(models.start(config, "", open))?
                }
                Kind::Onnx(_) => runtime.block_on(models.load(config))?,
            };
            versions.push(version);
        }
        let features = if let Kind::Onnx(_) = kind { 784 } else { FEATURES };
        let inputs = (0..256).map(|seed| random_row(features, seed)).collect::<Result<_, _>>()?;
        Ok(Self { runtime, models, versions, inputs, objective })
    }

    /// `depth` queries are under way all the time.
    pub(super) fn run(
        &self,
        strategy: &str,
        depth: usize,
        block: Duration,
    ) -> anyhow::Result<Loop> {
        let version = self.versions.iter().find(|one| &*one.id.version == strategy);
        let version = version.with_context(|| format!("{strategy} was not started"))?;
        let from = Instant::now() + block / 4;
        let until = from + block;
        let outputs: Arc<[Arc<str>]> =
            version.signature.outputs.iter().map(|spec| spec.name.as_str().into()).collect();
        let identity = call_identity(version, &outputs);
        let callers: Vec<_> = (0..depth)
            .map(|caller| {
                let mut caller = Caller {
                    models: self.models.clone(),
                    version: Arc::clone(version),
                    outputs: Arc::clone(&outputs),
                    identity,
                    inputs: self
                        .inputs
                        .iter()
                        .cycle()
                        .skip(caller % 256)
                        .take(16)
                        .cloned()
                        .collect(),
                    objective: self.objective,
                    window: (from, until),
                };
                self.runtime.spawn(async move { caller.run().await })
            })
            .collect();
        let mut books = Books::new()?;
        for caller in callers {
            books.add(self.runtime.block_on(caller)??)?;
        }
        Ok(books.close(strategy, depth, block))
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.runtime.block_on(self.models.shutdown());
    }
}

/// A container of the model elsewhere, without a lease.
fn registration(config: &ModelConfig, address: &str) -> anyhow::Result<Registration> {
    Ok(Registration {
        id: config.id.clone(),
        address: address.parse()?,
        remote_model: String::new(),
        remote_version: String::new(),
        max_batch_rows: 0,
        device: "cpu".into(),
        persistent: true,
        signature: Signature { inputs: Vec::new(), outputs: Vec::new() },
        probe: None,
        digest: String::new(),
        cacheable: true,
        objective: config.objective,
        batch: config.batch,
        batch_wait: config.batch_wait,
    })
}

fn random_row(features: usize, seed: u64) -> anyhow::Result<Arc<Inputs>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let data: Vec<u8> = (0..features).flat_map(|_| rng.random::<f32>().to_le_bytes()).collect();
    let shape = [1, i64::try_from(features)?];
    Ok(Arc::new(Inputs::new(vec![Tensor::new(INPUT, DataType::Fp32, shape, data)?])?))
}

struct Caller {
    models: Models,
    version: Arc<ModelVersion>,
    outputs: Arc<[Arc<str>]>,
    identity: [u8; 32],
    inputs: Vec<Arc<Inputs>>,
    objective: Duration,
    window: (Instant, Instant),
}

impl Caller {
    async fn run(&mut self) -> anyhow::Result<Books> {
        let mut books = Books::new()?;
        for inputs in self.inputs.clone().iter().cycle() {
            let begun = Instant::now();
            if begun >= self.window.1 {
                break;
            }
            let call = ModelCall {
                model: Arc::clone(&self.version),
                inputs: Arc::clone(inputs),
                outputs: Arc::clone(&self.outputs),
                identity: self.identity,
                deadline: begun + self.objective - SLACK,
                max_age: None,
                waiters: None,
                trace: None,
            };
            let reply = self.models.call(call).await;
            let took = begun.elapsed();
            if begun < self.window.0 {
                continue;
            }
            books.ended += 1;
            let Ok(reply) = reply else {
                // Asking again at once would only be refused again, and take the processor.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            books.in_time += u64::from(took <= self.objective);
            books.batch_rows += u64::from(reply.batch_rows);
            books.answered.record(u64::try_from(took.as_nanos())?.max(1))?;
        }
        Ok(books)
    }
}

struct Books {
    ended: u64,
    in_time: u64,
    batch_rows: u64,
    /// In nanoseconds.
    answered: Histogram<u64>,
}

impl Books {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { ended: 0, in_time: 0, batch_rows: 0, answered: Histogram::new(3)? })
    }

    fn add(&mut self, other: Self) -> anyhow::Result<()> {
        self.ended += other.ended;
        self.in_time += other.in_time;
        self.batch_rows += other.batch_rows;
        Ok(self.answered.add(other.answered)?)
    }

    fn close(&self, strategy: &str, depth: usize, block: Duration) -> Loop {
        let at = |quantile| self.answered.value_at_quantile(quantile) as f64 / 1e3;
        Loop {
            strategy: strategy.into(),
            depth,
            in_time_per_s: self.in_time as f64 / block.as_secs_f64(),
            in_time_ratio: self.in_time as f64 / self.ended.max(1) as f64,
            p50_us: at(0.5),
            p99_us: at(0.99),
            mean_batch: self.batch_rows as f64 / self.answered.len().max(1) as f64,
        }
    }
}
