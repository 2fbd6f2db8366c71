//! `skysail container`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{CommandFactory, error::ErrorKind};
use serde::Deserialize;
use skysail_containers::{BatchStrategy, Device};
use skysail_proto::ModelId;
use tokio::signal::unix::{SignalKind, signal};

use super::{Cli, telemetry};
use crate::{
    container::{ContainerProcess, Options},
    telemetry::{LogFormat, TraceConfig},
};

/// Serves one ONNX model over the Open Inference Protocol and registers it with front ends.
///
/// Each flag can stand in the environment and in the `[container]` table of a configuration file,
/// too; a flag wins over the environment, and that over the file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A configuration file with a [container] table.
    #[arg(long, value_name = "FILE", env = "SKYSAIL_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    telemetry: telemetry::Flags,
}

impl Args {
    pub(super) fn log_format(&self) -> LogFormat {
        self.telemetry.log_format(self.config.as_deref())
    }
}

#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The ONNX file.
    #[arg(long, value_name = "FILE", env = "SKYSAIL_MODEL")]
    model: Option<PathBuf>,
    /// The model's name.
    #[arg(long, env = "SKYSAIL_NAME")]
    name: Option<String>,
    /// Its version.
    #[arg(long = "version", env = "SKYSAIL_VERSION")]
    version: Option<String>,
    /// gRPC address of a front end; may be given several times, or separated by commas.
    #[arg(long, value_name = "HOST:PORT", env = "SKYSAIL_REGISTER", value_delimiter = ',')]
    #[serde(default)]
    register: Vec<String>,
    /// Where it listens: HOST:PORT, port 0 picks a free one, or unix:/PATH [default: 127.0.0.1:0].
    #[arg(long, value_name = "ADDRESS", env = "SKYSAIL_LISTEN")]
    listen: Option<String>,
    /// Under which address front ends reach it [default: where it listens].
    #[arg(long, value_name = "ADDRESS", env = "SKYSAIL_ADVERTISE")]
    advertise: Option<String>,
    /// Where it computes: cpu, cuda or tensorrt [default: cpu].
    #[arg(long, env = "SKYSAIL_DEVICE")]
    device: Option<String>,
    /// Threads that share one operation [default: 1].
    #[arg(long, env = "SKYSAIL_THREADS")]
    threads: Option<usize>,
    /// The most rows of one call; 0: no limit [default: 0].
    #[arg(long, value_name = "ROWS", env = "SKYSAIL_MAX_BATCH_ROWS")]
    max_batch_rows: Option<usize>,
    /// How front ends size batches: aimd, quantile, none, or a number of rows [default: aimd].
    #[arg(long, env = "SKYSAIL_BATCH")]
    batch: Option<String>,
    /// How long front ends make it wait for a fuller batch, like 2ms [default: 0s].
    #[arg(long, value_name = "TIME", env = "SKYSAIL_BATCH_WAIT")]
    batch_wait: Option<String>,
    /// The latency of a query as long as no application says, like 50ms [default: 100ms].
    #[arg(long, value_name = "TIME", env = "SKYSAIL_OBJECTIVE")]
    objective: Option<String>,
    /// How long it may finish what it has when it is stopped [default: 10s].
    #[arg(long, value_name = "TIME", env = "SKYSAIL_DRAIN")]
    drain: Option<String>,
    /// The ONNX Runtime library [default: looked for beside the program and in the system].
    #[arg(long, value_name = "FILE", env = "SKYSAIL_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
}

/// What of a file concerns a container. The rest is for `skysail serve`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    container: Settings,
}

impl Settings {
    /// What is missing is taken from `file`.
    fn or(self, file: Self) -> Self {
        Self {
            model: self.model.or(file.model),
            name: self.name.or(file.name),
            version: self.version.or(file.version),
            register: if self.register.is_empty() { file.register } else { self.register },
            listen: self.listen.or(file.listen),
            advertise: self.advertise.or(file.advertise),
            device: self.device.or(file.device),
            threads: self.threads.or(file.threads),
            max_batch_rows: self.max_batch_rows.or(file.max_batch_rows),
            batch: self.batch.or(file.batch),
            batch_wait: self.batch_wait.or(file.batch_wait),
            objective: self.objective.or(file.objective),
            drain: self.drain.or(file.drain),
            onnxruntime: self.onnxruntime.or(file.onnxruntime),
        }
    }

    fn options(self, traces: TraceConfig) -> anyhow::Result<Options> {
        let (Some(path), Some(name), Some(version)) = (self.model, self.name, self.version) else {
            let needed = "--model, --name and --version are needed: as flags, in the environment, \
                          or in the [container] table of the file";
            Cli::command().error(ErrorKind::MissingRequiredArgument, needed).exit()
        };
        Ok(Options {
            id: ModelId::new(name, version),
            path,
            device: self.device.map_or(Ok(Device::default()), |d| d.parse()).context("--device")?,
            threads: self.threads.unwrap_or(1),
            max_batch_rows: self.max_batch_rows.unwrap_or(0),
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:0".into()),
            advertise: self.advertise,
            register: self.register,
            batch: self
                .batch
                .map_or(Ok(BatchStrategy::default()), |b| b.parse())
                .context("--batch")?,
            batch_wait: time("--batch-wait", self.batch_wait)?.unwrap_or_default(),
            objective: time("--objective", self.objective)?,
            drain: time("--drain", self.drain)?.unwrap_or(Duration::from_secs(10)),
            onnxruntime: self.onnxruntime,
            ort_dylib_path: std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from),
            traces,
        })
    }
}

pub(super) fn time(flag: &str, text: Option<String>) -> anyhow::Result<Option<Duration>> {
    let parse = |text: String| {
        humantime::parse_duration(&text)
            .with_context(|| format!("{flag}: expected a duration like 20ms, got '{text}'"))
    };
    text.map(parse).transpose()
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let (file, traces): (File, _) = match &args.config {
        None => (File::default(), TraceConfig::default()),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let file = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
            (file, telemetry::of_file(path, &text)?)
        }
    };
    let options = args.settings.or(file.container).options(args.telemetry.traces(traces))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut container = ContainerProcess::start(options).await?;
    let mut stopped = std::pin::pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let registered = tokio::select! {
        registered = container.registered() => Some(registered),
        () = &mut stopped => None,
    };
    match registered {
        Some(Ok(())) => {
            crate::say!("ready grpc={}", container.address);
            stopped.await;
        }
        Some(Err(refused)) => {
            let _ = container.stop().await;
            return Err(refused);
        }
        None => {}
    }
    tracing::info!("stopping: finishing what was accepted");
    container.stop().await
}
