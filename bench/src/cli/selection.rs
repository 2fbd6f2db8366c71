//! `skysail-bench selection`, and the containers that it starts.

use std::{io, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

use super::Common;
use crate::{
    open_inference,
    process::Programs,
    replay::{Delay, Replay},
    report::Report,
    selection::{Settings, measure, print},
};

/// Options of `selection`.
#[derive(Debug, Args)]
pub struct SelectionArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Folder of ONNX models of Fashion-MNIST.
    #[arg(long, value_name = "DIR", default_value = "models/fashion-mnist")]
    models: PathBuf,
    /// Folder of its test images, as `cargo xtask setup` lays it out.
    #[arg(long, value_name = "DIR", default_value = "target/setup/fashion-mnist")]
    images: PathBuf,
    /// Trials of the simulation; 20 with --quick, else 50.
    #[arg(long, value_name = "N")]
    trials: Option<u64>,
    /// Decisions that get feedback, per repeat; 30,000 with --quick, else 100,000.
    #[arg(long, value_name = "N")]
    feedbacks: Option<usize>,
    /// Queries of the live experiment; 8,000 with --quick, else 20,000.
    #[arg(long, value_name = "N")]
    queries: Option<usize>,
    /// How many of them a second.
    #[arg(long, value_name = "N", default_value_t = 800.0)]
    rate: f64,
}

impl SelectionArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = Settings {
            programs: Programs::find(self.skysail)?,
            data: self.common.data.clone(),
            fashion: (self.models, self.images),
            charts: self.common.out.clone(),
            trials: self.trials.unwrap_or_else(|| self.common.choose(20, 50, 50)),
            feedbacks: self
                .feedbacks
                .unwrap_or_else(|| self.common.choose(30_000, 100_000, 100_000)),
            repeats: self.common.choose(3, 3, 5),
            live: (
                self.queries.unwrap_or_else(|| self.common.choose(8_000, 20_000, 20_000)),
                self.rate,
            ),
            seed: self.common.seed,
        };
        let measured = measure(&settings)?;
        let bars = measured.bars();
        print(&mut io::stdout().lock(), &measured, &bars)?;
        let report = Report::new(self.common.seed, json!(measured), bars);
        self.common.write("selection", &report)
    }
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[arg(long)]
    recording: PathBuf,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    #[arg(long, value_parser = humantime::parse_duration)]
    median: Option<Duration>,
    #[arg(long, default_value_t = 0.0)]
    sigma: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl ReplayArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let delay = self.median.map(|median| Delay { median, sigma: self.sigma });
        let replay = Replay::open(&self.recording, delay, self.seed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(&self.listen)
                .await
                .with_context(|| format!("listening on {}", self.listen))?;
            let address = listener.local_addr()?;
            let server = tokio::spawn(open_inference::serve(listener, replay));
            use std::io::Write as _;
            writeln!(io::stdout().lock(), "ready grpc={address}")?;
            server.await?
        })
    }
}
