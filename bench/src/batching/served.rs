//! Models behind a real server, over streams: rates, latencies, the ramp and overload.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;
use skysail_proto::pb::v1::{RegisterRequest, registry_client::RegistryClient};
use tempfile::TempDir;

use super::{
    Model, OBJECTIVE, Settings,
    probe::{Batches, Limits, ramp},
};
use crate::{
    arrivals::{Arrivals, Shape},
    load::{CONNECTING, Pace, Plan, run},
    process::ServerProcess,
    recorder::Tally,
    report::median,
    sleeper,
    target::{Api, TargetConfig, connect},
    workload::{Workload, WorkloadConfig},
};

/// One model.
#[derive(Debug, Serialize)]
pub struct Served {
    /// Which.
    pub model: Model,
    /// The fixed size with the highest rate.
    pub best_fixed_rows: usize,
    /// That rate: queries per second, the median of the repeats.
    pub best_fixed_per_s: f64,
    /// The highest rates of `aimd`, one per repeat.
    pub aimd_per_s: Vec<f64>,
    /// Latency at 90 % of the best fixed rate, over the objective; 10 where it is more, or none.
    pub p99_over_objective: Vec<f64>,
    /// Highest rate under `aimd` over that under the best fixed size.
    pub throughput_vs_best_fixed: Vec<f64>,
    /// From cold, in seconds.
    pub ramp_s: Vec<f64>,
    /// The same of `quantile`; one repeat.
    pub quantile_ramp_s: Vec<f64>,
    /// Goodput at three times the highest rate, over that at the highest rate.
    pub goodput_3x_overload: Vec<f64>,
    /// At 90 % of the best fixed rate.
    pub strategies: Vec<Figures>,
}

/// One strategy at 90 % of the best fixed rate; one entry per repeat.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// `aimd`, `quantile`, `none`, or the best fixed size.
    pub strategy: String,
    /// Over all offered; null where that is among those without an answer.
    pub p50_ms: Vec<Option<f64>>,
    /// The same.
    pub p99_ms: Vec<Option<f64>>,
    /// In time, per second.
    pub goodput_per_s: Vec<f64>,
    /// In time, of all offered.
    pub goodput_ratio: Vec<f64>,
    /// Rows per batch.
    pub mean_batch: Vec<f64>,
}

/// Ratio between neighbouring rates.
const STEP: f64 = 1.05;
const IN_TIME: f64 = 0.99;
/// Steps that a climb looks up or down from where it begins.
const REACH: i32 = 12;

pub(super) fn measure(settings: &Settings, model: Model) -> anyhow::Result<Served> {
    let mut world = World::start(settings, model)?;
    world.base = world.saturated()?;
    let (best, mut at) = world.best_fixed()?;
    let strategies = ["aimd", "quantile", best.as_str(), "none"];
    let mut served = Served {
        model: world.model.clone(),
        best_fixed_rows: best.parse()?,
        best_fixed_per_s: 0.0,
        aimd_per_s: Vec::new(),
        p99_over_objective: Vec::new(),
        throughput_vs_best_fixed: Vec::new(),
        ramp_s: Vec::new(),
        quantile_ramp_s: Vec::new(),
        goodput_3x_overload: Vec::new(),
        strategies: strategies
            .iter()
            .map(|name| Figures { strategy: (*name).to_owned(), ..Figures::default() })
            .collect(),
    };
    let mut fixed_rates = Vec::new();
    for repeat in 0..settings.repeats {
        world.seed = settings.seed.wrapping_add(repeat as u64);
        let order = if repeat % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut climbed = [(at, 0.0); 2];
        for side in order {
            let strategy = if side == 0 { best.as_str() } else { "aimd" };
            if let Some(slot) = climbed.get_mut(side) {
                *slot = world.climb(strategy, at)?;
            }
        }
        let [(fixed, _), (aimd, peak)] = climbed;
        at = fixed;
        fixed_rates.push(world.rate(fixed));
        served.aimd_per_s.push(world.rate(aimd));
        served.throughput_vs_best_fixed.push(world.rate(aimd) / world.rate(fixed));
        let overload = world.block("aimd", world.rate(aimd) * 3.0)?;
        served.goodput_3x_overload.push(overload.goodput_per_s / peak);
        let rate = world.rate(fixed) * 0.9;
        for figures in &mut served.strategies {
            world.add(figures, rate)?;
        }
        if let Some(p99) = served.strategies.first().and_then(|one| one.p99_ms.last()) {
            let over = p99.map_or(10.0, |ms| ms / 1e3 / OBJECTIVE.as_secs_f64());
            served.p99_over_objective.push(over.min(10.0));
        }
        served.ramp_s.push(world.ramp(&format!("cold-{repeat}"), world.rate(fixed) * 3.0)?);
    }
    served.quantile_ramp_s.push(world.ramp("cold-quantile", world.rate(at) * 3.0)?);
    served.best_fixed_per_s = median(&fixed_rates).context("no repeats")?;
    Ok(served)
}

