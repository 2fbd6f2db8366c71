//! Where answers are kept.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use skysail_proto::{ModelId, Tensor};

use crate::{CacheKey, StoreStats};

pub mod embedded;
pub mod redis;
pub mod tiered;

/// An answer that was kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The outputs as the container gave them.
    pub outputs: Arc<[Tensor]>,
    /// When they were computed.
    pub at: Instant,
}

/// What a store knows of a key.
pub enum Lookup {
    /// The answer, young enough.
    Hit(Kept),
    /// There is none.
    Miss,
    /// It must be asked of a slower tier. The flight waits for this before it asks the model, so
    /// that equal calls ask once; an answer that is too old is `None`.
    Pending(BoxFuture<'static, Option<Kept>>),
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(kept) => f.debug_tuple("Hit").field(kept).finish(),
            Self::Miss => f.write_str("Miss"),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// Counts the calls of [`PredictionCache::drop_model`].
///
/// An answer whose computation began in an earlier generation may come from a build that is gone:
/// it is not kept, and nobody who came later shares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(pub u64);

/// An answer to keep.
#[derive(Clone, Debug)]
pub struct Fill {
    /// Of which call.
    pub key: CacheKey,
    /// Who answered.
    pub model: ModelId,
    /// The answer.
    pub outputs: Arc<[Tensor]>,
    /// The store's generation before the model was asked.
    pub generation: Generation,
}

/// A store of answers behind the cache layer. The clock is the caller's.
///
/// No method fails: a store that is slow or lost says [`Lookup::Miss`].
pub trait PredictionCache: Send + Sync + 'static {
    /// The answer at hand for `key`, if it is at most `max_age` old: no slower tier is asked.
    fn peek(&self, key: &CacheKey, max_age: Duration, now: Instant) -> Option<Kept>;

    /// The answer kept for `key` of `model`, if it is at most `max_age` old. Must not block.
    fn lookup(&self, key: &CacheKey, model: &ModelId, max_age: Duration, now: Instant) -> Lookup;

    /// Keeps an answer, and gives it back in the form to hand on. Must not block: a remote store
    /// writes behind.
    fn insert(&self, fill: Fill, now: Instant) -> Arc<[Tensor]>;

    /// Whether other processes look for the same keys, so that all must compute them alike.
    fn shares_keys(&self) -> bool {
        false
    }

    /// Changes with every [`PredictionCache::drop_model`], before that returns.
    fn generation(&self) -> Generation;

    /// Forgets all answers of a model version and says how many it found. Once this has returned,
    /// no answer from before it is given out.
    fn drop_model<'a>(&'a self, model: &'a ModelId) -> BoxFuture<'a, u64>;

    /// What the store counts.
    fn stats(&self) -> StoreStats;
}
