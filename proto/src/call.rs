//! What passes below `select`: one model asked for one query.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{ModelVersion, PredictError, Tensor, TensorError, Waiters, private, trace::Within};

/// 32 bytes that stand for more.
pub type Digest = [u8; 32];

/// A query's tensors under the names that the model gives them, sorted by name.
///
/// Arms whose links rename nothing share one of these, and so its digest.
#[derive(Debug)]
pub struct Inputs {
    tensors: Vec<Tensor>,
    rows: usize,
    digest: OnceLock<Digest>,
    private_digest: OnceLock<Digest>,
}

impl Inputs {
    /// Takes tensors that agree on their first dimension.
    ///
    /// # Errors
    ///
    /// No tensor, a scalar, a name given twice, no row, or tensors that differ in rows.
    pub fn new(mut tensors: Vec<Tensor>) -> Result<Self, TensorError> {
        tensors.sort_by(|a, b| a.name().cmp(b.name()));
        let first = tensors.first().ok_or(TensorError::NoTensor)?;
        let rows = first.rows()?;
        for pair in tensors.windows(2) {
            let [a, b] = pair else { continue };
            if a.name() == b.name() {
                return Err(TensorError::Twice { name: a.name().into() });
            }
            if b.rows()? != rows {
                return Err(TensorError::Rows {
                    name: b.name().into(),
                    got: b.rows()?,
                    other: a.name().into(),
                    expected: rows,
                });
            }
        }
        if rows == 0 {
            return Err(TensorError::NoRow { name: first.name().into() });
        }
        Ok(Self { tensors, rows, digest: OnceLock::new(), private_digest: OnceLock::new() })
    }

    /// The tensors, sorted by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name() == name)
    }

    /// Rows of the query, at least 1.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of all tensors' data.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.data().len()).sum()
    }

    /// BLAKE3-256 over each tensor's name, datatype, shape and bytes, each length-prefixed;
    /// computed once.
    pub fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&(self.tensors.len() as u64).to_le_bytes());
            for tensor in &self.tensors {
                tensor.hash_into(&mut hasher);
            }
            *hasher.finalize().as_bytes()
        })
    }

    /// Tells inputs apart as [`Inputs::digest`] does, at a fifth of its cost for a few KB, but is another one in
    /// every process; computed once.
    pub fn private_digest(&self) -> &Digest {
        self.private_digest.get_or_init(|| private::digest(&self.tensors))
    }
}

/// One model asked for one query.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// Who is asked.
    pub model: Arc<ModelVersion>,
    /// With what.
    pub inputs: Arc<Inputs>,
    /// The model's outputs that are wanted, sorted by name. Never what a single client chose: all
    /// that the application declares, so that equal queries share an answer.
    pub outputs: Arc<[Arc<str>]>,
    /// Identity of model, version, build and `outputs` for the cache (see [`call_identity`]).
    pub identity: Digest,
    /// When the answer must be in; slack is off already.
    pub deadline: Instant,
    /// How old a kept answer may be; `None`: look at no kept answer and keep none.
    pub max_age: Option<Duration>,
    /// Those who wait. Set by the layer that runs equal calls once; whoever queues a call without
    /// it makes one from `deadline`.
    pub waiters: Option<Arc<Waiters>>,
    /// Where in which trace it is asked; `None`: its query is not sampled.
    pub trace: Option<Within>,
}

/// The part of a cache key that does not depend on the query: BLAKE3-256 over the model's name,
/// its resolved version, the build digest and the sorted names of the outputs asked for, each
/// length-prefixed.
pub fn call_identity(model: &ModelVersion, outputs: &[Arc<str>]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in [&model.id.name, &model.id.version, &model.digest] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&(outputs.len() as u64).to_le_bytes());
    for name in outputs {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A model's answer to one query.
#[derive(Clone, Debug)]
pub struct ModelReply {
    /// The outputs asked for, under the model's names, in the order of [`ModelCall::outputs`];
    /// each has the query's rows.
    pub outputs: Arc<[Tensor]>,
    /// It was kept from an earlier call.
    pub cached: bool,
    /// Rows of the batch it was computed in.
    pub batch_rows: u32,
    /// From entering the queue to dispatch.
    pub queue: Duration,
    /// From dispatch to the container's reply.
    pub compute: Duration,
}

/// What a layer below `select` answers.
pub type ModelResult = Result<ModelReply, PredictError>;
