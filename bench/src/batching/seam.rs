//! What can only be measured at the model seam: containers so quick that the network would hide
//! them. Closed loops into [`Models`] in this process.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use skysail_containers::{BatchStrategy, Container, ModelConfig, Models, init_onnx_runtime};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelVersion, Tensor, call::call_identity,
};
use tokio::runtime::Runtime;
use tower::Service as _;

use super::Settings;
use crate::report::median;
use crate::sleeper::{FEATURES, INPUT, Sleeper, Speed};

/// α = 12.5 µs, β = 1 ms: the cheap models of Clipper's figure 4, at its objective of 20 ms.
const CHEAP: Speed = Speed { row: Duration::from_nanos(12_500), batch: Duration::from_millis(1) };
const CHEAP_OBJECTIVE: Duration = Duration::from_millis(20);
const OBJECTIVE: Duration = Duration::from_millis(100);
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

/// All repeats.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seam {
    /// Rates of `aimd` over those of `none`.
    pub gain_over_none: Vec<f64>,
    /// Rates of `aimd` over those of the best fixed size; none without ONNX Runtime.
    pub forest_vs_best_fixed: Vec<f64>,
    /// The median latency of a lone query under `aimd` less that under `none`.
    pub lone_query_added_us: Vec<f64>,
    /// The loops behind them.
    pub cheap: Vec<Loop>,
    /// The loops behind them.
    pub forest: Vec<Loop>,
    /// The loops behind them.
    pub lone: Vec<Loop>,
}

pub(super) fn measure(settings: &Settings) -> anyhow::Result<Seam> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads.max(1))
        .enable_all()
        .build()?;
    let mut seam = Seam::default();
    measure_cheap(settings, &runtime, &mut seam)?;
    measure_lone(settings, &runtime, &mut seam)?;
    measure_forest(settings, &runtime, &mut seam)?;
    Ok(seam)
}

fn measure_cheap(settings: &Settings, runtime: &Runtime, seam: &mut Seam) -> anyhow::Result<()> {
    let world = World::start(runtime, Kind::Sleeper(CHEAP), CHEAP_OBJECTIVE, &["aimd", "none"])?;
    for _ in 0..settings.repeats {
        // As many under way as serve each best; more would only wait.
        let none = world.run("none", 8, settings.block)?;
        let half = world.run("aimd", 512, settings.block)?;
        let full = world.run("aimd", 1_024, settings.block)?;
        let best = half.in_time_per_s.max(full.in_time_per_s);
        seam.gain_over_none.push(best / none.in_time_per_s);
        seam.cheap.extend([none, half, full]);
    }
    Ok(())
}

fn measure_lone(settings: &Settings, runtime: &Runtime, seam: &mut Seam) -> anyhow::Result<()> {
    let zero = Speed { row: Duration::ZERO, batch: Duration::ZERO };
    let world = World::start(runtime, Kind::Sleeper(zero), OBJECTIVE, &["aimd", "none"])?;
    for repeat in 0..settings.repeats {
        let order = if repeat % 2 == 0 { ["aimd", "none"] } else { ["none", "aimd"] };
        let loops = order.map(|strategy| world.run(strategy, 1, settings.block / 2));
        let loops = loops.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let of = |strategy: &str| {
            loops.iter().find(|one| one.strategy == strategy).map_or(f64::NAN, |one| one.p50_us)
        };
        seam.lone_query_added_us.push(of("aimd") - of("none"));
        seam.lone.extend(loops);
    }
    Ok(())
}

fn measure_forest(settings: &Settings, runtime: &Runtime, seam: &mut Seam) -> anyhow::Result<()> {
    init_onnx_runtime(settings.onnx_runtime.as_deref(), None)?;
    let names = ["1", "8", "32", "aimd", "quantile", "64", "128", "512"];
    let world = World::start(runtime, Kind::Onnx(&settings.forest), OBJECTIVE, &names)?;
    // Short loops, often: seven of a length would each meet another machine.
    let (repeats, block) = (settings.repeats * 2, settings.block / 2);
    let mut rates = vec![Vec::new(); names.len()];
    for repeat in 0..repeats {
        for at in 0..names.len() {
            let at = (at + repeat * 3) % names.len();
            let (Some(name), Some(rates)) = (names.get(at), rates.get_mut(at)) else { continue };
            let one = world.run(name, 1_024, block)?;
            rates.push(one.in_time_per_s);
            seam.forest.push(one);
        }
    }
    // The best size is that of all repeats: the best of each would be whichever had luck.
    let named = || names.iter().zip(&rates);
    let fixed = named().filter(|(name, _)| name.parse::<usize>().is_ok());
    let middle = |rates: &[f64]| median(rates).unwrap_or_default();
    let best = fixed.max_by(|a, b| middle(a.1).total_cmp(&middle(b.1)));
    let aimd = named().find(|(name, _)| **name == "aimd");
    if let (Some((_, best)), Some((_, aimd))) = (best, aimd) {
        seam.forest_vs_best_fixed = aimd.iter().zip(best).map(|(aimd, best)| aimd / best).collect();
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Sleeper(Speed),
    Onnx(&'a Path),
}

/// One model under several strategies, each a version of its own.
struct World<'a> {
    runtime: &'a Runtime,
    models: Models,
    versions: Vec<Arc<ModelVersion>>,
    inputs: Vec<Arc<Inputs>>,
    objective: Duration,
}

impl<'a> World<'a> {
    fn start(
        runtime: &'a Runtime,
        kind: Kind<'_>,
        objective: Duration,
        strategies: &[&str],
    ) -> anyhow::Result<Self> {
        let models = Models::new();
        let mut versions = Vec::new();
        for strategy in strategies {
            let path = if let Kind::Onnx(path) = kind { path } else { Path::new("") };
            let mut config = ModelConfig::new(ModelId::new("model", *strategy), path);
            config.objective = Some(objective);
            config.batch = strategy.parse::<BatchStrategy>()?;
            let version = match kind {
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
    fn run(&self, strategy: &str, depth: usize, block: Duration) -> anyhow::Result<Loop> {
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
