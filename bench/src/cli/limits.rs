//! `skysail-bench limits`.

use std::{io, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use super::{Common, default_threads};
use crate::{
    limits::{Settings, measure, print},
    process::Programs,
    report::Report,
};

/// Options of `limits`.
#[derive(Debug, Args)]
pub struct LimitsArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Folder of the models.
    #[arg(long, value_name = "DIR", default_value = "models/fashion-mnist")]
    folder: PathBuf,
    /// Models by name, cheap and dear ones.
    #[arg(long, value_name = "NAME", value_delimiter = ',',
          default_values_t = ["logreg", "mlp", "forest", "rbf-svm"].map(String::from))]
    models: Vec<String>,
    /// Folder of bin/redis-server, as `cargo xtask setup` lays it out.
    #[arg(long, value_name = "DIR", default_value = "target/setup/redis")]
    redis: PathBuf,
    /// Queries under way.
    #[arg(long, value_name = "N", default_value_t = 64)]
    depth: usize,
    /// Alternations; 3 with --quick, 10 with --full, else 5.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 1s with --quick, else 3s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl LimitsArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let seconds = self.common.choose(1, 3, 3);
        let file = |name: &String| self.folder.join(format!("{name}.onnx"));
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            models: self.models.iter().map(file).collect(),
            redis: self.redis,
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 10)),
            block: self.block.unwrap_or(Duration::from_secs(seconds)),
            depth: self.depth,
            threads: self.threads.unwrap_or_else(default_threads),
            seed: self.common.seed,
        };
        let limits = measure(&settings)?;
        let bars = limits.bars();
        print(&mut io::stdout().lock(), &limits, &bars)?;
        self.common.write("limits", &Report::new(self.common.seed, json!(limits), bars))
    }
}
