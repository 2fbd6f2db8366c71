//! What may go wrong when a model is started, and inside a container.

use std::{fmt, path::PathBuf};

use skysail_proto::{ModelId, TensorError};

use crate::{config::Device, runtime::OnnxRuntimeMissing};

/// Why a model could not be started, or a container could not compute a batch.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// The model file cannot be read.
    #[error("cannot read the model file {path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The version has been registered before.
    #[error(
        "{id} is registered already: {have}; refused: {got}; give the new build another version"
    )]
    AlreadyExists {
        /// Name and version.
        id: ModelId,
        /// What is registered.
        have: Box<Build>,
        /// What was refused.
        got: Box<Build>,
    },
    /// A name or setting is not usable.
    #[error("{0}")]
    Invalid(String),
    /// No such model or version.
    #[error("{kind} '{name}' is not known; known: {known}")]
    Unknown {
        /// `model` or `version`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is instead.
        known: String,
    },
    /// The model asks for something that this crate does not pass on.
    #[error("{what} '{name}' has the type {got}; {expected}")]
    UnsupportedType {
        /// `input` or `output`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Its type in the file.
        got: String,
        /// What would do.
        expected: &'static str,
    },
    /// The execution provider that was asked for is not there.
    #[error("device {device} cannot be used: {why}")]
    Device {
        /// Which device.
        device: Device,
        /// What is missing, and how to get it.
        why: String,
    },
    /// There is no ONNX Runtime.
    #[error(transparent)]
    Runtime(#[from] OnnxRuntimeMissing),
    /// The model runtime refused or failed, in its own words.
    #[error("{0}")]
    Failed(String),
    /// An answer does not have the form that was asked for.
    #[error("output '{output}': expected {expected}, got {got}")]
    Output {
        /// Which output.
        output: String,
        /// What was asked for.
        expected: String,
        /// What came.
        got: String,
    },
    /// The container panicked; its replica is not used any more.
    #[error("the container panicked: {0}")]
    Panicked(String),
    /// The container said that time was up before it was done.
    #[error("the container was not done in time")]
    Late,
    /// The container cannot be reached, or not any more.
    #[error("{0}")]
    Lost(String),
    /// A tensor of a batch is wrong.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The models are being shut down.
    #[error("the models are being shut down")]
    ShuttingDown,
}

/// Which build of a model version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Where it came from.
    pub from: String,
    /// sha256 of it; empty where it is not known.
    pub digest: String,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = if self.digest.is_empty() { "not known" } else { &self.digest };
        write!(f, "{} with digest {digest}", self.from)
    }
}
