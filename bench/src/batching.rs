//! Adaptive batching beside fixed batches and none.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use serde::Serialize;

use crate::{
    report::{Bar, Limit, figure, median},
    sleeper::Speed,
};

mod containers;
mod loops;
mod probe;
mod seam;
mod served;

pub use containers::{Containers, Profile, Scaled};
pub use loops::Loop;
pub use seam::Seam;
pub use served::{Figures, Served};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The `skysail` binary.
    pub skysail: PathBuf,
    /// The program whose `sleeper` is started.
    pub program: PathBuf,
    /// What is measured.
    pub parts: Vec<Part>,
    /// Folder of `rbf-svm.onnx` and `lenet.onnx`.
    pub models: PathBuf,
    /// The random forest's ONNX file.
    pub forest: PathBuf,
    /// Where charts go.
    pub charts: Option<PathBuf>,
    /// The ONNX Runtime library, where it is not found beside the program.
    pub onnx_runtime: Option<PathBuf>,
    /// Alternations, at least 3 for a result that counts.
    pub repeats: usize,
    /// What counts of a block.
    pub block: Duration,
    /// Threads of the generator.
    pub threads: usize,
    /// Arrivals are drawn from it.
    pub seed: u64,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// At the model seam: very cheap models, the forest, lone queries.
    Seam,
    /// Containers alone: profiles, waits for fuller batches, replicas.
    Containers,
    /// A container that sleeps, over streams.
    Sleeping,
    /// LeNet, over streams.
    Lenet,
    /// An RBF SVM of 10,000 images, over streams.
    RbfSvm,
}

/// A model behind a server.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// The container in a process of its own; `None`: the ONNX file of that name.
    #[serde(skip)]
    pub sleeper: Option<Speed>,
    /// Rows of a query. Several where one row costs less than ten times its transport.
    pub rows: usize,
    /// Fixed sizes, the likely best first.
    pub sizes: [usize; 6],
    /// Its blocks are so many times as long, where a second holds few queries.
    pub longer: u32,
}

/// Of all models: the latency that a query may take.
pub const OBJECTIVE: Duration = Duration::from_millis(100);

