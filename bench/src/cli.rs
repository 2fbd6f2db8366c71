//! The command line.

mod all;
mod batching;
mod cache;
mod early_drop;
mod growth;
mod limits;
mod load;
mod overhead;
mod personalisation;
mod rivals;
mod selection;
mod soak;
mod stragglers;

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use prost::Message as _;
use skysail_proto::pb::v1::PredictResponse;
use tokio::net::TcpListener;

use crate::{
    echo,
    report::Report,
    workload::{Workload, WorkloadConfig},
};

pub use all::AllArgs;
pub use batching::{BatchingArgs, SleeperArgs};
pub use cache::CacheArgs;
pub use early_drop::EarlyDropArgs;
pub use growth::GrowthArgs;
pub use limits::LimitsArgs;
pub use load::LoadArgs;
pub use overhead::OverheadArgs;
pub use personalisation::PersonalisationArgs;
pub use rivals::RivalsArgs;
pub use selection::{ReplayArgs, SelectionArgs};
pub use soak::SoakArgs;
pub use stragglers::StragglersArgs;

/// Load generator and measurements for Skysail.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Loads a server and tells how it answered.
    Load(Box<LoadArgs>),
    /// Measures what Skysail costs beside a bare gRPC echo of the same bytes.
    Overhead(Box<OverheadArgs>),
    /// Measures adaptive batches beside fixed ones and none.
    Batching(Box<BatchingArgs>),
    /// Measures what an answer from the cache costs, and throughput by the share of hits.
    Cache(Box<CacheArgs>),
    /// Compares early with lazy drop, in virtual time.
    EarlyDrop(EarlyDropArgs),
    /// Measures what each policy loses while a model fails, and feedback.
    Selection(Box<SelectionArgs>),
    /// Measures after how many labels the choice for one beats the choice for all.
    Personalisation(Box<PersonalisationArgs>),
    /// Measures ensembles with slow members: waiting for all, and answering at the deadline.
    Stragglers(Box<StragglersArgs>),
    /// Measures how cost grows with models, applications, contexts, replicas, bytes, connections.
    Growth(GrowthArgs),
    /// Loads a server for a while, kills a container again and again, and watches what it holds.
    Soak(SoakArgs),
    /// Measures what binds every server: the bare echo, ONNX Runtime alone, Redis with pipelining.
    Limits(LimitsArgs),
    /// Measures other model servers on the same models.
    Rivals(RivalsArgs),
    /// Runs every measurement, and writes a summary of all bars.
    All(AllArgs),
    /// Serves the bare echo: the same services, one fixed answer.
    Echo(EchoArgs),
    /// Serves a container that only waits; `batching` starts it.
    #[command(hide = true)]
    Sleeper(SleeperArgs),
    /// Serves containers that answer what was recorded; `selection` starts it.
    #[command(hide = true)]
    Replay(ReplayArgs),
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    ///
    /// The message says what could not be done.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Load(args) => args.run(),
            Command::Overhead(args) => args.run(),
            Command::Batching(args) => args.run(),
            Command::Sleeper(args) => args.run(),
            Command::Cache(args) => args.run(),
            Command::Selection(args) => args.run(),
            Command::Personalisation(args) => args.run(),
            Command::Stragglers(args) => args.run(),
            Command::Replay(args) => args.run(),
            Command::EarlyDrop(args) => args.run(),
            Command::Growth(args) => args.run(),
            Command::Soak(args) => args.run(),
            Command::Limits(args) => args.run(),
            Command::Rivals(args) => args.run(),
            Command::All(args) => args.run(),
            Command::Echo(args) => args.run(),
        }
    }
}

/// What every measurement takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Shorter runs, fewer repeats.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Longer runs, more repeats.
    #[arg(long)]
    full: bool,
    /// Writes the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the results as JSON into this folder, named for the subcommand.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Arrivals and random inputs are drawn from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder of what no registry has; traces lie in its `traces/`.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder where the rivals were installed.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
}

