//! What stands in the file, as it is written there.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

use super::application;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Config {
    pub(super) server: Server,
    pub(super) cache: Cache,
    pub(super) state: State,
    pub(super) model: Vec<Model>,
    pub(super) application: Vec<application::Raw>,
    pub(super) telemetry: Telemetry,
    /// Read by `skysail container`.
    pub(super) container: Option<toml::Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Server {
    pub(super) listen: Option<String>,
    pub(super) http: Option<String>,
    pub(super) max_message_bytes: Option<usize>,
    pub(super) stream_in_flight: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(super) drain: Option<Duration>,
    pub(super) onnxruntime: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cache {
    pub(super) capacity_bytes: Option<u64>,
    pub(super) redis: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(super) redis_ttl: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) redis_budget: Option<Duration>,
}

/// Read by `skysail serve` and `skysail container`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// False: nothing is counted, and there is no `/metrics`.
    pub metrics: Option<bool>,
    /// A collector of traces.
    pub otlp_endpoint: Option<String>,
    /// The share of queries that are sampled.
    pub trace_ratio: Option<f64>,
    /// `text` or `json`.
    pub log_format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct State {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) redis: Option<String>,
    pub(super) sync: Option<String>,
    pub(super) seed: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) path: PathBuf,
    pub(super) device: Option<String>,
    pub(super) threads: Option<usize>,
    pub(super) replicas: Option<usize>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) objective: Option<Duration>,
    pub(super) batch: Option<Batch>,
    #[serde(default, deserialize_with = "duration")]
    pub(super) batch_wait: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Batch {
    Name(String),
    Rows(usize),
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Rows(rows) => write!(f, "{rows}"),
        }
    }
}

/// A duration as people write it, like `20ms` or `1h`.
pub(super) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!(
            "expected a duration like \"20ms\", got \"{text}\": {error}"
        ))
    })?;
    Ok(Some(duration))
}
