//! Containers alone: what batches take (Clipper's figure 3), what waiting for a fuller batch brings
//! (its figure 5), and what more replicas bring (its figure 6).

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use skysail_containers::Container;
use tokio::runtime::Runtime;

use super::{
    Settings,
    loops::{Kind, Loop, Variant, World},
};
use crate::{
    bare::{self, Batch},
    chart::{Chart, Line},
    process::ServerProcess,
    report::{Bar, figure, median},
    sleeper::{Sleeper, Speed},
};

/// As in Clipper's evaluation.
const OBJECTIVE: Duration = Duration::from_millis(20);
/// The largest batch that is tried.
const LARGEST: usize = 4_096;
/// Names of ONNX files beside the forest.
const MODELS: [&str; 7] = ["tree", "logreg", "linear-svm", "mlp", "forest", "cnn", "rbf-svm"];
/// A container that is cheap per row and dear per batch: Clipper's linear SVM.
const CHEAP: Speed = Speed { row: Duration::from_nanos(12_500), batch: Duration::from_millis(1) };
/// How long a free replica waits for company.
const WAITS_MS: [u64; 4] = [0, 1, 2, 4];
/// Queries under way while it is measured: too few to fill a batch.
const WAITING: usize = 64;
/// One that several replicas can run at once on a few processors, since it sleeps.
const SLOW: Speed = Speed { row: Duration::from_micros(500), batch: Duration::from_millis(5) };
const SLOW_OBJECTIVE: Duration = Duration::from_millis(100);
const REPLICAS: [usize; 3] = [1, 2, 4];
/// Queries under way per replica.
const PER_REPLICA: usize = 64;

/// A container's batches, from small to large.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Which.
    pub model: String,
    /// The largest one is the first whose p99 is above 20 ms.
    pub batches: Vec<Batch>,
    /// Of the line through the p99s, per row, in microseconds.
    pub row_us: f64,
    /// The same per batch.
    pub batch_us: f64,
    /// The largest batch seen with a p99 within 20 ms; 0 for none.
    pub largest_within: usize,
}

/// Closed loops over replicas.
#[derive(Clone, Debug, Serialize)]
pub struct Scaled {
    /// `threads` of this process, or `processes` behind sockets.
    pub kind: &'static str,
    /// How many.
    pub replicas: usize,
    /// One per repeat.
    pub loops: Vec<Loop>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Containers {
    /// By container.
    pub profiles: Vec<Profile>,
    /// By wait in milliseconds; loops by repeat.
    pub batch_wait: Vec<(u64, Vec<Loop>)>,
    /// By kind and number.
    pub replicas: Vec<Scaled>,
}

pub(super) fn measure(settings: &Settings) -> anyhow::Result<Containers> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(settings.threads.max(1))
        .enable_all()
        .build()?;
    let each = settings.block / 6;
    let zero = Speed { row: Duration::ZERO, batch: Duration::ZERO };
    let mut profiles = vec![profile("no-op", &mut Sleeper { speed: zero }, each)?];
    let folder = settings.forest.parent().unwrap_or(Path::new("."));
    for name in MODELS {
        let mut container = bare::onnx(&folder.join(format!("{name}.onnx")))?;
        profiles.push(profile(name, &mut container, each)?);
    }
    let containers = Containers {
        profiles,
        batch_wait: batch_wait(settings, &runtime)?,
        replicas: replicas(settings, &runtime)?,
    };
    if let Some(folder) = &settings.charts {
        containers.chart(&folder.join("batching-profiles.svg"))?;
    }
    Ok(containers)
}

fn profile(model: &str, container: &mut impl Container, each: Duration) -> anyhow::Result<Profile> {
    search(model, |rows| bare::batches(container, rows, each))
}

