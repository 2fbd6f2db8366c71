//! `skysail-bench cache`.

use std::{io, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{Common, RequestArgs, default_threads};
use crate::{
    cache::{Settings, measure, print},
    report::Report,
};

/// Options of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    request: RequestArgs,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Its configuration: one cheap model behind one application.
    #[arg(long, value_name = "FILE", default_value = "bench/scenarios/one-model.toml")]
    config: PathBuf,
    /// Folder of bin/redis-server, as `cargo xtask setup` lays it out.
    #[arg(long, value_name = "DIR", default_value = "target/setup/redis")]
    redis: PathBuf,
    /// Distinct inputs of the sweep.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    popular: usize,
    /// Bound of the store that is filled, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    store_mib: u64,
    /// Alternations of the sides; 3 with --quick, 10 with --full, else 5.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 1s with --quick, else 3s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl CacheArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("finding this program")?;
        let seconds = self.common.choose(1, 3, 3);
        let settings = Settings {
            skysail: self.skysail.unwrap_or_else(|| program.with_file_name("skysail")),
            config: self.config,
            redis: self.redis,
            program,
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 10)),
            block: self.block.unwrap_or(Duration::from_secs(seconds)),
            threads: self.threads.unwrap_or_else(default_threads),
            store_bytes: self.store_mib << 20,
            seed: self.common.seed,
        };
        let workload = self.request.workload(self.popular, self.common.seed)?;
        let cache = measure(&settings, &workload)?;
        let bars = cache.bars();
        print(&mut io::stdout().lock(), &cache, &bars)?;
        self.common.write("cache", &Report::new(self.common.seed, json!(cache), bars))
    }
}
