//! `skysail-bench stragglers`.

use std::{io, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use super::Common;
use crate::{
    process::Programs,
    replay::Delay,
    report::Report,
    stragglers::{Settings, measure, print},
};

/// Options of `stragglers`.
#[derive(Debug, Args)]
pub struct StragglersArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// A recording of sixteen models, as bench/models/recordings.py makes it.
    #[arg(long, value_name = "FILE.npz", default_value = "target/bench-models/forests.npz")]
    recording: PathBuf,
    /// Ensemble sizes.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    sizes: Vec<usize>,
    /// Queries of a block; 250 with --quick, else 2,000.
    #[arg(long, value_name = "N")]
    queries: Option<usize>,
    /// Queries per second.
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    rate: f64,
    /// Half of a container's answers are sooner.
    #[arg(long, value_name = "TIME", default_value = "4ms", value_parser = humantime::parse_duration)]
    median: Duration,
    /// Deviation of the logarithm of its times.
    #[arg(long, value_name = "N", default_value_t = 0.8)]
    sigma: f64,
    /// By then the application answers that does not wait for all.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = humantime::parse_duration)]
    objective: Duration,
}

impl StragglersArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            recording: self.recording,
            sizes: self.sizes,
            queries: self.queries.unwrap_or_else(|| self.common.choose(250, 2_000, 2_000)),
            rate: self.rate,
            delay: Delay { median: self.median, sigma: self.sigma },
            objective: self.objective,
            repeats: self.common.choose(3, 3, 5),
            seed: self.common.seed,
            charts: self.common.out.clone(),
        };
        let measured = measure(&settings)?;
        let bars = measured.bars();
        print(&mut io::stdout().lock(), &measured, &bars)?;
        let report = Report::new(self.common.seed, json!(measured), bars);
        self.common.write("stragglers", &report)
    }
}