/// A server with one model under every strategy, each under a name of its own.
struct World<'a> {
    settings: &'a Settings,
    model: Model,
    server: ServerProcess,
    _sleeper: Option<ServerProcess>,
    workload: Workload,
    /// Queries per second of step 0.
    base: f64,
    seed: u64,
    sent: u64,
}

impl<'a> World<'a> {
    fn start(settings: &'a Settings, model: Model) -> anyhow::Result<Self> {
        let mut batches: Vec<(String, String)> =
            model.sizes.iter().map(|size| (size.to_string(), size.to_string())).collect();
        for name in ["aimd", "quantile", "none"] {
            batches.push((name.into(), name.into()));
        }
        batches.push(("cold-quantile".into(), "quantile".into()));
        batches.extend((0..settings.repeats).map(|at| (format!("cold-{at}"), "aimd".into())));
        let folder = TempDir::new()?;
        let config = folder.path().join("skysail.toml");
        std::fs::write(&config, configuration(settings, &model, &batches)?)?;
        ensure!(settings.skysail.is_file(), "there is no {}", settings.skysail.display());
        let server = ServerProcess::skysail(&settings.skysail, &config, None)?;
        let sleeper = model
            .sleeper
            .map(|speed| ServerProcess::sleeper(&settings.program, speed))
            .transpose()?;
        if let Some(sleeper) = &sleeper {
            register(&server.address, &sleeper.address, &model, &batches)?;
        }
        let features = if model.sleeper.is_some() { sleeper::FEATURES } else { 784 };
        let workload = Workload::new(WorkloadConfig {
            application: String::new(),
            input_name: sleeper::INPUT.into(),
            features,
            rows: model.rows,
            seed: settings.seed,
            ..Default::default()
        })?;
        let seed = settings.seed;
        Ok(Self { settings, model, server, _sleeper: sleeper, workload, base: 0.0, seed, sent: 0 })
    }

    fn application(&self, strategy: &str) -> String {
        format!("{}-{strategy}", self.model.name)
    }

    fn rate(&self, at: i32) -> f64 {
        self.base * STEP.powi(at)
    }

    /// Queries per second that `aimd` answers when there are always some; the limit has been found
    /// afterwards.
    fn saturated(&mut self) -> anyhow::Result<f64> {
        let depth = 256 / self.model.rows;
        self.load("aimd", Pace::Closed(depth), self.block_length() * 2)?;
        Ok(self.load("aimd", Pace::Closed(depth), self.block_length())?.goodput_per_s)
    }

    /// The best of the fixed sizes, and the step of its rate. A size is climbed only if it does
    /// better than the best so far.
    fn best_fixed(&mut self) -> anyhow::Result<(String, i32)> {
        let mut best: Option<(String, i32)> = None;
        for size in self.model.sizes {
            let size = size.to_string();
            let at = match &best {
                None => self.climb(&size, -2)?.0,
                Some((_, least)) => {
                    let next = least + 1;
                    if !self.passes(&size, next)?.0 {
                        continue;
                    }
                    self.climb(&size, next + 1)?.0.max(next)
                }
            };
            best = Some((size, at));
        }
        best.context("there are no sizes")
    }

    /// The highest step with enough in time, looked for from `from` on, and its goodput.
    fn climb(&mut self, strategy: &str, from: i32) -> anyhow::Result<(i32, f64)> {
        let (passed, mut goodput) = self.passes(strategy, from)?;
        let mut at = from;
        if passed {
            while at < from + REACH {
                let (passed, next) = self.passes(strategy, at + 1)?;
                if !passed {
                    break;
                }
                (at, goodput) = (at + 1, next);
            }
        } else {
            while at > from - REACH {
                at -= 1;
                let (passed, next) = self.passes(strategy, at)?;
                goodput = next;
                if passed {
                    break;
                }
            }
        }
        Ok((at, goodput))
    }

    fn passes(&mut self, strategy: &str, at: i32) -> anyhow::Result<(bool, f64)> {
        let tally = self.block(strategy, self.rate(at))?;
        Ok((tally.goodput_ratio >= IN_TIME, tally.goodput_per_s))
    }

