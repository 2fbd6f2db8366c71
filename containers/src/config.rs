//! What a model is started with.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use skysail_proto::ModelId;

use crate::error::ContainerError;

/// The objective that is assumed as long as no application is linked.
pub const DEFAULT_OBJECTIVE: Duration = Duration::from_millis(100);

/// What is kept back of an objective unless told otherwise.
pub const DEFAULT_SLACK: Duration = Duration::from_millis(1);

/// The largest batch that a sizer tries where the model sets no bound, in rows. Beyond it the
/// measured gain of batching is used up (ONNX Runtime, seven models), and one batch would hold
/// megabytes.
pub const MAX_LIMIT: usize = 4_096;

/// A model that runs in this process.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Name and version. The name holds no `:`.
    pub id: ModelId,
    /// The ONNX file.
    pub path: PathBuf,
    /// Where it computes. Default CPU.
    pub device: Device,
    /// Threads that share one operation, 1 or more. Default 1. More shorten large batches, at the
    /// cost of whatever else runs on the machine.
    pub threads: usize,
    /// Replicas, 1 or more, each with its own thread and its own copy of the model. Default 1.
    pub replicas: usize,
    /// The latency that a query to this model may take end to end; what an application hands down
    /// replaces it. Default: [`DEFAULT_OBJECTIVE`].
    pub objective: Option<Duration>,
    /// How the largest batch is found. Default `Aimd`.
    pub batch: BatchStrategy,
    /// How long a busy replica, once free, holds a batch open for company. Default 0. Raising it
    /// makes batches larger and every query that waits later.
    pub batch_wait: Duration,
    /// The most rows that one call, and so a batch, may hold. Default 0: no limit for a call,
    /// [`MAX_LIMIT`] for a batch of several.
    pub max_batch_rows: usize,
    /// The most bytes of input in a batch of several calls. Default 64 MiB.
    pub max_batch_bytes: usize,
    /// The most rows that wait; more are refused at once. Default 32,768. Raising it lets longer
    /// bursts in, whose tail is dropped later instead of refused now.
    pub queue_rows: usize,
    /// The most bytes of input that wait. Default 256 MiB. One call always fits an empty queue.
    pub queue_bytes: usize,
}

impl ModelConfig {
    /// A model with every setting at its default.
    pub fn new(id: ModelId, path: impl Into<PathBuf>) -> Self {
        Self {
            id,
            path: path.into(),
            device: Device::Cpu,
            threads: 1,
            replicas: 1,
            objective: None,
            batch: BatchStrategy::Aimd,
            batch_wait: Duration::ZERO,
            max_batch_rows: 0,
            max_batch_bytes: 64 << 20,
            queue_rows: 32_768,
            queue_bytes: 256 << 20,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ContainerError> {
        let id = &self.id;
        if id.name.is_empty() || id.name.contains(':') {
            return Err(ContainerError::Invalid(format!(
                "model name '{}' must not be empty nor hold ':'",
                id.name
            )));
        }
        if id.version.is_empty() {
            return Err(ContainerError::Invalid(format!(
                "model '{}' needs a version that is not empty",
                id.name
            )));
        }
        let counts = [
            ("threads", self.threads),
            ("replicas", self.replicas),
            ("max_batch_bytes", self.max_batch_bytes),
            ("queue_rows", self.queue_rows),
            ("queue_bytes", self.queue_bytes),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(ContainerError::Invalid(format!(
                    "{id}: {name} is 0; expected at least 1"
                )));
            }
        }
        if self.batch == BatchStrategy::Fixed(0) {
            return Err(ContainerError::Invalid(format!(
                "{id}: a fixed batch of 0 rows; expected at least 1"
            )));
        }
        Ok(())
    }

    /// The largest limit that a sizer may set.
    pub(crate) fn max_limit(&self) -> usize {
        match self.max_batch_rows {
            0 => MAX_LIMIT,
            rows => rows.min(MAX_LIMIT),
        }
    }
}

/// How the largest batch is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchStrategy {
    /// Additive increase, multiplicative decrease on the time that batches take.
    #[default]
    Aimd,
    /// The largest batch whose 99th percentile of time, fitted as a line in rows, is in time.
    Quantile,
    /// Every query runs alone.
    None,
    /// Always this many rows.
    Fixed(usize),
}

impl fmt::Display for BatchStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aimd => f.write_str("aimd"),
            Self::Quantile => f.write_str("quantile"),
            Self::None => f.write_str("none"),
            Self::Fixed(rows) => write!(f, "{rows}"),
        }
    }
}

impl FromStr for BatchStrategy {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        match text {
            "aimd" => Ok(Self::Aimd),
            "quantile" => Ok(Self::Quantile),
            "none" => Ok(Self::None),
            rows => match rows.parse() {
                Ok(rows) if rows > 0 => Ok(Self::Fixed(rows)),
                _ => Err(ContainerError::Invalid(format!(
                    "batch is '{text}'; expected {}",
                    Self::EXPECTED
                ))),
            },
        }
    }
}

impl BatchStrategy {
    /// What [`BatchStrategy::from_str`] takes, for messages.
    pub const EXPECTED: &'static str = "aimd, quantile, none, or a number of rows from 1";
}

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// ONNX Runtime's CPU provider.
    #[default]
    Cpu,
    /// Its CUDA provider.
    Cuda,
    /// Its TensorRT provider.
    TensorRt,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

impl FromStr for Device {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "tensorrt" => Ok(Self::TensorRt),
            other => Err(ContainerError::Invalid(format!(
                "unknown device '{other}'; expected cpu, cuda or tensorrt"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_strategy_is_written_as_it_is_read() {
        for text in ["aimd", "quantile", "none", "1", "64"] {
            assert_eq!(text.parse::<BatchStrategy>().unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "AIMD", "lots", "1.5"] {
            let error = text.parse::<BatchStrategy>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")) && error.contains("quantile"), "{error}");
        }
    }
}
