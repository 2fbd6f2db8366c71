//! The configuration file, in two stages: `raw` is what was written, [`Config`] what it means.
//!
//! Flags and environment are put over the file in `cli/serve.rs`; nothing here reads them.

mod application;
mod raw;
mod telemetry;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use skysail_cache::{RedisAddresses, RedisOptions};
use skysail_containers::{BatchStrategy, Device, ModelConfig};
use skysail_proto::{ModelId, pb::v1};

use crate::{record::Sync, telemetry::TraceConfig};

pub use application::parse_applications;
pub use raw::Telemetry;
pub use telemetry::check_ratio;

/// What the front end needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC listens; port 0 picks a free one.
    pub listen: String,
    /// Where HTTP listens; port 0 picks a free one.
    pub http: String,
    /// The largest message taken, in bytes.
    pub max_message_bytes: usize,
    /// Messages of one stream that may be under way; beyond it the server stops reading.
    pub stream_in_flight: usize,
    /// How long a shutdown waits for what was accepted.
    pub drain: Duration,
    /// Where state and decision records live.
    pub data_dir: PathBuf,
    /// A Redis that front ends share for selection state; `None`: it lies in `data_dir`, too.
    pub redis_state: Option<RedisAddresses>,
    /// When a group of decision records is forced to the disk.
    pub sync: Sync,
    /// Seeds every draw; `None`: a random one.
    pub seed: Option<u64>,
    /// Bound of the embedded cache, in accounted bytes.
    pub cache_bytes: u64,
    /// A Redis that front ends share as a second tier of the cache; `None`: there is none.
    pub redis_cache: Option<RedisAddresses>,
    /// How long that Redis keeps an answer, at most.
    pub redis_ttl: Duration,
    /// How long a look-up in it may take before it is a miss; at least 1 ms.
    pub redis_budget: Duration,
    /// The ONNX Runtime library; `None`: look for it.
    pub onnxruntime: Option<PathBuf>,
    /// What `ORT_DYLIB_PATH` says, which other programs that use the library read, too.
    pub ort_dylib_path: Option<PathBuf>,
    /// Models that run in this process.
    pub models: Vec<ModelConfig>,
    /// Whether anything is counted.
    pub metrics: bool,
    /// Where traces go, and how many.
    pub traces: TraceConfig,
    /// Applications that this file declares.
    pub applications: Vec<v1::Application>,
    /// The file's name, for messages.
    pub source: String,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is no such TOML.
    #[error("{path}: {error}")]
    Parse {
        /// Which file.
        path: String,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{path}: {field}: expected {expected}, got {got}")]
    Value {
        /// Which file.
        path: String,
        /// Which field.
        field: String,
        /// What would do.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
}

impl Config {
    /// What holds where there is no file.
    pub fn default_values() -> Self {
        Self {
            listen: "127.0.0.1:7400".into(),
            http: "127.0.0.1:7401".into(),
            max_message_bytes: 64 << 20,
            stream_in_flight: 1024,
            drain: Duration::from_secs(30),
            data_dir: "skysail-data".into(),
            redis_state: None,
            sync: Sync::Group,
            seed: None,
            cache_bytes: 256 << 20,
            redis_cache: None,
            redis_ttl: RedisOptions::TTL,
            redis_budget: RedisOptions::BUDGET,
            onnxruntime: None,
            ort_dylib_path: None,
            models: Vec::new(),
            metrics: true,
            traces: TraceConfig::default(),
            applications: Vec::new(),
            source: "defaults".into(),
        }
    }

    /// Reads a file. Relative paths of models are relative to it.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no TOML, has an unknown field, or a value out of range.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: shown.clone(), error })?;
        Self::parse(&text, &shown, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads a file's text; `folder` is what its relative paths are relative to.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(text: &str, source: &str, folder: &Path) -> Result<Self, ConfigError> {
        let raw: raw::Config = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: source.to_owned(),
            error: Box::new(error),
        })?;
        let default = Self::default_values();
        let value = |field: &str, expected: &'static str, got: String| ConfigError::Value {
            path: source.to_owned(),
            field: field.to_owned(),
            expected,
            got,
        };
        let server = raw.server;
        let state = raw.state;
        let sync = match state.sync.as_deref() {
            None | Some("group") => Sync::Group,
            Some("interval") => Sync::Interval(Duration::from_secs(1)),
            Some(other) => {
                return Err(value("state.sync", "\"group\" or \"interval\"", other.to_owned()));
            }
        };
        let cache = raw.cache;
        let redis = |field: &str, text: Option<&str>| {
            let addresses = text.map(str::parse::<RedisAddresses>).transpose();
            // Not what stands there: a password may be in it.
            addresses.map_err(|error| value(field, RedisAddresses::EXPECTED, error.why))
        };
        let redis_cache = redis("cache.redis", cache.redis.as_deref())?;
        let redis_state = redis("state.redis", state.redis.as_deref())?;
        let at_least_1_ms = |field: &str, given: Option<Duration>, default| match given {
            Some(short) if short < Duration::from_millis(1) => {
                Err(value(field, "at least 1ms", format!("{short:?}")))
            }
            given => Ok(given.unwrap_or(default)),
        };
        let models =
            raw.model.into_iter().map(|model| model.config(folder)).collect::<Result<_, _>>();
        let models = models.map_err(|(field, expected, got)| value(&field, expected, got))?;
        let stream_in_flight = server.stream_in_flight.unwrap_or(default.stream_in_flight);
        if stream_in_flight == 0 {
            return Err(value("server.stream_in_flight", "at least 1", "0".into()));
        }
        let telemetry = raw.telemetry;
        let traces = telemetry.traces().map_err(|(f, expected, got)| value(f, expected, got))?;
        telemetry.log_format().map_err(|(f, expected, got)| value(f, expected, got))?;
        let applications = raw.application.into_iter().map(application::Raw::wire);
        let applications = applications
            .collect::<Result<_, _>>()
            .map_err(|(field, expected, got)| value(&field, expected, got))?;
        Ok(Self {
            listen: server.listen.unwrap_or(default.listen),
            http: server.http.unwrap_or(default.http),
            max_message_bytes: server.max_message_bytes.unwrap_or(default.max_message_bytes),
            stream_in_flight,
            drain: server.drain.unwrap_or(default.drain),
            data_dir: state.data_dir.unwrap_or(default.data_dir),
            redis_state,
            sync,
            seed: state.seed,
            cache_bytes: cache.capacity_bytes.unwrap_or(default.cache_bytes),
            redis_cache,
            redis_ttl: at_least_1_ms("cache.redis_ttl", cache.redis_ttl, default.redis_ttl)?,
            redis_budget: at_least_1_ms(
                "cache.redis_budget",
                cache.redis_budget,
                default.redis_budget,
            )?,
            onnxruntime: server.onnxruntime.map(|path| folder.join(path)),
            ort_dylib_path: None,
            models,
            metrics: telemetry.metrics.unwrap_or(default.metrics),
            traces,
            applications,
            source: source.to_owned(),
        })
    }
}

