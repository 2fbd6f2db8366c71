//! How cost grows: with models per application, applications, contexts, replicas, bytes of an input,
//! and connections. (With hours: see [`soak`](crate::soak).)
//!
//! Each size has a server of its own, all of an axis at a time. Closed blocks tell CPU per query, open
//! blocks at one modest rate tell latency, and `/proc` tells memory.

mod contexts;
mod scene;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;

pub use scene::Axis;
use scene::Scene;

use crate::{
    arrivals::{Arrivals, Shape},
    chart::{Chart, Line, write_beside},
    load::{Block, Pace, Plan, run},
    process::{Programs, ServerProcess},
    report::{Bar, figure, median, print_bars},
    resources::{Held, Watch, raise_descriptors},
    target::{Api, TargetConfig},
    workload::Workload,
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// A cheap ONNX model, FP32 `input` `[-1, 784]` to `label` and `probabilities`.
    pub model: PathBuf,
    /// What grows, and the sizes of each.
    pub axes: Vec<(Axis, Vec<u64>)>,
    /// Alternations.
    pub repeats: usize,
    /// What counts of a block.
    pub block: Duration,
    /// Threads of the generator.
    pub threads: usize,
    /// Arrivals and inputs are drawn from it.
    pub seed: u64,
    /// Where the charts go.
    pub charts: Option<PathBuf>,
}

/// One size; one entry per repeat.
#[derive(Debug, Serialize)]
pub struct Point {
    /// How many, or how large.
    pub at: u64,
    /// Of the server's process, in closed blocks.
    pub cpu_us_per_query: Vec<f64>,
    /// In closed blocks, answers.
    pub answered_per_s: Vec<f64>,
    /// In open blocks, from the intended start, over all offered; null where that is a miss.
    pub p50_ms: Vec<Option<f64>>,
    /// The same.
    pub p99_ms: Vec<Option<f64>>,
    /// Answers of all offered, in open blocks.
    pub answered_ratio: Vec<f64>,
    /// The most that the server held during the blocks.
    pub held: Held,
}

/// One axis.
#[derive(Debug, Serialize)]
pub struct Growth {
    /// What grows.
    pub axis: Axis,
    /// Queries per second of the open blocks.
    pub rate: f64,
    /// From small to large.
    pub points: Vec<Point>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By axis.
    pub axes: Vec<Growth>,
    /// The hard limit of open files, which bounds the connections; null for none.
    pub descriptors: Option<u64>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// Runs all axes.
///
/// # Errors
///
/// A program or the model is missing, or a server refuses.
pub fn measure(settings: &Settings) -> anyhow::Result<Report> {
    let descriptors = raise_descriptors()?;
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    let mut axes = Vec::new();
    for (axis, sizes) in &settings.axes {
        let mut sizes = sizes.clone();
        if let (Axis::Connections, Some(most)) = (axis, descriptors) {
            // The server and this program each have as many, and some of their own.
            let room = most.saturating_sub(200);
            if sizes.iter().any(|size| *size > room) {
                notes.push(format!(
                    "the hard limit of {most} open files leaves room for {room} connections"
                ));
                sizes.retain(|size| *size <= room);
            }
        }
        let growth = grow(settings, *axis, &sizes).with_context(|| axis.to_string())?;
        if let Some(folder) = &settings.charts {
            growth.chart(&folder.join(format!("growth-{axis}.svg")))?;
        }
        axes.push(growth);
    }
    Ok(Report { axes, descriptors, notes })
}

const NOTES: [&str; 3] = [
    "CPU per query is that of the whole server process, models in it included, in closed blocks; \
     every input is new, so nothing is answered from the cache",
    "models: each query asks all of them (hedge); applications, contexts, connections: each query \
     draws one; a context counts once it has had feedback; replicas are threads of the server",
    "input bytes: a container in another process answers at once, so each byte is also sent on",
];

/// Nothing here is to be refused for its time.
const OBJECTIVE: Duration = Duration::from_secs(2);

/// A server of one size.
struct World {
    scene: Scene,
    server: ServerProcess,
    _container: Option<ServerProcess>,
    workload: Workload,
    point: Point,
}

fn grow(settings: &Settings, axis: Axis, sizes: &[u64]) -> anyhow::Result<Growth> {
    let mut worlds = Vec::new();
    for size in sizes {
        worlds.push(World::start(settings, axis, *size)?);
    }
    let mut sent = 0_u64;
    for repeat in 0..settings.repeats.max(1) {
        let in_turn: Box<dyn Iterator<Item = &mut World>> = match repeat % 2 {
            0 => Box::new(worlds.iter_mut()),
            _ => Box::new(worlds.iter_mut().rev()),
        };
        for world in in_turn {
            let seed = settings.seed.wrapping_add(repeat as u64);
            sent += 2;
            let watch = Watch::start(world.server.pid())?;
            let closed = world.load(settings, Pace::Closed(world.scene.depth), sent)?;
            let arrivals = Arrivals::new(Shape::Poisson, axis.rate(), 1.0, seed)?;
            let open = world.load(settings, Pace::Open(Box::new(arrivals)), sent + 1)?;
            world.point.held = world.point.held.or(watch.stop()?);
            world.add(&closed, &open);
        }
    }
    let points = worlds.into_iter().map(|world| world.point).collect();
    Ok(Growth { axis, rate: axis.rate(), points })
}

impl World {
    fn start(settings: &Settings, axis: Axis, size: u64) -> anyhow::Result<Self> {
        let scene = Scene::new(axis, size, &settings.model)?;
        let (server, container) = scene.start(&settings.programs)?;
        if axis == Axis::Contexts {
            contexts::fill(&server.address, size)?;
        }
        let workload = scene.workload(settings.seed)?;
        let held = Held::of(server.pid())?;
        let point = Point {
            at: size,
            cpu_us_per_query: Vec::new(),
            answered_per_s: Vec::new(),
            p50_ms: Vec::new(),
            p99_ms: Vec::new(),
            answered_ratio: Vec::new(),
            held,
        };
        Ok(Self { scene, server, _container: container, workload, point })
    }

