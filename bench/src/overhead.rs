//! Skysail beside a bare gRPC echo of the same request and response bytes.
//!
//! The echo answers what the real server answered once, so the bytes are those of the product.
//! Within each repeat the sides take turns, in alternating order, since a machine's speed drifts;
//! every figure is a ratio of two blocks of one repeat, and the median of those is reported.

mod bars;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, bail};
use prost::Message as _;
use serde::Serialize;
use skysail_proto::pb::v1::{PredictResponse, prediction_client::PredictionClient};

use crate::{
    arrivals::{Arrivals, Shape},
    bare::{self, Batch},
    collector::Collector,
    load::{Block, Pace, Plan, run},
    process::ServerProcess,
    report::{Bar, figure, median, print_bars},
    target::{Api, TargetConfig, connect},
    workload::Workload,
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The real server.
    pub server: String,
    /// Its process.
    pub server_pid: u32,
    /// The program whose `echo` is started.
    pub echo_program: PathBuf,
    /// Alternations, at least 3 for a result that counts.
    pub repeats: usize,
    /// What counts of a block.
    pub block: Duration,
    /// Cut off at its front.
    pub warm_up: Duration,
    /// Queries under way in closed blocks.
    pub depth: usize,
    /// Queries per second in open blocks; `None`: half of the slowest side's throughput.
    pub rate: Option<f64>,
    /// Threads of the generator.
    pub threads: usize,
    /// Arrivals are drawn from it.
    pub seed: u64,
    /// The model behind the application; `None`: nothing is compared with the bare runtime.
    pub model: Option<PathBuf>,
    /// `None`: the cost of telemetry is not measured.
    pub twins: Option<Twins>,
}

/// The same server twice. Neither is asked anything but the same, so that they differ in nothing
/// else: what was new fills a cache, which makes a hit dearer.
#[derive(Debug)]
pub struct Twins {
    /// With metrics, and one query in a hundred traced to the collector.
    pub told: ServerProcess,
    /// With neither.
    pub quiet: ServerProcess,
    /// In this process: what it costs is not the server's.
    pub collector: Collector,
}

/// The highest rate that is chosen for open blocks by itself: gaps stay longer than a sleeping
/// thread's lag, so that latencies are the servers'.
const HIGHEST_RATE: f64 = 2_000.0;

/// Who answers, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The bare echo.
    Echo,
    /// Skysail, asked the same again and again.
    Cached,
    /// Skysail, asked something new each time.
    Uncached,
    /// One that is asked nothing else, with metrics and traces.
    Told,
    /// Another one, without.
    Quiet,
}

impl Side {
    fn is_twin(self) -> bool {
        matches!(self, Self::Told | Self::Quiet)
    }
}

const SIDES: [Side; 5] = [Side::Echo, Side::Cached, Side::Told, Side::Quiet, Side::Uncached];

/// Unary calls or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A call per query.
    Unary,
    /// One stream.
    Stream,
}

/// All blocks of one kind, one per repeat.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Unary or stream.
    pub transport: Transport,
    /// Who answered.
    pub side: Side,
    /// Closed blocks tell throughput and cost.
    pub closed: Vec<Block>,
    /// Open blocks, all sides at one rate, tell latency.
    pub open: Vec<Block>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Overhead {
    /// Bytes of a request, encoded.
    pub request_bytes: usize,
    /// Bytes of a response, encoded: the cached one, which the echo repeats.
    pub response_bytes: usize,
    /// Models that the answer which the echo repeats was made from; the cost of a query grows with
    /// them, the echo's does not.
    pub arms: usize,
    /// How many of them answered from the cache. All of them, or the cached side is not cached.
    pub cached_arms: usize,
    /// Queries under way in closed blocks.
    pub depth: usize,
    /// Queries per second of the open blocks over unary calls and over a stream.
    pub open_rates: Vec<(Transport, f64)>,
    /// The blocks.
    pub series: Vec<Series>,
    /// The model's container alone, at its best batch, one per repeat.
    pub runtime: Vec<Batch>,
    /// Spans that came from the server with telemetry.
    pub spans: u64,
    /// What a reader must know.
    pub notes: Vec<&'static str>,
}