impl Part {
    /// What it serves; none for the seam.
    fn model(self) -> Option<Model> {
        match self {
            Self::Seam | Self::Containers => None,
            Self::Sleeping => Some(Model {
                name: "sleeping",
                sleeper: Some(Speed {
                    row: Duration::from_micros(500),
                    batch: Duration::from_millis(5),
                }),
                rows: 1,
                sizes: [64, 96, 32, 128, 16, 8],
                longer: 1,
            }),
            Self::Lenet => Some(Model {
                name: "lenet",
                sleeper: None,
                rows: 4,
                sizes: [64, 128, 256, 32, 16, 8],
                longer: 1,
            }),
            Self::RbfSvm => Some(Model {
                name: "rbf-svm",
                sleeper: None,
                rows: 1,
                sizes: [4, 2, 8, 1, 16, 32],
                longer: 3,
            }),
        }
    }
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Batching {
    /// At the model seam.
    pub seam: Option<Seam>,
    /// Containers alone.
    pub containers: Option<Containers>,
    /// Behind a server.
    pub served: Vec<Served>,
    /// What a reader must know.
    pub notes: Vec<&'static str>,
    /// The paper's figures, for comparison.
    pub clipper: serde_json::Value,
}

/// Measures every part.
///
/// # Errors
///
/// A program or a model is missing, or a server refuses.
pub fn measure(settings: &Settings) -> anyhow::Result<Batching> {
    let seam = settings.parts.contains(&Part::Seam);
    let seam = seam.then(|| seam::measure(settings)).transpose()?;
    let containers = settings.parts.contains(&Part::Containers);
    let containers = containers.then(|| containers::measure(settings)).transpose()?;
    let models = settings.parts.iter().filter_map(|part| part.model());
    let served = models.map(|model| served::measure(settings, model)).collect::<Result<_, _>>()?;
    let clipper = serde_json::json!({
        "source": "figure 4 of the Clipper paper (NSDI 2017): rate of AIMD over that of no batching, \
                   objective 20 ms; p99 is of a batch, queue wait left out",
        "gain_over_none": {
            "no-op": 5.4, "logistic regression": 24.6, "linear SVM": 25.5, "linear SVM, Spark": 4.1,
            "random forest": 72, "kernel SVM": 0.98,
        },
        "p99_over_objective": {
            "no-op": 1.02, "logistic regression": 1.03, "linear SVM": 1.01,
            "linear SVM, Spark": 1.04, "random forest": 1.04, "kernel SVM": 1.44,
        },
        "ramp_s": { "least": 2.7, "most": 6.3 },
        "largest_batch_within_20_ms": {
            "source": "figure 3, largest of several runs",
            "no-op": 1441, "logistic regression": 1455, "linear SVM": 1373, "random forest": 529,
            "kernel SVM": 4,
        },
        "batch_wait_gain": { "linear SVM, 2 ms": 3.35, "linear SVM, Spark, 2 ms": 1.01 },
        "replicas_gain": { "2": 1.98, "3": 2.96, "4": 3.96 },
    });
    Ok(Batching { seam, containers, served, notes: NOTES.to_vec(), clipper })
}

const NOTES: [&str; 4] = [
    "rates are open loop, Poisson, over streams; latency runs from the intended start and over all \
     offered queries, a refusal being a miss",
    "best fixed: the highest rate, in steps of 5 %, at which at least 99 % are in time, over six \
     sizes; the ratio compares it with aimd in turns, in each repeat again",
    "ramp: from the first arrival, at three times the best rate so that batches fill the limit, until \
     the limit stays at 90 % of its final median or above",
    "where a repeat is one figure for several models, it is that of the worst",
];

impl Batching {
    /// Each figure beside what it must be.
    pub fn bars(&self) -> Vec<Bar> {
        let worst = |of: &dyn Fn(&Served) -> &Vec<f64>, worse: fn(f64, f64) -> f64| {
            let repeats = self.served.iter().map(|served| of(served).len()).min().unwrap_or(0);
            let at = |repeat: usize| {
                let values = self.served.iter().filter_map(|served| of(served).get(repeat));
                values.copied().reduce(worse).unwrap_or(f64::NAN)
            };
            (0..repeats).map(at).collect::<Vec<f64>>()
        };
        let seam = |of: &dyn Fn(&Seam) -> &Vec<f64>| self.seam.as_ref().map(of).cloned();
        let (most, least) = (Some(Limit::AtMost(1.0)), Some(Limit::AtLeast(0.9)));
        let p99 = worst(&|one| &one.p99_over_objective, f64::max);
        let throughput = worst(&|one| &one.throughput_vs_best_fixed, f64::min);
        let ramp = worst(&|one| &one.ramp_s, f64::max);
        let overload = worst(&|one| &one.goodput_3x_overload, f64::min);
        let gain = seam(&|one| &one.gain_over_none).unwrap_or_default();
        let forest = seam(&|one| &one.forest_vs_best_fixed).unwrap_or_default();
        let lone = seam(&|one| &one.lone_query_added_us).unwrap_or_default();
        let mut bars = vec![
            Bar::new("p99_over_objective", "ratio", most, p99),
            Bar::new("throughput_vs_best_fixed", "ratio", least, throughput),
            Bar::new("ramp_s", "s", Some(Limit::AtMost(0.5)), ramp),
            Bar::new("goodput_3x_overload", "ratio", least, overload),
            Bar::new("gain_over_none", "ratio", Some(Limit::AtLeast(25.0)), gain),
            Bar::new("forest_vs_best_fixed", "ratio", least, forest),
            Bar::new("lone_query_added_us", "us", None, lone),
        ];
        bars.extend(self.containers.iter().flat_map(Containers::bars));
        bars
    }
}

/// Prints medians.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, batching: &Batching) -> io::Result<()> {
    for served in &batching.served {
        writeln!(
            out,
            "{}: best fixed {} rows, {} queries/s; at 90 % of that, medians of {} repeats:",
            served.model.name,
            served.best_fixed_rows,
            figure(served.best_fixed_per_s),
            served.ramp_s.len()
        )?;
        writeln!(
            out,
            "  {:<12}{:>10}{:>10}{:>12}{:>10}{:>12}",
            "batch", "p50 ms", "p99 ms", "goodput/s", "in time", "mean batch"
        )?;
        for figures in &served.strategies {
            let middle = |values: &[Option<f64>]| {
                let values: Option<Vec<f64>> = values.iter().copied().collect();
                values.and_then(|values| median(&values)).map_or_else(|| "none".into(), figure)
            };
            let plain = |values: &[f64]| median(values).map_or_else(|| "none".into(), figure);
            writeln!(
                out,
                "  {:<12}{:>10}{:>10}{:>12}{:>10}{:>12}",
                figures.strategy,
                middle(&figures.p50_ms),
                middle(&figures.p99_ms),
                plain(&figures.goodput_per_s),
                plain(&figures.goodput_ratio),
                plain(&figures.mean_batch),
            )?;
        }
    }
    if let Some(containers) = &batching.containers {
        containers.print(out)?;
    }
    if let Some(seam) = &batching.seam {
        writeln!(out, "at the model seam, all loops:")?;
        for (name, loops) in
            [("cheap", &seam.cheap), ("lone", &seam.lone), ("forest", &seam.forest)]
        {
            for one in loops {
                writeln!(
                    out,
                    "  {name:<8}{:<10}depth {:>5}{:>12}/s in time{:>8}p50 {:>9} us{:>8}p99 {:>9} us  batch {}",
                    one.strategy,
                    one.depth,
                    figure(one.in_time_per_s),
                    "",
                    figure(one.p50_us),
                    "",
                    figure(one.p99_us),
                    figure(one.mean_batch)
                )?;
            }
        }
    }
    Ok(())
}