/// Doubles the batch until it is too slow, and halves the way back.
fn search(
    model: &str,
    mut batch_of: impl FnMut(usize) -> anyhow::Result<Batch>,
) -> anyhow::Result<Profile> {
    let limit = OBJECTIVE.as_secs_f64() * 1e3;
    let mut batches: Vec<Batch> = Vec::new();
    let mut rows = 1;
    while rows <= LARGEST {
        let batch = batch_of(rows)?;
        batches.push(batch);
        if batch.p99_ms > limit {
            break;
        }
        rows *= 2;
    }
    // Between the last one within the limit and the first one beyond it.
    let within = |batches: &[Batch]| {
        batches.iter().filter(|one| one.p99_ms <= limit).map(|one| one.rows).max().unwrap_or(0)
    };
    let mut above = batches.last().filter(|one| one.p99_ms > limit).map(|one| one.rows);
    while let Some(beyond) = above {
        let middle = usize::midpoint(within(&batches), beyond);
        if middle == within(&batches) || (beyond - middle) * 16 < beyond {
            break;
        }
        let batch = batch_of(middle)?;
        batches.push(batch);
        if batch.p99_ms > limit {
            above = Some(middle);
        }
    }
    batches.sort_by_key(|batch| batch.rows);
    let points: Vec<_> = batches.iter().map(|one| (one.rows as f64, one.p99_ms * 1e3)).collect();
    let (row_us, batch_us) = line(&points);
    let largest_within = within(&batches);
    Ok(Profile { model: model.into(), batches, row_us, batch_us, largest_within })
}

/// Slope and height at 0 of the line with the least squares.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let slope = mean(&|point| (point.0 - x) * (point.1 - y)) / mean(&|point| (point.0 - x).powi(2));
    (slope, y - slope * x)
}

fn batch_wait(settings: &Settings, runtime: &Runtime) -> anyhow::Result<Vec<(u64, Vec<Loop>)>> {
    let variants = WAITS_MS.map(|ms| {
        let variant = Variant::strategy("aimd")?;
        let (name, batch_wait) = (format!("wait-{ms}"), Duration::from_millis(ms));
        anyhow::Ok(Variant { name, batch_wait, ..variant })
    });
    let variants: Vec<_> = variants.into_iter().collect::<Result<_, _>>()?;
    let world = World::with(runtime, Kind::Sleeper(CHEAP), OBJECTIVE, &variants)?;
    let mut measured: Vec<_> = WAITS_MS.iter().map(|ms| (*ms, Vec::new())).collect();
    for _ in 0..settings.repeats {
        for (variant, (_, loops)) in variants.iter().zip(&mut measured) {
            loops.push(world.run(&variant.name, WAITING, settings.block)?);
        }
    }
    Ok(measured)
}

fn replicas(settings: &Settings, runtime: &Runtime) -> anyhow::Result<Vec<Scaled>> {
    let most = REPLICAS.into_iter().max().unwrap_or(1);
    let processes: Vec<_> = (0..most)
        .map(|_| ServerProcess::sleeper(&settings.program, SLOW))
        .collect::<Result<_, _>>()?;
    let mut worlds = Vec::new();
    for count in REPLICAS {
        let of = |replicas| anyhow::Ok([Variant { replicas, ..Variant::strategy("aimd")? }]);
        let threads = World::with(runtime, Kind::Sleeper(SLOW), SLOW_OBJECTIVE, &of(count)?)?;
        let own = processes.get(..count).context("as many were started")?;
        let remote = World::with(runtime, Kind::Remote(own), SLOW_OBJECTIVE, &of(1)?)?;
        for (kind, world) in [("threads", threads), ("processes", remote)] {
            worlds.push((Scaled { kind, replicas: count, loops: Vec::new() }, world));
        }
    }
    // A replica first has to learn how large its batches may be.
    for (scaled, world) in &worlds {
        world.run("aimd", PER_REPLICA * scaled.replicas, settings.block)?;
    }
    for _ in 0..settings.repeats {
        for (scaled, world) in &mut worlds {
            let depth = PER_REPLICA * scaled.replicas;
            scaled.loops.push(world.run("aimd", depth, settings.block)?);
        }
    }
    Ok(worlds.into_iter().map(|(scaled, _)| scaled).collect())
}

fn rates(loops: &[Loop]) -> Vec<f64> {
    loops.iter().map(|one| one.in_time_per_s).collect()
}

