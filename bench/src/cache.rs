//! The prediction cache: what an answer from it costs, what it takes, and how throughput follows the
//! share of hits.
//!
//! The cost is that of the whole server, measured as in [`overhead`]; the store
//! alone is driven in process.

mod redis;
mod store;
mod sweep;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use serde::Serialize;

use crate::{
    load::{Pace, Plan},
    overhead::{self, Overhead},
    process::ServerProcess,
    report::{Bar, Limit, figure, print_bars},
    target::{Api, TargetConfig},
    workload::Workload,
};

pub use redis::Lost;
pub use store::Store;
pub use sweep::Step;

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The `skysail` binary.
    pub skysail: PathBuf,
    /// Its configuration: one cheap model behind one application.
    pub config: PathBuf,
    /// Folder of `bin/redis-server`.
    pub redis: PathBuf,
    /// The program whose `echo` is started.
    pub program: PathBuf,
    /// Alternations.
    pub repeats: usize,
    /// What counts of a block.
    pub block: Duration,
    /// Threads of the generator.
    pub threads: usize,
    /// Bound of the store that is filled, in bytes.
    pub store_bytes: u64,
    /// Arrivals and inputs are drawn from it.
    pub seed: u64,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Cache {
    /// Beside the echo.
    pub cost: Overhead,
    /// The store alone.
    pub store: Store,
    /// With a Redis that fails.
    pub lost: Lost,
    /// By the share of popular inputs.
    pub sweep: Vec<Step>,
    /// What a reader must know.
    pub notes: Vec<&'static str>,
}

const NOTES: [&str; 3] = [
    "CPU is that of the whole server process: records, metrics and the writing of both included",
    "the resident set is this process's; bytes_over_bound is what the store accounts to itself",
    "Clipper's gain is that of a Spark SVM, dearer than the model here, so that a hit saved more",
];

/// Queries under way in closed blocks.
const DEPTH: usize = 32;

/// Runs all of it.
///
/// # Errors
///
/// A server does not start, or refuses the workload.
pub fn measure(settings: &Settings, workload: &Workload) -> anyhow::Result<Cache> {
    let server = ServerProcess::skysail(&settings.skysail, &settings.config, None)?;
    let cost = overhead::measure(
        &overhead::Settings {
            server: server.address.clone(),
            server_pid: server.pid(),
            echo_program: settings.program.clone(),
            repeats: settings.repeats,
            block: settings.block,
            warm_up: settings.block / 5,
            depth: DEPTH,
            rate: None,
            threads: settings.threads,
            seed: settings.seed,
            model: None,
            twins: None,
        },
        workload,
    )?;
    let sweep = sweep::measure(settings, workload, &server)?;
    drop(server);
    let lost = redis::measure(settings, workload)?;
    let store = store::measure(settings.store_bytes, settings.repeats);
    Ok(Cache { cost, store, lost, sweep, notes: NOTES.to_vec() })
}

/// A block over one stream.
fn plan(settings: &Settings, workload: Workload, server: &ServerProcess, pace: Pace) -> Plan {
    Plan {
        target: TargetConfig {
            server: server.address.clone(),
            api: Api::PredictStream,
            connections: 1,
            streams: 1,
        },
        workload,
        pace,
        warm_up: settings.block / 5,
        duration: settings.block,
        drain: Duration::from_secs(2),
        objective: Duration::from_secs(1),
        max_in_flight: 20_000,
        server_pid: Some(server.pid()),
        threads: settings.threads,
    }
}

impl Cache {
    /// Each figure beside the bar that it must meet.
    pub fn bars(&self) -> Vec<Bar> {
        let cost = self.cost.bars();
        let renamed = |name: &str, from: &str, limit: f64| {
            let repeats = cost.iter().find(|bar| bar.name == from);
            let repeats = repeats.map(|bar| bar.repeats.clone()).unwrap_or_default();
            Bar::new(name, "ratio", Some(Limit::AtMost(limit)), repeats)
        };
        let at_most = |name: &str, unit, limit: f64, repeats: Vec<f64>| {
            Bar::new(name, unit, Some(Limit::AtMost(limit)), repeats)
        };
        let failed = self.lost.failed.iter().sum();
        vec![
            renamed("unary_cpu_vs_echo", "cpu_unary_cached_vs_echo", 1.25),
            renamed("stream_cpu_vs_echo", "cpu_stream_cached_vs_echo", 2.0),
            at_most("hit_ns", "ns", 1_000.0, self.store.hit_ns.clone()),
            at_most("bytes_over_bound", "ratio", 1.0, vec![self.store.bytes_over_bound]),
            at_most("resident_over_bound", "ratio", 1.25, vec![self.store.resident_over_bound]),
            at_most("redis_lost_p99_ratio", "ratio", 1.5, self.lost.p99_ratio.clone()),
            at_most("failed_queries_under_faults", "queries", 0.0, vec![failed]),
        ]
    }
}

/// Prints the sweep and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, cache: &Cache, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{:>10}{:>10}{:>14}{:>8}{:>10}{:>12}{:>12}{:>16}",
        "popular", "hits", "closed /s", "gain", "Clipper's", "p50 ms", "p99 ms", "CPU us/reply"
    )?;
    for step in &cache.sweep {
        writeln!(
            out,
            "{:>10.2}{:>10.3}{:>14}{:>8.2}{:>10.2}{:>12}{:>12}{:>16}",
            step.share,
            step.hit_rate,
            figure(step.answered_per_s),
            step.gain,
            step.clipper_gain,
            step.p50_ms.map_or_else(|| "none".into(), figure),
            step.p99_ms.map_or_else(|| "none".into(), figure),
            step.cpu_us_per_reply.map_or_else(|| "none".into(), figure),
        )?;
    }
    print_bars(out, bars)?;
    for note in &cache.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
