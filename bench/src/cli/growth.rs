//! `skysail-bench growth`.

use std::{io, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use super::{Common, default_threads};
use crate::{
    growth::{Axis, Settings, measure, print},
    process::Programs,
    report::Report,
};

/// Options of `growth`.
#[derive(Debug, Args)]
pub struct GrowthArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// What grows, comma-separated; all unless given.
    #[arg(long, value_name = "AXIS", value_delimiter = ',')]
    axes: Vec<Axis>,
    /// The cheap model behind every application.
    #[arg(long, value_name = "FILE", default_value = "models/fashion-mnist/logreg.onnx")]
    model: PathBuf,
    /// Alternations; 3 with --quick, else 5.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 500ms with --quick, else 3s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl GrowthArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let axes = if self.axes.is_empty() { Axis::ALL.to_vec() } else { self.axes };
        let thinned = self.common.choose(true, false, false);
        let millis = self.common.choose(500, 3_000, 3_000);
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            model: self.model,
            axes: axes.into_iter().map(|axis| (axis, axis.sizes(thinned))).collect(),
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 5)),
            block: self.block.unwrap_or(Duration::from_millis(millis)),
            threads: self.threads.unwrap_or_else(default_threads),
            seed: self.common.seed,
            charts: self.common.out.clone(),
        };
        let measured = measure(&settings)?;
        let bars = measured.bars();
        print(&mut io::stdout().lock(), &measured, &bars)?;
        let report = Report::new(self.common.seed, json!(measured), bars);
        self.common.write("growth", &report)
    }
}