impl Common {
    /// One of three, by `--quick`, neither, `--full`.
    fn choose<T>(&self, quick: T, usual: T, full: T) -> T {
        match (self.quick, self.full) {
            (true, _) => quick,
            (_, true) => full,
            _ => usual,
        }
    }

    fn write(&self, subcommand: &str, report: &Report) -> anyhow::Result<()> {
        let named = self.out.as_ref().map(|folder| folder.join(format!("{subcommand}.json")));
        for path in self.json.iter().chain(&named) {
            report.write(path)?;
        }
        Ok(())
    }
}

/// What a request holds.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The application; for the Open Inference Protocol the model.
    #[arg(long, value_name = "NAME", default_value = "fashion")]
    application: String,
    /// The input tensor, FP32 `[rows, features]`.
    #[arg(long, value_name = "NAME", default_value = "input")]
    input_name: String,
    /// Elements of a random row.
    #[arg(long, value_name = "N", default_value_t = 784)]
    features: usize,
    /// Rows of a request.
    #[arg(long, value_name = "N", default_value_t = 1)]
    rows: usize,
    /// Rows from a file, `[N, …]` of FP32, FP64 or UINT8, instead of random ones.
    #[arg(long, value_name = "FILE.npy")]
    input: Option<PathBuf>,
    /// Factor on the file's elements, such as 0.00392157 for bytes.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f32,
    /// Sent with each request; without it the application's objective holds.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

impl RequestArgs {
    fn workload(&self, repeat: usize, seed: u64) -> anyhow::Result<Workload> {
        // Unique inputs must be new to a server that answered an earlier run with this seed.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Workload::new(WorkloadConfig {
            application: self.application.clone(),
            input_name: self.input_name.clone(),
            features: self.features,
            rows: self.rows,
            repeat,
            input: self.input.clone(),
            scale: self.scale,
            timeout: self.timeout.unwrap_or_default(),
            seed,
            unique_from: u64::try_from(now.as_nanos()).unwrap_or_default(),
        })
    }
}

/// Options of `echo`.
#[derive(Debug, Args)]
struct EchoArgs {
    /// Port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// An encoded `skysail.v1.PredictResponse` to answer; `request_id` is replaced.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// Threads; the default is the number of processors, as of `skysail serve`.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl EchoArgs {
    fn run(self) -> anyhow::Result<()> {
        let canned = match &self.response {
            Some(path) => {
                let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
                PredictResponse::decode(bytes.as_slice())
                    .with_context(|| format!("{} is no PredictResponse", path.display()))?
            }
            None => echo::canned(),
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some(threads) = self.threads {
            builder.worker_threads(threads.max(1));
        }
        builder.enable_all().build()?.block_on(async {
            let listener = TcpListener::bind(&self.listen)
                .await
                .with_context(|| format!("listening on {}", self.listen))?;
            // Serving on a worker, as a service does, and not on the thread that waits here.
            let address = listener.local_addr()?;
            let server = tokio::spawn(echo::serve(listener, canned));
            writeln!(io::stdout().lock(), "ready grpc={address}")?;
            server.await?
        })
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_measurement_takes_what_all_of_them_take() {
        let names = [
            "load",
            "batching",
            "early-drop",
            "cache",
            "selection",
            "personalisation",
            "stragglers",
            "rivals",
            "limits",
            "growth",
            "soak",
            "all",
        ];
        let common = [
            "--quick", "--json", "x.json", "--out", "x", "--seed", "2", "--data", "x", "--peers",
            "x",
        ];
        for name in names {
            let line = ["skysail-bench", name].into_iter().chain(common);
            assert!(Cli::try_parse_from(line).is_ok(), "{name}");
        }
        let server = ["skysail-bench", "overhead", "--server", "x:1", "--server-pid", "1"];
        assert!(Cli::try_parse_from(server.into_iter().chain(common)).is_ok());
    }

    #[test]
    fn quick_and_full_exclude_each_other() {
        assert!(Cli::try_parse_from(["skysail-bench", "load", "--quick", "--full"]).is_err());
        assert!(Cli::try_parse_from(["skysail-bench", "load", "--objective", "20ms"]).is_ok());
    }
}