impl raw::Model {
    fn config(self, folder: &Path) -> Result<ModelConfig, (String, &'static str, String)> {
        let field = |name: &str| format!("model '{}': {name}", self.name);
        if self.name.is_empty() || self.name.contains(':') {
            return Err((field("name"), "a name without ':'", self.name.clone()));
        }
        if self.version.is_empty() || self.version.contains(':') {
            return Err((field("version"), "a version without ':'", self.version.clone()));
        }
        let device = match self.device.as_deref() {
            None | Some("cpu") => Device::Cpu,
            Some("cuda") => Device::Cuda,
            Some("tensorrt") => Device::TensorRt,
            Some(other) => {
                return Err((field("device"), "\"cpu\", \"cuda\" or \"tensorrt\"", other.into()));
            }
        };
        let batch = self.batch.as_ref().map_or(Ok(BatchStrategy::Aimd), |batch| {
            let text = batch.to_string();
            text.parse().map_err(|_| (field("batch"), BatchStrategy::EXPECTED, text))
        })?;
        let positive = |name: &str, number: Option<usize>| match number {
            Some(0) => Err((field(name), "at least 1", "0".to_owned())),
            other => Ok(other.unwrap_or(1)),
        };
        Ok(ModelConfig {
            threads: positive("threads", self.threads)?,
            replicas: positive("replicas", self.replicas)?,
            objective: self.objective,
            batch,
            batch_wait: self.batch_wait.unwrap_or_default(),
            device,
            ..ModelConfig::new(
                ModelId::new(self.name.as_str(), self.version.as_str()),
                folder.join(&self.path),
            )
        })
    }
}

#[cfg(test)]
mod tests;
