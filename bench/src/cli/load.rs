//! `skysail-bench load`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use serde_json::json;

use super::{Common, RequestArgs, default_threads};
use crate::{
    arrivals::{Arrivals, Shape},
    load::{Pace, Plan, run},
    report::{Bar, Report, print_block},
    target::{Api, TargetConfig},
    trace::{Inside, Trace},
};

/// Options of `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    pace: PaceArgs,
    /// `host:port` or `unix:/path`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    server: String,
    /// What to call.
    #[arg(long, value_enum, default_value_t = Api::Predict)]
    api: Api,
    /// TCP connections; queries take turns.
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: usize,
    /// Streams, shared out over the connections.
    #[arg(long, value_name = "N", default_value_t = 1)]
    streams: usize,
    /// Distinct inputs; 1 asks the same again and again, 0 makes each request unique.
    #[arg(long, value_name = "K", default_value_t = 0)]
    repeat: usize,
    /// An answer later than this, from its intended start, is late.
    #[arg(long, value_name = "TIME", default_value = "100ms",
          value_parser = humantime::parse_duration)]
    objective: Duration,
    /// What counts, after the warm-up; 5s with --quick, 30s with --full, else 10s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Cut off at the front; a fifth of the duration unless given.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    warm_up: Option<Duration>,
    /// How long answers are waited for at the end.
    #[arg(long, value_name = "TIME", default_value = "5s",
          value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Beyond as many under way, an arrival is not sent and counts as a miss.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    max_in_flight: usize,
    /// The server's process: its CPU per reply is reported.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// When queries come.
#[derive(Debug, Args)]
struct PaceArgs {
    /// Queries per second.
    #[arg(long, value_name = "PER_S", default_value_t = 1_000.0)]
    rate: f64,
    /// Gaps between arrivals.
    #[arg(long, value_enum, default_value_t = Shape::Poisson)]
    arrivals: Shape,
    /// Coefficient of variation of gamma gaps.
    #[arg(long, value_name = "CV", default_value_t = 2.0)]
    cv: f64,
    /// Closed loop: so many queries are under way all the time.
    #[arg(long, value_name = "N", conflicts_with_all = ["trace", "rate", "arrivals"])]
    closed: Option<usize>,
    /// Replays counts per bin (.npz, .csv, .csv.gz), also from `DATA/traces/`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "arrivals"])]
    trace: Option<PathBuf>,
    /// How many times as fast; the rate grows by as much.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "trace")]
    speedup: f64,
    /// Length of the trace's bins, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, requires = "trace")]
    bin: f64,
    /// Where in the trace to begin, seconds of the trace.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, requires = "trace")]
    trace_start: f64,
    /// Cuts out runs of at least so many empty bins; 0 cuts none.
    #[arg(long, value_name = "BINS", default_value_t = 0, requires = "trace")]
    mask_gaps: usize,
    /// How times inside a bin are drawn.
    #[arg(long, value_enum, default_value_t = Inside::Uniform, requires = "trace")]
    inside: Inside,
}

impl LoadArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (pace, told) = self.pace.pace(&self.common)?;
        let duration = self.duration.unwrap_or_else(|| {
            self.common.choose(
                Duration::from_secs(5),
                Duration::from_secs(10),
                Duration::from_secs(30),
            )
        });
        let workload = self.request.workload(self.repeat, self.common.seed)?;
        let request_bytes = workload.input_bytes();
        let block = run(Plan {
            target: TargetConfig {
                server: self.server.clone(),
                api: self.api,
                connections: self.connections,
                streams: self.streams,
            },
            workload,
            pace,
            warm_up: self.warm_up.unwrap_or(duration / 5),
            duration,
            drain: self.drain,
            objective: self.objective,
            max_in_flight: self.max_in_flight,
            server_pid: self.pid,
            threads: self.threads.unwrap_or_else(default_threads),
        })?;
        let mut out = io::stdout().lock();
        writeln!(out, "{:?} at {}; {told}; {request_bytes} bytes of input", self.api, self.server)?;
        print_block(&mut out, &block)?;
        let reported = |name: &str, unit, value: Option<f64>| {
            Bar::new(name, unit, None, value.into_iter().collect())
        };
        let tally = &block.tally;
        let bars = vec![
            reported("goodput_ratio", "ratio", Some(tally.goodput_ratio)),
            reported("answered_per_s", "1/s", Some(tally.answered_per_s)),
            reported("latency_p50", "ms", tally.latency_ms.p50),
            reported("latency_p99", "ms", tally.latency_ms.p99),
            reported("server_cpu_per_reply", "us", block.cpu.server_us_per_reply),
        ];
        let results = json!({ "arrivals": told, "input_bytes": request_bytes, "block": block });
        self.common.write("load", &Report::new(self.common.seed, results, bars))
    }
}

impl PaceArgs {
    /// The pace, and how a result tells of it.
    fn pace(&self, common: &Common) -> anyhow::Result<(Pace, String)> {
        if let Some(depth) = self.closed {
            return Ok((Pace::Closed(depth), format!("closed loop, {depth} under way")));
        }
        let Some(path) = &self.trace else {
            let arrivals = Arrivals::new(self.arrivals, self.rate, self.cv, common.seed)?;
            let cv = match self.arrivals {
                Shape::Gamma => format!(", CV {}", self.cv),
                Shape::Poisson | Shape::Constant => String::new(),
            };
            let told = format!("open loop, {:?}{cv}, {} /s", self.arrivals, self.rate);
            return Ok((Pace::Open(Box::new(arrivals)), told));
        };
        let path = Trace::find(path, common.data.as_deref());
        let trace = Trace::read(&path, self.bin)?
            .without_gaps(self.mask_gaps)
            .from_second(self.trace_start)?;
        let arrivals = Arrivals::replay(trace, self.speedup, self.inside, common.seed)?;
        let told = format!(
            "open loop, replay of {} from second {} at {} times its speed; the trace has counts \
             per {} s, times inside are synthesised ({:?})",
            path.display(),
            self.trace_start,
            self.speedup,
            self.bin,
            self.inside
        );
        Ok((Pace::Open(Box::new(arrivals)), told))
    }
}
