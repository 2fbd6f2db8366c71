//! What no server on this machine can exceed: the bare echo, ONNX Runtime at its best batch, and
//! Redis with pipelining; and what share of the limit that binds it Skysail reaches.

mod redis;

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tempfile::TempDir;

pub use redis::Pipelining;

use crate::{
    bare::{self, Batch},
    echo,
    load::{Pace, Plan, run},
    process::{Programs, ServerProcess},
    report::{Bar, figure, median, print_bars},
    target::{Api, TargetConfig},
    workload::{Workload, WorkloadConfig},
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// ONNX models, FP32 `input` `[-1, 784]`.
    pub models: Vec<PathBuf>,
    /// Folder of `bin/redis-server`.
    pub redis: PathBuf,
    /// Alternations.
    pub repeats: usize,
    /// What counts of a block.
    pub block: Duration,
    /// Queries under way.
    pub depth: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Inputs are drawn from it.
    pub seed: u64,
}

/// Rates of one model, per repeat.
#[derive(Debug, Serialize)]
pub struct Model {
    /// The file's name.
    pub name: String,
    /// Bare, at its best batch.
    pub runtime: Vec<Batch>,
    /// Answers per second of Skysail to unary calls, every input new.
    pub unary_per_s: Vec<f64>,
    /// The same over a stream.
    pub stream_per_s: Vec<f64>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Limits {
    /// Answers per second of the bare echo to unary calls.
    pub echo_unary_per_s: Vec<f64>,
    /// The same over a stream.
    pub echo_stream_per_s: Vec<f64>,
    /// By model.
    pub models: Vec<Model>,
    /// Through the product's client, and on a bare socket.
    pub redis: Pipelining,
    /// Queries under way.
    pub depth: usize,
    /// What a reader must know.
    pub notes: Vec<&'static str>,
}

const NOTES: [&str; 3] = [
    "served over limit: answers per second over the smaller of the echo's over the same transport \
     and the bare runtime's rows per second at its best batch, in the same repeat",
    "one row a query, each input new; the bare runtime has one thread, as a replica has; server, \
     model and generator share the processors, the bare runtime has one to itself",
    "Redis: GETs of 300 bytes, 64 to a pipeline, over one connection that waits for each pipeline",
];

/// Runs all of it.
///
/// # Errors
///
/// A program or a model is missing, or a server refuses.
pub fn measure(settings: &Settings) -> anyhow::Result<Limits> {
    let programs = &settings.programs;
    ensure!(programs.skysail.is_file(), "there is no {}", programs.skysail.display());
    let folder = TempDir::new()?;
    let config = folder.path().join("skysail.toml");
    std::fs::write(&config, configuration(&settings.models)?)?;
    let server = ServerProcess::skysail(&programs.skysail, &config, None)?;
    let echo = ServerProcess::echo(&programs.bench, &echo::canned())?;
    let workload = workload(settings.seed)?;
    let mut containers = Vec::new();
    let mut models = Vec::new();
    for path in &settings.models {
        containers.push(bare::onnx(path)?);
        let (unary_per_s, stream_per_s) = (Vec::new(), Vec::new());
        models.push(Model { name: stem(path), runtime: Vec::new(), unary_per_s, stream_per_s });
    }
    let mut sent = 0_u64;
    let mut load = |at: &ServerProcess, api, application: &str| {
        sent += 1;
        let workload = workload.with(0, sent << 32).asking(application);
        answered(settings, at, api, workload)
    };
    let (mut unary, mut stream) = (Vec::new(), Vec::new());
    for _ in 0..settings.repeats.max(1) {
        unary.push(load(&echo, Api::Predict, "echo")?);
        stream.push(load(&echo, Api::PredictStream, "echo")?);
        for (model, container) in models.iter_mut().zip(&mut containers) {
            model.unary_per_s.push(load(&server, Api::Predict, &model.name)?);
            model.runtime.push(bare::best(container, settings.block / 6)?);
            model.stream_per_s.push(load(&server, Api::PredictStream, &model.name)?);
        }
    }
    let redis = redis::measure(&settings.redis, settings.repeats, settings.block)?;
    Ok(Limits {
        echo_unary_per_s: unary,
        echo_stream_per_s: stream,
        models,
        redis,
        depth: settings.depth,
        notes: NOTES.to_vec(),
    })
}

fn answered(
    settings: &Settings,
    server: &ServerProcess,
    api: Api,
    workload: Workload,
) -> anyhow::Result<f64> {
    let application = workload.config().application.clone();
    let block = run(Plan {
        target: TargetConfig { server: server.address.clone(), api, connections: 1, streams: 1 },
        workload,
        pace: Pace::Closed(settings.depth),
        warm_up: settings.block / 4,
        duration: settings.block,
        drain: Duration::from_secs(2),
        objective: Duration::from_secs(2),
        max_in_flight: 20_000,
        server_pid: Some(server.pid()),
        threads: settings.threads,
    });
    Ok(block.with_context(|| format!("{application} over {api:?}"))?.tally.answered_per_s)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn workload(seed: u64) -> anyhow::Result<Workload> {
    Workload::new(WorkloadConfig { application: String::new(), seed, ..Default::default() })
}

/// An application per model, named for it.
fn configuration(models: &[PathBuf]) -> anyhow::Result<String> {
    let mut text = String::new();
    for path in models {
        let name = stem(path);
        let path = std::path::absolute(path)?;
        write!(
            text,
            r#"[[model]]
name = "{name}"
version = "1"
path = {path:?}
[[application]]
name = "{name}"
objective = "2s"
task = "opaque"
policy = {{ name = "static" }}
links = [{{ model = "{name}" }}]
"#
        )?;
    }
    Ok(text)
}

/// What was served over what binds it, one per repeat.
pub fn share(served: &[f64], echo: &[f64], runtime: &[f64]) -> Vec<f64> {
    let limits = echo.iter().zip(runtime).map(|(echo, runtime)| echo.min(*runtime));
    served.iter().zip(limits).map(|(served, limit)| served / limit).collect()
}

impl Limits {
    /// Shares of limits; what is asked of them is a bar of `overhead`.
    pub fn bars(&self) -> Vec<Bar> {
        let mut bars = vec![
            Bar::new("echo_unary", "1/s", None, self.echo_unary_per_s.clone()),
            Bar::new("echo_stream", "1/s", None, self.echo_stream_per_s.clone()),
        ];
        for model in &self.models {
            let runtime: Vec<f64> = model.runtime.iter().map(|best| best.rows_per_s).collect();
            let (name, unary, stream) = (&model.name, &model.unary_per_s, &model.stream_per_s);
            let shares = [
                ("unary", share(unary, &self.echo_unary_per_s, &runtime)),
                ("stream", share(stream, &self.echo_stream_per_s, &runtime)),
            ];
            for (transport, shares) in shares {
                let name = format!("{transport}_vs_limit_{name}");
                bars.push(Bar::new(&name, "ratio", None, shares));
            }
        }
        let redis = self.redis.client_per_s.iter().zip(&self.redis.raw_per_s);
        let redis = redis.map(|(client, raw)| client / raw).collect();
        bars.push(Bar::new("redis_client_vs_raw", "ratio", None, redis));
        bars
    }
}

/// Prints medians and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, limits: &Limits, bars: &[Bar]) -> io::Result<()> {
    let say = |values: &[f64]| median(values).map_or_else(|| "none".into(), figure);
    writeln!(
        out,
        "per second, {} under way; bare echo: {} unary, {} over a stream",
        limits.depth,
        say(&limits.echo_unary_per_s),
        say(&limits.echo_stream_per_s)
    )?;
    writeln!(
        out,
        "{:<14}{:>12}{:>12}{:>12}{:>12}",
        "model", "runtime", "best batch", "unary", "stream"
    )?;
    for model in &limits.models {
        let rows: Vec<f64> = model.runtime.iter().map(|best| best.rows as f64).collect();
        let rates: Vec<f64> = model.runtime.iter().map(|best| best.rows_per_s).collect();
        writeln!(
            out,
            "{:<14}{:>12}{:>12}{:>12}{:>12}",
            model.name,
            say(&rates),
            say(&rows),
            say(&model.unary_per_s),
            say(&model.stream_per_s)
        )?;
    }
    writeln!(
        out,
        "Redis: {} /s on a bare socket, {} /s through the product's client",
        say(&limits.redis.raw_per_s),
        say(&limits.redis.client_per_s)
    )?;
    print_bars(out, bars)?;
    for note in &limits.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_smaller_limit_binds() {
        assert_eq!(share(&[90.0, 90.0], &[100.0, 1_000.0], &[1_000.0, 180.0]), [0.9, 0.5]);
    }
}
