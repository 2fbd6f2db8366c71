//! `skysail-bench soak`.

use std::{io, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::Args;
use serde_json::json;

use super::Common;
use crate::{
    process::Programs,
    report::Report,
    soak::{Settings, bars, faults, measure, print},
};

/// Options of `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// How long; 2 with --quick, 30 with --full, else 10.
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Queries per second.
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    rate: f64,
}

impl SoakArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let minutes = self.minutes.unwrap_or_else(|| self.common.choose(2.0, 10.0, 30.0));
        // Twelve windows, in each of which a container ends and starts again.
        ensure!(minutes >= 1.0, "--minutes must be at least 1, got {minutes}");
        ensure!(self.rate >= 1.0, "--rate must be at least 1, got {}", self.rate);
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            duration: Duration::from_secs_f64(minutes * 60.0),
            rate: self.rate,
            seed: self.common.seed,
            charts: self.common.out.clone(),
        };
        let soak = measure(&settings)?;
        let bars = bars(&soak);
        print(&mut io::stdout().lock(), &soak, &bars)?;
        let faults = faults(&bars).join(", ");
        self.common.write("soak", &Report::new(self.common.seed, json!(soak), bars))?;
        ensure!(faults.is_empty(), "the soak did not stay level: {faults}");
        Ok(())
    }
}
