//! What is told of batches and losses: once per batch, never per query.

use std::{
    fmt,
    time::{Duration, Instant},
};

use skysail_proto::{ModelId, trace::SpanRef};

/// Hears of every batch and every loss. Called on the replicas' threads and on those of callers,
/// so it must be quick and must not block.
pub trait BatchObserver: fmt::Debug + Send + Sync + 'static {
    /// A batch was computed, or failed.
    fn batch(&self, report: &BatchReport<'_>);

    /// Queries that will not be computed.
    fn dropped(&self, model: &ModelId, reason: DropReason, queries: u64);
}

/// What became of one batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchReport<'a> {
    /// Which model version.
    pub model: &'a ModelId,
    /// Which of its replicas, from 0.
    pub replica: usize,
    /// The same by its name.
    pub container: &'a str,
    /// Queries in the batch.
    pub queries: usize,
    /// Their rows.
    pub rows: usize,
    /// The limit when it was formed, in rows.
    pub limit: usize,
    /// Why it was not held open any longer.
    pub release: Release,
    /// From entering the queue to dispatch: the mean over its queries.
    pub queue_mean: Duration,
    /// The same: the longest.
    pub queue_max: Duration,
    /// From dispatch to the reply.
    pub compute: Duration,
    /// The container failed on the batch.
    pub failed: bool,
    /// The limit after the batch.
    pub next_limit: usize,
    /// Where a query in it is sampled.
    pub trace: Option<&'a BatchTrace>,
}

/// The place of a batch in the traces of its queries: it has a span of its own, a part of the first
/// sampled query's. A container in another process is told it as its parent.
#[derive(Clone, Debug)]
pub struct BatchTrace {
    /// The batch's own span.
    pub span: SpanRef,
    /// What it is a part of: the arm of the first sampled query.
    pub parent: SpanRef,
    /// The arms of the other sampled queries.
    pub links: Vec<SpanRef>,
    /// When the batch was sent.
    pub dispatched: Instant,
}

/// Why a batch was dispatched when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Release {
    /// It had as many rows as the limit allows.
    Full,
    /// The replica was free and nothing was to be waited for.
    Idle,
    /// `batch_wait` was over.
    Timer,
    /// Waiting longer would have made a query late.
    Deadline,
}

impl Release {
    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Idle => "idle",
            Self::Timer => "timer",
            Self::Deadline => "deadline",
        }
    }
}

/// Why a query was not computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Its latest deadline passed in the queue.
    Expired,
    /// No replica could have finished it in time with the batch that it would have been in.
    Window,
    /// Everybody who waited for it has gone.
    Abandoned,
    /// The last replica was lost.
    ReplicaLost,
    /// The queue was full, so it was refused.
    Full,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Expired, Self::Window, Self::Abandoned, Self::ReplicaLost, Self::Full];

    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Window => "window",
            Self::Abandoned => "abandoned",
            Self::ReplicaLost => "replica_lost",
            Self::Full => "full",
        }
    }
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl BatchObserver for NoObserver {
    fn batch(&self, _: &BatchReport<'_>) {}

    fn dropped(&self, _: &ModelId, _: DropReason, _: u64) {}
}