    fn load(&self, settings: &Settings, pace: Pace, sent: u64) -> anyhow::Result<Block> {
        let block = settings.block * self.scene.longer;
        let plan = Plan {
            target: TargetConfig {
                server: self.server.address.clone(),
                api: Api::Predict,
                connections: self.scene.connections,
                streams: 1,
            },
            workload: self.workload.with(0, sent << 32).over(self.scene.spread),
            pace,
            warm_up: block / 4,
            duration: block,
            drain: Duration::from_secs(2),
            objective: OBJECTIVE,
            max_in_flight: 20_000,
            server_pid: Some(self.server.pid()),
            threads: settings.threads,
        };
        let block = run(plan).with_context(|| format!("at {}", self.point.at))?;
        let (code, message) = block.tally.refusals.iter().next().unzip();
        anyhow::ensure!(
            block.tally.good + block.tally.late > 0,
            "at {} the server answered nothing: {code:?} {message:?}",
            self.point.at
        );
        Ok(block)
    }

    fn add(&mut self, closed: &Block, open: &Block) {
        let point = &mut self.point;
        point.cpu_us_per_query.extend(closed.cpu.server_us_per_reply);
        point.answered_per_s.push(closed.tally.answered_per_s);
        point.p50_ms.push(open.tally.latency_ms.p50);
        point.p99_ms.push(open.tally.latency_ms.p99);
        let answered = (open.tally.good + open.tally.late) as f64;
        point.answered_ratio.push(answered / open.tally.offered.max(1) as f64);
    }
}

fn answered(values: &[Option<f64>]) -> Option<f64> {
    // A repeat whose percentile is a miss is worse than all others.
    let values: Vec<f64> = values.iter().map(|value| value.unwrap_or(f64::INFINITY)).collect();
    median(&values).filter(|value| value.is_finite())
}

impl Growth {
    /// The largest size over the smallest, by repeat.
    fn ratios(&self, of: fn(&Point) -> Vec<f64>) -> Vec<f64> {
        let ends = self.points.first().zip(self.points.last());
        ends.map_or_else(Vec::new, |(first, last)| {
            of(last).iter().zip(of(first)).map(|(last, first)| last / first).collect()
        })
    }

    fn chart(&self, path: &Path) -> anyhow::Result<()> {
        let line = |name: &str, of: &dyn Fn(&Point) -> Option<f64>| Line {
            name: name.into(),
            points: self.points.iter().filter_map(|p| Some((p.at as f64, of(p)?))).collect(),
        };
        let chart = |title, y, lines: Vec<Line>| {
            let all = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
            let most = all.fold(0.0, f64::max);
            let range = (0.0, most * 1.25);
            Chart { title, x: self.axis.unit(), y, range, logarithmic: true, shaded: None, lines }
        };
        let cpu = line("CPU", &|point| median(&point.cpu_us_per_query));
        let p99 = line("p99", &|point| answered(&point.p99_ms));
        let p50 = line("p50", &|point| answered(&point.p50_ms));
        let memory = line("resident", &|point| Some(point.held.resident_mib()));
        write_beside(
            path,
            &[
                chart("Server CPU", "microseconds per query", vec![cpu]),
                chart("Latency", "milliseconds, open loop", vec![p99, p50]),
                chart("Memory of the server", "MiB", vec![memory]),
            ],
        )
    }
}

impl Report {
    /// How much dearer the largest size is than the smallest; there is no bar for it.
    pub fn bars(&self) -> Vec<Bar> {
        let of = |growth: &Growth| {
            let axis = growth.axis.name();
            let ratio = |what: &str, repeats| {
                Bar::new(&format!("{what}_growth_{axis}"), "ratio", None, repeats)
            };
            let finite = |point: &Point| {
                let values = point.p99_ms.iter();
                values.map(|value| value.unwrap_or(f64::INFINITY)).collect::<Vec<_>>()
            };
            [
                ratio("cpu", growth.ratios(|point| point.cpu_us_per_query.clone())),
                ratio("p99", growth.ratios(finite)),
                ratio("memory", growth.ratios(|point| vec![point.held.resident_mib()])),
            ]
        };
        self.axes.iter().flat_map(of).collect()
    }
}

/// Prints medians and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, report: &Report, bars: &[Bar]) -> io::Result<()> {
    for growth in &report.axes {
        writeln!(out, "{} (open blocks at {} /s)", growth.axis.unit(), figure(growth.rate))?;
        writeln!(
            out,
            "{:>10}{:>14}{:>12}{:>10}{:>10}{:>10}{:>10}{:>9}{:>13}",
            "",
            "CPU us/query",
            "closed /s",
            "p50 ms",
            "p99 ms",
            "answered",
            "MiB",
            "threads",
            "descriptors"
        )?;
        for point in &growth.points {
            let say = |value: Option<f64>| value.map_or_else(|| "none".into(), figure);
            writeln!(
                out,
                "{:>10}{:>14}{:>12}{:>10}{:>10}{:>10}{:>10}{:>9}{:>13}",
                point.at,
                say(median(&point.cpu_us_per_query)),
                say(median(&point.answered_per_s)),
                say(answered(&point.p50_ms)),
                say(answered(&point.p99_ms)),
                say(median(&point.answered_ratio)),
                figure(point.held.resident_mib()),
                point.held.threads,
                point.held.descriptors,
            )?;
        }
    }
    print_bars(out, bars)?;
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
