//! Stragglers: ensembles of one to sixteen models whose answers take a while, some of them long.
//! An application that waits for all, beside one that answers at its deadline with those present.

mod none_late;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use skysail_proto::pb::v1;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    chart::{Chart, Line},
    process::Programs,
    recorded::Recorded,
    replay::Delay,
    report::{Bar, Limit, figure, median, print_bars},
    selection::world::{Setup, World, answered, query},
    sleeper::wait_until,
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// A recording of sixteen models.
    pub recording: PathBuf,
    /// Ensemble sizes; the last one has the bar.
    pub sizes: Vec<usize>,
    /// Queries of a block, and how many a second.
    pub queries: usize,
    /// The same rate for every block.
    pub rate: f64,
    /// How long containers take.
    pub delay: Delay,
    /// The application that does not wait answers by then.
    pub objective: Duration,
    /// Blocks of each.
    pub repeats: usize,
    /// What the draws begin with.
    pub seed: u64,
    /// Where the chart goes.
    pub charts: Option<PathBuf>,
}

/// Both applications over one size; one entry per repeat.
#[derive(Debug, Serialize)]
pub struct Size {
    /// Models.
    pub models: usize,
    /// Waits for all.
    pub blocking: Vec<Block>,
    /// Answers at the deadline.
    pub deadline: Vec<Block>,
}

/// One block of load.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// From the intended start, over all offered queries; one without an answer counts as 10
    /// objectives.
    pub mean_ms: f64,
    /// The same.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Right answers of all offered.
    pub accuracy: f64,
    /// Chosen arms that were late, dropped or masked, of all arms.
    pub missing: f64,
    /// Queries without an answer.
    pub failed: usize,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By size.
    pub sizes: Vec<Size>,
    /// The objective in milliseconds.
    pub objective_ms: f64,
    /// Mean time of an answer over the mean of its slowest arm, where none is late.
    pub mean_vs_blocking_when_none_late: Vec<f64>,
}

/// Runs all of it.
///
/// # Errors
///
/// The recording is missing, or a process did not start.
pub fn measure(settings: &Settings) -> anyhow::Result<Report> {
    ensure!(
        settings.recording.is_file(),
        "there is no {}; bench/README.md says how to build it",
        settings.recording.display()
    );
    let recorded = Recorded::read(&settings.recording)?;
    let most = settings.sizes.iter().max().copied().unwrap_or_default();
    ensure!(most <= recorded.models.len(), "the recording has only {}", recorded.models.len());
    let runtime = Runtime::new()?;
    let mut sizes = Vec::new();
    for models in settings.sizes.iter().copied() {
        let mut size = Size { models, blocking: Vec::new(), deadline: Vec::new() };
        let start = |objective| {
            let setup = Setup {
                policy: "{ name = \"hedge\" }",
                objective,
                models: Some(models),
                apart: &[],
                delay: Some(settings.delay),
                // The generator and sixteen containers share the processors with the way out.
                cache: false,
                more: "slack = \"2ms\"",
            };
            runtime.block_on(World::start(&settings.programs, &recorded, &setup, settings.seed))
        };
        // One after the other: two servers would disturb each other.
        let waiting = start(Duration::from_secs(5))?;
        for repeat in 0..settings.repeats {
            let block = block(&runtime, &waiting, &recorded, models, settings, repeat)?;
            size.blocking.push(block);
        }
        drop(waiting);
        let punctual = start(settings.objective)?;
        for repeat in 0..settings.repeats {
            let block = block(&runtime, &punctual, &recorded, models, settings, repeat)?;
            size.deadline.push(block);
        }
        sizes.push(size);
    }
    let none_late = (0..settings.repeats)
        .map(|repeat| none_late::mean_vs_blocking(settings.seed.wrapping_add(repeat as u64)))
        .collect::<anyhow::Result<_>>()?;
    let report = Report {
        sizes,
        objective_ms: settings.objective.as_secs_f64() * 1e3,
        mean_vs_blocking_when_none_late: none_late,
    };
    if let Some(folder) = &settings.charts {
        report.chart(&folder.join("stragglers.svg"))?;
    }
    Ok(report)
}

/// Queries of a block that do not count: connections and predictions of time are made by them.
const WARM_UP: usize = 100;