/// Runs all blocks.
///
/// # Errors
///
/// A server cannot be reached, or the real one refuses the workload.
pub fn measure(settings: &Settings, workload: &Workload) -> anyhow::Result<Overhead> {
    let canned = capture(&settings.server, workload)?;
    let echo = ServerProcess::echo(&settings.echo_program, &canned)?;
    let mut blocks = Blocks { settings, workload, echo: &echo, sent: 0 };
    let mut overhead = Overhead {
        request_bytes: workload.predict(0).encoded_len(),
        response_bytes: canned.encoded_len(),
        arms: canned.contributions.len(),
        cached_arms: canned.contributions.iter().filter(|one| one.cached).count(),
        depth: settings.depth,
        open_rates: Vec::new(),
        series: Vec::new(),
        runtime: Vec::new(),
        spans: 0,
        notes: bars::NOTES.to_vec(),
    };
    if let Some(model) = &settings.model {
        let mut container = bare::onnx(model)?;
        for _ in 0..settings.repeats.max(1) {
            overhead.runtime.push(bare::best(&mut container, settings.block / 6)?);
        }
    }
    let sides = || SIDES.into_iter().filter(|side| !side.is_twin() || settings.twins.is_some());
    for transport in [Transport::Unary, Transport::Stream] {
        let mut series: Vec<_> = sides()
            .map(|side| Series { transport, side, closed: Vec::new(), open: Vec::new() })
            .collect();
        let mut rate = settings.rate;
        for repeat in 0..settings.repeats.max(1) {
            for series in in_turn(&mut series, repeat) {
                series.closed.push(blocks.closed(transport, series.side)?);
            }
            // All sides at one rate; the first closed blocks tell what all of them can do.
            let rate = *rate.get_or_insert_with(|| half_of_the_slowest(&series));
            for series in in_turn(&mut series, repeat) {
                series.open.push(blocks.open(transport, series.side, rate, repeat)?);
            }
        }
        overhead.open_rates.push((transport, rate.unwrap_or_default()));
        overhead.series.extend(series);
    }
    if let Some(twins) = &settings.twins {
        overhead.spans = twins.collector.spans();
    }
    Ok(overhead)
}

/// Forwards in even repeats, backwards in odd ones.
fn in_turn(series: &mut [Series], repeat: usize) -> Box<dyn Iterator<Item = &mut Series> + '_> {
    if repeat.is_multiple_of(2) {
        Box::new(series.iter_mut())
    } else {
        Box::new(series.iter_mut().rev())
    }
}

fn half_of_the_slowest(series: &[Series]) -> f64 {
    let rates = series.iter().flat_map(|series| &series.closed).map(|b| b.tally.answered_per_s);
    (rates.fold(f64::INFINITY, f64::min) / 2.0).clamp(1.0, HIGHEST_RATE)
}

struct Blocks<'a> {
    settings: &'a Settings,
    workload: &'a Workload,
    echo: &'a ServerProcess,
    /// Blocks so far: each counts its unique inputs from elsewhere.
    sent: u64,
}

