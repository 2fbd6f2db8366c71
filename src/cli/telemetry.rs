//! Flags of `serve` and `container` for traces and the log.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::{
    config::{Telemetry, check_ratio},
    telemetry::{LogFormat, TraceConfig},
};

/// A flag wins over the environment, and that over the `[telemetry]` table of the file.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Flags {
    /// A collector to which traces are sent, by OTLP over gRPC, like http://localhost:4317
    /// [default: none: there are no traces]. OTEL_EXPORTER_OTLP_ENDPOINT is read, too.
    #[arg(long, value_name = "URL", env = "SKYSAIL_OTLP_ENDPOINT", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// The share of queries that are traced where their caller does not say [default: 0.01].
    #[arg(long, value_name = "SHARE", env = "SKYSAIL_TRACE_RATIO", value_parser = ratio)]
    trace_ratio: Option<f64>,
    /// How the log is written, text or json [default: text]. SKYSAIL_LOG says what is logged.
    #[arg(long, value_name = "FORMAT", env = "SKYSAIL_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

fn ratio(text: &str) -> Result<f64, String> {
    let wrong = |expected| format!("expected {expected}, got '{text}'");
    let ratio = text.parse().map_err(|_| wrong("a number in [0, 1]"))?;
    check_ratio(ratio).map_err(wrong)
}

impl Flags {
    /// What was given is put over what the file says.
    pub(super) fn traces(&self, file: TraceConfig) -> TraceConfig {
        let standard = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // An empty one switches off what the file says.
        let ours = self.otlp_endpoint.clone();
        let given = ours
            .or_else(|| standard("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
            .or_else(|| standard("OTEL_EXPORTER_OTLP_ENDPOINT"));
        TraceConfig {
            otlp_endpoint: given.or(file.otlp_endpoint).filter(|endpoint| !endpoint.is_empty()),
            ratio: self.trace_ratio.unwrap_or(file.ratio),
            service_name: standard("OTEL_SERVICE_NAME").or(file.service_name),
        }
    }

    /// What the file says is looked at where nothing was given. A file that cannot be read is told
    /// of later, by who needs it.
    pub(super) fn log_format(&self, file: Option<&Path>) -> LogFormat {
        let of_file = || {
            let text = std::fs::read_to_string(file?).ok()?;
            let table: Table = toml::from_str(&text).ok()?;
            table.telemetry.log_format().ok()?
        };
        self.log_format.or_else(of_file).unwrap_or_default()
    }
}

/// The one table of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Table {
    telemetry: Telemetry,
}

/// `[telemetry]` of a file that is read for a container.
pub(super) fn of_file(path: &Path, text: &str) -> anyhow::Result<TraceConfig> {
    let named = || format!("{}", path.display());
    let table: Table = toml::from_str(text).with_context(named)?;
    table.telemetry.traces().map_err(|(field, expected, got)| {
        anyhow::anyhow!("{}: {field}: expected {expected}, got {got}", path.display())
    })
}
