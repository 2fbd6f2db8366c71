//! `skysail-bench batching`.

use std::{io, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Common, default_threads};
use crate::{
    batching::{Part, Settings, measure, print},
    open_inference,
    report::{Report, print_bars},
    sleeper::{Sleepers, Speed},
};

/// Options of `batching`.
#[derive(Debug, Args)]
pub struct BatchingArgs {
    #[command(flatten)]
    common: Common,
    /// What is measured, comma-separated; all unless given, with --quick all but rbf-svm.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    parts: Vec<Part>,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Folder of lenet.onnx and rbf-svm.onnx, which bench/models/build.py writes.
    #[arg(long, value_name = "DIR", default_value = "target/bench-models")]
    models: PathBuf,
    /// The random forest.
    #[arg(long, value_name = "FILE", default_value = "models/fashion-mnist/forest.onnx")]
    forest: PathBuf,
    /// The ONNX Runtime library, where it is not found beside this program.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Alternations of the sides; 3 with --quick, else 5.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 650ms with --quick, else 2s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    block: Option<Duration>,
    /// Threads of the generator; half of the processors unless given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

impl BatchingArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("finding this program")?;
        let parts = if self.parts.is_empty() {
            let quick = vec![Part::Seam, Part::Containers, Part::Sleeping, Part::Lenet];
            let mut all = quick.clone();
            all.push(Part::RbfSvm);
            self.common.choose(quick, all.clone(), all)
        } else {
            self.parts.clone()
        };
        let millis = self.common.choose(650, 2_000, 2_000);
        let settings = Settings {
            skysail: self.skysail.unwrap_or_else(|| program.with_file_name("skysail")),
            program,
            parts,
            models: self.models,
            forest: self.forest,
            onnx_runtime: self.onnxruntime,
            charts: self.common.out.clone(),
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 5)),
            block: self.block.unwrap_or(Duration::from_millis(millis)),
            threads: self.threads.unwrap_or_else(default_threads),
            seed: self.common.seed,
        };
        let batching = measure(&settings)?;
        let bars = batching.bars();
        let mut out = io::stdout().lock();
        print(&mut out, &batching)?;
        print_bars(&mut out, &bars)?;
        self.common.write("batching", &Report::new(self.common.seed, json!(batching), bars))
    }
}

/// Options of `sleeper`.
#[derive(Debug, Args)]
pub struct SleeperArgs {
    /// Port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// What a row takes.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    row: Duration,
    /// What a batch takes besides.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    batch: Duration,
}

impl SleeperArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        use std::io::Write as _;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind(&self.listen)
                .await
                .with_context(|| format!("listening on {}", self.listen))?;
            let address = listener.local_addr()?;
            let speed = Speed { row: self.row, batch: self.batch };
            let server = tokio::spawn(open_inference::serve(listener, Sleepers::new(speed)));
            writeln!(io::stdout().lock(), "ready grpc={address}")?;
            server.await?
        })
    }
}
