//! `skysail-bench early-drop`.

use std::io;

use clap::Args;
use serde_json::json;

use super::Common;
use crate::{
    early_drop::{Settings, bars, measure, print},
    report::{Report, print_bars},
};

/// Options of `early-drop`.
#[derive(Debug, Args)]
pub struct EarlyDropArgs {
    #[command(flatten)]
    common: Common,
    /// Queries per run. Lazy drop does not recover from a burst that made its batches small, so the
    /// longer a run, the lower the rate that it gets through.
    #[arg(long, value_name = "N", default_value_t = 60_000)]
    queries: usize,
}

impl EarlyDropArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = Settings {
            alphas: self.common.choose(
                vec![1.0, 1.4],
                vec![1.0, 1.4],
                vec![1.0, 1.2, 1.4, 1.6, 1.8],
            ),
            queries: self.queries,
            seeds: 12,
            seed: self.common.seed,
        };
        let comparisons = measure(&settings)?;
        let bars = bars(&comparisons);
        let mut out = io::stdout().lock();
        print(&mut out, &comparisons)?;
        print_bars(&mut out, &bars)?;
        let results = json!({ "queries_per_run": settings.queries, "comparisons": comparisons });
        self.common.write("early-drop", &Report::new(self.common.seed, results, bars))
    }
}