fn block(
    runtime: &Runtime,
    world: &World,
    recorded: &Recorded,
    models: usize,
    settings: &Settings,
    repeat: usize,
) -> anyhow::Result<Block> {
    let mut rng = StdRng::seed_from_u64(settings.seed.wrapping_add(repeat as u64));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for place in 0..WARM_UP + settings.queries {
        let intended = start + Duration::from_secs_f64(place as f64 / settings.rate);
        let row = rng.random_range(0..recorded.rows());
        let truth = recorded.targets[row];
        let mut prediction = world.prediction();
        // On this thread, which has nothing else to do: the runtime's timer counts milliseconds.
        wait_until(intended);
        let answer = async move {
            let response = prediction.predict(query(row, "")).await;
            let took = intended.elapsed();
            let said = response.ok().map(|response| {
                let response = response.into_inner();
                (answered(&response) == Some(truth), used(&response))
            });
            (place, took, said)
        };
        tasks.spawn_on(answer, runtime.handle());
    }
    runtime.block_on(tally(tasks, models, settings))
}

/// What a query came to: its place, its time, and whether it was right and how many arms it used.
type Ended = (usize, Duration, Option<(bool, usize)>);

async fn tally(
    mut tasks: JoinSet<Ended>,
    models: usize,
    settings: &Settings,
) -> anyhow::Result<Block> {
    let (mut times, mut right, mut used, mut failed) = (Vec::new(), 0_usize, 0_usize, 0_usize);
    while let Some(ended) = tasks.join_next().await {
        let (place, took, said) = ended.context("a query's task ended early")?;
        if place < WARM_UP {
            continue;
        }
        let ms = took.as_secs_f64() * 1e3;
        match said {
            Some((is_right, arms)) => {
                times.push(ms);
                right += usize::from(is_right);
                used += arms;
            }
            None => {
                times.push(settings.objective.as_secs_f64() * 1e4);
                failed += 1;
            }
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let offered = times.len() as f64;
    Ok(Block {
        mean_ms: times.iter().sum::<f64>() / offered,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        accuracy: right as f64 / offered,
        missing: 1.0 - used as f64 / (offered * models as f64),
        failed,
    })
}

fn used(response: &v1::PredictResponse) -> usize {
    let used = |one: &&v1::Contribution| one.outcome() == v1::Outcome::Used;
    response.contributions.iter().filter(used).count()
}

impl Report {
    /// Each figure beside the bar that it must meet.
    pub fn bars(&self) -> Vec<Bar> {
        let largest = self.sizes.last().map(|size| size.deadline.as_slice()).unwrap_or_default();
        let over = largest.iter().map(|block| block.p99_ms / self.objective_ms).collect();
        vec![
            Bar::new("p99_over_objective_16_arms", "ratio", Some(Limit::AtMost(1.0)), over),
            Bar::new(
                "mean_vs_blocking_when_none_late",
                "ratio",
                Some(Limit::AtMost(1.05)),
                self.mean_vs_blocking_when_none_late.clone(),
            ),
        ]
    }

    fn chart(&self, path: &Path) -> anyhow::Result<()> {
        let line = |name: &str, of: &dyn Fn(&Size) -> Option<f64>| Line {
            name: name.to_owned(),
            points: self
                .sizes
                .iter()
                .filter_map(|size| Some((size.models as f64, of(size)?)))
                .collect(),
        };
        let of = |blocks: &[Block], what: fn(&Block) -> f64| {
            median(&blocks.iter().map(what).collect::<Vec<_>>())
        };
        let lines = vec![
            line("p99 at the deadline", &|size| of(&size.deadline, |b| b.p99_ms)),
            line("p99, waiting for all", &|size| of(&size.blocking, |b| b.p99_ms)),
            line("mean at the deadline", &|size| of(&size.deadline, |b| b.mean_ms)),
            line("mean, waiting for all", &|size| of(&size.blocking, |b| b.mean_ms)),
        ];
        let points = lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y));
        let most = points.fold(self.objective_ms, f64::max);
        Chart {
            title: "Latency by the size of the ensemble",
            x: "models",
            y: "milliseconds from the intended start",
            range: (0.0, most * 1.1),
            logarithmic: false,
            shaded: None,
            lines,
        }
        .write(path)
    }
}

/// Prints the table and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, report: &Report, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{:>7}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "models", "", "mean ms", "p50 ms", "p99 ms", "right", "missing"
    )?;
    for size in &report.sizes {
        for (name, blocks) in [("blocking", &size.blocking), ("deadline", &size.deadline)] {
            let of = |what: fn(&Block) -> f64| {
                let values: Vec<_> = blocks.iter().map(what).collect();
                median(&values).map_or_else(|| "none".into(), figure)
            };
            writeln!(
                out,
                "{:>7}{:>12}{:>10}{:>10}{:>10}{:>10}{:>10}",
                size.models,
                name,
                of(|block| block.mean_ms),
                of(|block| block.p50_ms),
                of(|block| block.p99_ms),
                of(|block| block.accuracy),
                of(|block| block.missing),
            )?;
        }
    }
    print_bars(out, bars)
}