impl Blocks<'_> {
    fn closed(&mut self, transport: Transport, side: Side) -> anyhow::Result<Block> {
        self.run(transport, side, Pace::Closed(self.settings.depth))
    }

    fn open(
        &mut self,
        transport: Transport,
        side: Side,
        rate: f64,
        repeat: usize,
    ) -> anyhow::Result<Block> {
        // Both sides of a repeat meet the same arrivals.
        let seed = self.settings.seed.wrapping_add(repeat as u64);
        let arrivals = Arrivals::new(Shape::Poisson, rate, 1.0, seed)?;
        self.run(transport, side, Pace::Open(Box::new(arrivals)))
    }

    fn run(&mut self, transport: Transport, side: Side, pace: Pace) -> anyhow::Result<Block> {
        let (server, pid) = match side {
            Side::Echo => (self.echo.address.clone(), self.echo.pid()),
            Side::Cached | Side::Uncached => {
                (self.settings.server.clone(), self.settings.server_pid)
            }
            Side::Told | Side::Quiet => {
                let twins = self.settings.twins.as_ref().context("there is no such server")?;
                let twin = if side == Side::Told { &twins.told } else { &twins.quiet };
                (twin.address.clone(), twin.pid())
            }
        };
        let repeat = usize::from(side != Side::Uncached);
        self.sent += 1;
        let unique_from = self.workload.config().unique_from.wrapping_add(self.sent << 32);
        let plan = Plan {
            target: TargetConfig {
                server,
                api: match transport {
                    Transport::Unary => Api::Predict,
                    Transport::Stream => Api::PredictStream,
                },
                connections: 1,
                streams: 1,
            },
            workload: self.workload.with(repeat, unique_from),
            pace,
            warm_up: self.settings.warm_up,
            duration: self.settings.block,
            drain: Duration::from_secs(2),
            objective: Duration::from_secs(1),
            max_in_flight: 20_000,
            server_pid: Some(pid),
            threads: self.settings.threads,
        };
        run(plan).with_context(|| format!("{transport:?} {side:?}"))
    }
}

/// Asks the real server twice, and takes the second answer, which is from its cache.
fn capture(server: &str, workload: &Workload) -> anyhow::Result<PredictResponse> {
    let workload = workload.with(1, 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = PredictionClient::new(connect(server).await?);
        let mut captured = None;
        for sequence in 0..2 {
            match client.predict(workload.predict(sequence)).await {
                Ok(response) => captured = Some(response.into_inner()),
                Err(status) => bail!(
                    "{server} refuses the workload: {}: {}",
                    crate::recorder::code_name(status.code()),
                    status.message()
                ),
            }
        }
        captured.context("two queries were sent")
    })
}

impl Overhead {
    /// Each figure beside the bar that it must meet.
    pub fn bars(&self) -> Vec<Bar> {
        bars::of(self)
    }

    fn series(&self, transport: Transport, side: Side) -> Option<&Series> {
        self.series.iter().find(|one| one.transport == transport && one.side == side)
    }
}

/// Prints medians, and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, overhead: &Overhead, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{} bytes a request, {} a response; {} arms, {} cached; medians; closed: {} under way",
        overhead.request_bytes,
        overhead.response_bytes,
        overhead.arms,
        overhead.cached_arms,
        overhead.depth
    )?;
    if overhead.cached_arms < overhead.arms {
        writeln!(out, "NOTE: the cached side was not answered from the cache alone")?;
    }
    for (transport, rate) in &overhead.open_rates {
        writeln!(out, "open blocks over {transport:?}: {} /s, Poisson", figure(*rate))?;
    }
    writeln!(
        out,
        "{:<18}{:>12}{:>14}{:>14}{:>10}{:>10}{:>12}{:>10}",
        "", "closed /s", "CPU us/reply", "open us/reply", "p50 ms", "p99 ms", "answered", "others"
    )?;
    for series in &overhead.series {
        let over = |blocks: &[Block], value: &dyn Fn(&Block) -> Option<f64>| {
            let values: Vec<f64> = blocks.iter().filter_map(value).collect();
            median(&values).map_or_else(|| "none".into(), figure)
        };
        let answered = |b: &Block| {
            let all = b.tally.offered.max(1) as f64;
            Some((b.tally.good + b.tally.late) as f64 / all)
        };
        writeln!(
            out,
            "{:<18}{:>12}{:>14}{:>14}{:>10}{:>10}{:>12}{:>10}",
            format!("{:?} {:?}", series.transport, series.side),
            over(&series.closed, &|b| Some(b.tally.answered_per_s)),
            over(&series.closed, &|b| b.cpu.server_us_per_reply),
            over(&series.open, &|b| b.cpu.server_us_per_reply),
            over(&series.open, &|b| b.tally.answered_from_sent_ms.p50),
            over(&series.open, &|b| b.tally.answered_from_sent_ms.p99),
            over(&series.closed, &answered),
            over(&series.closed, &|b| b.cpu.foreign_cores),
        )?;
    }
    print_bars(out, bars)?;
    for note in &overhead.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