    fn add(&mut self, figures: &mut Figures, rate: f64) -> anyhow::Result<()> {
        let (http, model) = (self.server.http.clone(), self.application(&figures.strategy));
        let before = Batches::read(&http, &model)?;
        let tally = self.block(&figures.strategy, rate)?;
        figures.mean_batch.push(Batches::read(&http, &model)?.mean_since(&before));
        figures.p50_ms.push(tally.latency_ms.p50);
        figures.p99_ms.push(tally.latency_ms.p99);
        figures.goodput_per_s.push(tally.goodput_per_s);
        figures.goodput_ratio.push(tally.goodput_ratio);
        Ok(())
    }

    fn ramp(&mut self, strategy: &str, rate: f64) -> anyhow::Result<f64> {
        let limits = Limits::poll(&self.server.address, &self.application(strategy))?;
        let arrivals = Arrivals::new(Shape::Poisson, rate, 1.0, self.seed)?;
        let start = Instant::now() + CONNECTING;
        let long = Duration::from_secs(2).max(self.block_length());
        let loaded = self.load(strategy, Pace::Open(Box::new(arrivals)), long);
        let seen = limits.stop()?;
        loaded?;
        ramp(&seen, start).context("the server told no batch limit")
    }

    fn block_length(&self) -> Duration {
        self.settings.block * self.model.longer
    }

    fn block(&mut self, strategy: &str, rate: f64) -> anyhow::Result<Tally> {
        // Both sides of a repeat meet the same arrivals.
        let arrivals = Arrivals::new(Shape::Poisson, rate, 1.0, self.seed)?;
        self.load(strategy, Pace::Open(Box::new(arrivals)), self.block_length())
    }

    fn load(&mut self, strategy: &str, pace: Pace, block: Duration) -> anyhow::Result<Tally> {
        self.sent += 1;
        let workload = self.workload.with(0, self.sent << 32).asking(&self.application(strategy));
        let plan = Plan {
            target: TargetConfig {
                server: self.server.address.clone(),
                api: Api::PredictStream,
                connections: 2,
                streams: 4,
            },
            workload,
            pace,
            warm_up: block / 4,
            duration: block,
            drain: Duration::from_secs(1),
            objective: OBJECTIVE,
            max_in_flight: 20_000,
            server_pid: None,
            threads: self.settings.threads,
        };
        Ok(run(plan).with_context(|| format!("{} under {strategy}", self.model.name))?.tally)
    }
}

/// The server's file: each strategy's application, and its model where that is a file.
fn configuration(
    settings: &Settings,
    model: &Model,
    batches: &[(String, String)],
) -> anyhow::Result<String> {
    let mut text = String::new();
    let path = std::path::absolute(settings.models.join(format!("{}.onnx", model.name)))?;
    ensure!(
        model.sleeper.is_some() || path.is_file(),
        "there is no {}; bench/README.md says how to build it",
        path.display()
    );
    let (features, output) = match model.sleeper {
        Some(_) => (sleeper::FEATURES, sleeper::OUTPUT),
        None => (784, "label"),
    };
    for (name, batch) in batches {
        let name = format!("{}-{name}", model.name);
        if model.sleeper.is_none() {
            let batch = batch.parse::<usize>().map_or(format!("\"{batch}\""), |n| n.to_string());
            write!(
                text,
                "[[model]]\nname = \"{name}\"\nversion = \"1\"\npath = {path:?}\nbatch = {batch}\n"
            )?;
        }
        write!(
            text,
            r#"[[application]]
name = "{name}"
objective = "{}ms"
task = "opaque"
inputs = [{{ name = "input", datatype = "FP32", shape = [-1, {features}] }}]
outputs = [{{ name = "{output}", datatype = "INT64", shape = [-1] }}]
policy = {{ name = "static" }}
links = [{{ model = "{name}" }}]
cache = {{ enabled = false }}
"#,
            OBJECTIVE.as_millis()
        )?;
    }
    Ok(text)
}

/// Registers the sleeper once per strategy.
fn register(
    server: &str,
    address: &str,
    model: &Model,
    batches: &[(String, String)],
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = RegistryClient::new(connect(server).await?);
        for (name, batch) in batches {
            let request = RegisterRequest {
                model: format!("{}-{name}", model.name),
                version: "1".into(),
                address: address.into(),
                persistent: true,
                batch: batch.clone(),
                ..Default::default()
            };
            client.register(request).await.with_context(|| format!("registering {name}"))?;
        }
        Ok(())
    })
}