impl Containers {
    /// What is reported; Clipper's figures stand beside it.
    pub(super) fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        for kind in ["threads", "processes"] {
            let of = |count| {
                let mut all = self.replicas.iter();
                let found = all.find(|one| one.kind == kind && one.replicas == count);
                found.map(|one| rates(&one.loops)).unwrap_or_default()
            };
            let gains = of(4).iter().zip(of(1)).map(|(four, one)| four / one).collect();
            bars.push(Bar::new(&format!("replicas_gain_4_{kind}"), "ratio", None, gains));
        }
        let of = |ms| {
            let found = self.batch_wait.iter().find(|(wait, _)| *wait == ms);
            found.map(|(_, loops)| rates(loops)).unwrap_or_default()
        };
        let gains = of(2).iter().zip(of(0)).map(|(two, none)| two / none).collect();
        bars.push(Bar::new("batch_wait_gain", "ratio", None, gains));
        for profile in &self.profiles {
            let name = format!("largest_batch_{}", profile.model);
            bars.push(Bar::new(&name, "rows", None, vec![profile.largest_within as f64]));
        }
        bars
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "containers alone, the largest batch with a p99 within 20 ms:")?;
        for profile in &self.profiles {
            writeln!(
                out,
                "  {:<12}{:>8} rows; p99 = {} us a row + {} us",
                profile.model,
                profile.largest_within,
                figure(profile.row_us),
                figure(profile.batch_us)
            )?;
        }
        let middle = |loops: &[Loop]| median(&rates(loops)).map_or_else(|| "none".into(), figure);
        for (ms, loops) in &self.batch_wait {
            writeln!(out, "  batch_wait {ms} ms: {} /s in time", middle(loops))?;
        }
        for scaled in &self.replicas {
            let Scaled { kind, replicas, loops } = scaled;
            writeln!(out, "  {replicas} {kind}: {} /s in time", middle(loops))?;
        }
        Ok(())
    }

    fn chart(&self, path: &Path) -> anyhow::Result<()> {
        let line = |profile: &Profile| Line {
            name: profile.model.clone(),
            points: profile.batches.iter().map(|one| (one.rows as f64, one.p99_ms)).collect(),
        };
        Chart {
            title: "What a batch takes (objective 20 ms)",
            x: "rows of a batch",
            y: "p99 of a batch, milliseconds",
            range: (0.0, 25.0),
            logarithmic: true,
            shaded: None,
            lines: self.profiles.iter().map(line).collect(),
        }
        .write(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5 ms and 500 us a row.
    fn slow(rows: usize) -> anyhow::Result<Batch> {
        let p99_ms = 5.0 + 0.5 * rows as f64;
        Ok(Batch { rows, p50_ms: p99_ms, p99_ms, rows_per_s: rows as f64 / p99_ms * 1e3 })
    }

    #[test]
    fn the_largest_batch_within_the_limit_is_found_to_a_sixteenth() {
        let found = search("slow", slow).unwrap();
        assert!((28..=30).contains(&found.largest_within), "{found:?}");
        assert!((found.row_us - 500.0).abs() < 1e-6 && (found.batch_us - 5_000.0).abs() < 1e-6);
        assert!(found.batches.is_sorted_by_key(|batch| batch.rows));
    }

    #[test]
    fn a_model_that_is_never_in_time_has_no_batch_and_a_quick_one_the_largest() {
        let late = search("late", |rows| Ok(Batch { p99_ms: 30.0, ..slow(rows)? })).unwrap();
        assert_eq!((late.largest_within, late.batches.len()), (0, 1));
        let quick = search("quick", |rows| Ok(Batch { p99_ms: 0.1, ..slow(rows)? })).unwrap();
        assert_eq!(quick.largest_within, LARGEST);
    }

    #[test]
    fn the_line_goes_through_its_points() {
        let (slope, height) = line(&[(1.0, 7.0), (2.0, 9.0), (4.0, 13.0)]);
        assert!((slope - 2.0).abs() < 1e-9 && (height - 5.0).abs() < 1e-9);
    }
}
