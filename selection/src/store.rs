//! The seams to what survives a restart, and to the models.

pub mod memory;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use skysail_proto::ModelVersion;

use crate::{DecisionId, DecisionRecord};

/// A future behind a trait object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whose state: an application's own (`context` empty), or one context's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// The application.
    pub application: Arc<str>,
    /// The context id; empty for the application itself.
    pub context: Arc<str>,
}

impl StateKey {
    /// A digest of both, the same on every front end; it stands in the ids of decisions, too.
    pub fn place(&self) -> [u8; 16] {
        crate::service::place(&self.application, &self.context)
    }
}

/// Which of the states that a key has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Counts commits, from 1; 0: there is no state.
    pub number: u64,
    /// The commit that made it. Tells two states of one number apart, where a store that several
    /// front ends share lost commits and has taken others since; 0 where the store can't lose any.
    pub commit_id: u128,
}

impl Version {
    /// There is no state.
    pub const NONE: Self = Self { number: 0, commit_id: 0 };

    /// Whether a store that holds this now has forgotten `known`, which it held before.
    pub(crate) fn has_forgotten(&self, known: &Self) -> bool {
        let other = self.commit_id != known.commit_id && self.commit_id != 0;
        self.number < known.number || (self.number == known.number && other)
    }
}

/// An encoded state and the version by which the next commit must name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Never [`Version::NONE`].
    pub version: Version,
    /// As the policy encoded it.
    pub state: Bytes,
}

/// One row of one decision that feedback was applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The decision.
    pub decision: DecisionId,
    /// The row.
    pub row: u32,
}

/// A new state together with what was applied to reach it.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Whose state.
    pub key: StateKey,
    /// The version it was computed from.
    pub expected: Version,
    /// The new state.
    pub state: Bytes,
    /// Set together with it. None of them may be set already.
    pub marks: Vec<Mark>,
    /// Names this commit, so that one whose reply was lost is recognised as one's own.
    pub commit_id: u128,
    /// Now, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The feedback window: the store may forget marks of decisions older than this.
    pub window: Duration,
}

/// How a commit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is durable, under a version of this number and the commit's id.
    Committed(u64),
    /// Somebody else was first, or a mark is set: load again and apply again.
    Conflict,
}

/// A store could not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
#[error("selection state: {0}")]
pub struct StoreError(pub Arc<str>);

/// Keeps selection state: versioned load, and compare-and-swap with the marks of what was
/// applied. What was acknowledged survives kill -9.
pub trait SelectionStore: Send + Sync + fmt::Debug {
    /// The latest state, or `None` where there is none yet.
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>>;

    /// The latest version of each of an application's contexts, as [`load`](Self::load) would find
    /// it. A question that front ends ask often, when they share a store.
    fn versions(
        &self,
        application: Arc<str>,
        contexts: Vec<Arc<str>>,
    ) -> BoxFuture<Result<Vec<Version>, StoreError>>;

    /// For each mark the id of the commit that set it, if it is set.
    fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> BoxFuture<Result<Vec<Option<u128>>, StoreError>>;

    /// Sets state and marks, if the version is still `expected` and no mark is set.
    fn commit(&self, commit: Commit) -> BoxFuture<Result<CommitOutcome, StoreError>>;

    /// Forgets the state of one context, or of the application and all its contexts (`None`).
    /// Marks stay. Versions go on from where they were.
    fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> BoxFuture<Result<(), StoreError>>;
}

/// Keeps decision records: written behind the answer, found by feedback.
pub trait DecisionLog: Send + Sync + fmt::Debug {
    /// Whether there is room for one more; admission refuses where there is none.
    fn has_room(&self) -> bool;

    /// How full the buffer is, as a ratio: from one half on, what only evaluation needs is thinned.
    fn fullness(&self) -> f64 {
        0.0
    }

    /// Takes a sealed record; never waits.
    fn append(&self, record: Arc<DecisionRecord>);

    /// The record of that id, or `None` also after waiting for one that is just being written.
    fn find(&self, id: DecisionId) -> BoxFuture<Result<Option<Arc<DecisionRecord>>, StoreError>>;
}

/// What the selection may know of the models.
pub trait ModelDirectory: Send + Sync + fmt::Debug {
    /// What an arm's string stands for now; cheap, for the hot path.
    fn resolve(&self, arm: &str) -> Option<Arc<ModelVersion>>;

    /// Why it could not answer so many rows by then; `None`: it could.
    fn mask(&self, model: &ModelVersion, rows: usize, deadline: Instant) -> Option<Mask>;
}

/// Why an arm was not eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// No replica is live.
    NoLiveReplica,
    /// Queue and service time together are predicted to end after the deadline.
    PredictedLate,
    /// Not even an idle replica answers a single row within the objective.
    Infeasible,
}
