//! `skysail-bench personalisation`.

use std::{io, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::Common;
use crate::{
    personalisation::{Settings, measure, print},
    process::Programs,
    report::Report,
};

/// Options of `personalisation`.
#[derive(Debug, Args)]
pub struct PersonalisationArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// A recording with owners, as bench/models/recordings.py makes it.
    #[arg(long, value_name = "FILE.npz", default_value = "target/bench-models/watch.npz")]
    recording: PathBuf,
    /// The policy, as TOML.
    #[arg(
        long,
        value_name = "TOML",
        default_value = "{ name = \"hedge\", parameters = { eta = 1.0 } }"
    )]
    policy: String,
    /// In each of them every owner begins anew; 10 with --quick, else 50.
    #[arg(long, value_name = "N")]
    trials: Option<u64>,
    /// Queries of an owner in a trial.
    #[arg(long, value_name = "N", default_value_t = 60)]
    queries: usize,
}

impl PersonalisationArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            recording: self.recording,
            policy: self.policy,
            trials: self.trials.unwrap_or_else(|| self.common.choose(10, 50, 50)),
            queries: self.queries,
            seed: self.common.seed,
            charts: self.common.out.clone(),
        };
        let measured = measure(&settings)?;
        let bars = measured.bars();
        print(&mut io::stdout().lock(), &measured, &bars)?;
        let report = Report::new(self.common.seed, json!(measured), bars);
        self.common.write("personalisation", &report)
    }
}
