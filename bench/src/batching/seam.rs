//! What can only be measured at the model seam: containers so quick that the network would hide
//! them. Closed loops into [`Models`] in this process.

use std::time::Duration;

use serde::Serialize;
use skysail_containers::init_onnx_runtime;
use tokio::runtime::Runtime;

use super::{
    Settings,
    loops::{Kind, Loop, World},
};
use crate::{report::median, sleeper::Speed};

/// α = 12.5 µs, β = 1 ms: the cheap models of Clipper's figure 4, at its objective of 20 ms.
const CHEAP: Speed = Speed { row: Duration::from_nanos(12_500), batch: Duration::from_millis(1) };
const CHEAP_OBJECTIVE: Duration = Duration::from_millis(20);
const OBJECTIVE: Duration = Duration::from_millis(100);

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
