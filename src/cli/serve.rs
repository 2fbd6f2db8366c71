//! `skysail serve`.

use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::telemetry;
use crate::{config::Config, server::Server, telemetry::LogFormat};

/// Each flag can stand in the file and in the environment, too; a flag wins over the environment,
/// and that over the file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "SKYSAIL_CONFIG")]
    config: Option<PathBuf>,
    /// Where gRPC listens; port 0 picks a free one [default: 127.0.0.1:7400].
    #[arg(long, value_name = "HOST:PORT", env = "SKYSAIL_LISTEN")]
    listen: Option<String>,
    /// Where HTTP listens; port 0 picks a free one [default: 127.0.0.1:7401].
    #[arg(long, value_name = "HOST:PORT", env = "SKYSAIL_HTTP")]
    http: Option<String>,
    /// Where state and decision records live [default: skysail-data].
    #[arg(long, value_name = "DIR", env = "SKYSAIL_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A Redis in which front ends share selection state and decision records, so that any of them
    /// takes feedback for a decision of another; an address as for --redis-cache. It must not
    /// evict (maxmemory-policy noeviction), and is as durable as its appendfsync says
    /// [default: none; state lives in --data-dir].
    #[arg(long, value_name = "URL", env = "SKYSAIL_REDIS_STATE", hide_env_values = true)]
    redis_state: Option<String>,
    /// A Redis that front ends share as a second tier of the prediction cache:
    /// redis://[user:password@]host[:port][/database], rediss://… for TLS, unix:///path; several
    /// nodes of a Redis Cluster with commas between them [default: none].
    #[arg(long, value_name = "URL", env = "SKYSAIL_REDIS_CACHE", hide_env_values = true)]
    redis_cache: Option<String>,
    /// The ONNX Runtime library [default: looked for beside the program and in the system].
    #[arg(long, value_name = "FILE", env = "SKYSAIL_ONNXRUNTIME")]
    onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    telemetry: telemetry::Flags,
}

impl Args {
    pub(super) fn log_format(&self) -> LogFormat {
        self.telemetry.log_format(self.config.as_deref())
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default_values(),
    };
    config.listen = args.listen.unwrap_or(config.listen);
    config.http = args.http.unwrap_or(config.http);
    config.data_dir = args.data_dir.unwrap_or(config.data_dir);
    if let Some(addresses) = &args.redis_cache {
        config.redis_cache = Some(addresses.parse().context("--redis-cache")?);
    }
    if let Some(addresses) = &args.redis_state {
        config.redis_state = Some(addresses.parse().context("--redis-state")?);
    }
    config.traces = args.telemetry.traces(config.traces);
    config.onnxruntime = args.onnxruntime.or(config.onnxruntime);
    config.ort_dylib_path = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    // Before anything is acknowledged: a signal that comes while it starts ends it in order, too.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let server = Server::start(config).await?;
    crate::say!("ready grpc={} http={}", server.grpc, server.http);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: finishing what was accepted");
    server.stop().await
}
