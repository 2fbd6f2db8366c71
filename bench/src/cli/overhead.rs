//! `skysail-bench overhead`.

use std::{io, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use super::{Common, RequestArgs, default_threads};
use crate::{
    collector::Collector,
    overhead::{Overhead, Settings, Twins, measure, print},
    process::ServerProcess,
    report::Report,
};

/// Options of `overhead`.
#[derive(Debug, Args)]
pub struct OverheadArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    request: RequestArgs,
    /// A running server, `host:port`.
    #[arg(long, value_name = "ADDR", requires = "server_pid")]
    server: Option<String>,
    /// Its process.
    #[arg(long, value_name = "PID", requires = "server")]
    server_pid: Option<u32>,
    /// The `skysail` binary to start instead.
    #[arg(
        long,
        value_name = "PATH",
        requires = "config",
        conflicts_with = "server",
        required_unless_present = "server"
    )]
    skysail: Option<PathBuf>,
    /// Its configuration file.
    #[arg(long, value_name = "FILE", requires = "skysail")]
    config: Option<PathBuf>,
    /// The model behind the application, which is also run alone.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Its data folder; a temporary one unless given.
    #[arg(long, value_name = "DIR", requires = "skysail")]
    data_dir: Option<PathBuf>,
    /// Queries under way in the closed blocks.
    #[arg(long, value_name = "N", default_value_t = 32)]
    depth: usize,
    /// Queries per second of the open blocks; unless given, half of what the slowest side did in
    /// the first closed blocks, and at most 2,000.
    #[arg(long, value_name = "PER_S")]
    rate: Option<f64>,
    /// Alternations of the sides; 3 with --quick, 10 with --full, else 5.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 1500ms with --quick, else 3s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

const QUIET: &str = "[telemetry]\nmetrics = false\ntrace_ratio = 0.0\n";

impl OverheadArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let started = match (&self.skysail, &self.config) {
            (Some(program), Some(config)) => {
                Some(ServerProcess::skysail(program, config, self.data_dir.as_deref())?)
            }
            _ => None,
        };
        let twins = match (&self.skysail, &self.config) {
            (Some(program), Some(config)) => {
                let collector = Collector::start()?;
                let told = format!(
                    "[telemetry]\notlp_endpoint = \"{}\"\ntrace_ratio = 0.01\n",
                    collector.url
                );
                Some(Twins {
                    told: ServerProcess::skysail_with(program, config, &told)?,
                    quiet: ServerProcess::skysail_with(program, config, QUIET)?,
                    collector,
                })
            }
            _ => None,
        };
        let (server, pid) = match &started {
            Some(process) => (process.address.clone(), process.pid()),
            None => self
                .server
                .clone()
                .zip(self.server_pid)
                .context("either --skysail and --config, or --server and --server-pid")?,
        };
        let second = Duration::from_secs(1);
        let usual = self.common.choose(second * 3 / 2, second * 3, second * 3);
        let block = self.block.unwrap_or(usual);
        let settings = Settings {
            server,
            server_pid: pid,
            echo_program: std::env::current_exe().context("finding this program")?,
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 10)),
            block,
            warm_up: block / 5,
            depth: self.depth,
            rate: self.rate,
            threads: self.threads.unwrap_or_else(default_threads),
            seed: self.common.seed,
            model: self.model,
            twins,
        };
        let workload = self.request.workload(0, self.common.seed)?;
        let overhead: Overhead = measure(&settings, &workload)?;
        let told = settings.twins.is_none() || overhead.spans > 0;
        ensure!(told, "no span came from the server whose traces are measured");
        let bars = overhead.bars();
        print(&mut io::stdout().lock(), &overhead, &bars)?;
        let report = Report::new(self.common.seed, json!(overhead), bars);
        self.common.write("overhead", &report)
    }
}
