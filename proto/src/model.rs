//! Which model a call is for.

use std::{fmt, sync::Arc};

use crate::Signature;

/// A named predictor and one immutable build of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId {
    /// The model's name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
}

impl ModelId {
    /// Names a version of a model.
    pub fn new(name: impl Into<Arc<str>>, version: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), version: version.into() }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

/// What the first registration of a version fixed.
#[derive(Debug)]
pub struct ModelVersion {
    /// Name and version.
    pub id: ModelId,
    /// sha256 of the build in hexadecimal; empty where nobody told it.
    pub digest: Arc<str>,
    /// What it takes and gives.
    pub signature: Signature,
    /// False: its answers may differ for equal inputs, so they are not kept.
    pub cacheable: bool,
    /// The most rows that one call may hold; 0: no limit.
    pub max_batch_rows: usize,
}
