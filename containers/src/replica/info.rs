//! What can be told about a container.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::config::BatchStrategy;

/// Whether a container takes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContainerState {
    /// It is being opened.
    Starting,
    /// It takes batches.
    Ready,
    /// A batch or a probe is overdue. It is tried again and again.
    Stalled,
    /// It is lost or fails all it is given; the reason says how. It is tried again and again.
    Broken,
    /// It finishes what it has and takes no more.
    Draining,
}

/// What can be told about one container.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    /// Unique among all containers.
    pub id: Arc<str>,
    /// Which replica of its version, from 0; freed numbers are used again.
    pub replica: usize,
    /// The model's name.
    pub model: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// `in-process`, or where its server listens.
    pub address: Arc<str>,
    /// Where it computes.
    pub device: Arc<str>,
    /// Whether it takes batches.
    pub state: ContainerState,
    /// Why it does not.
    pub reason: String,
    /// The most rows of a batch of several queries.
    pub batch_limit: usize,
    /// Queries that it holds.
    pub in_flight: usize,
    /// Rows that wait for the model version.
    pub queue_rows: usize,
    /// False: the objective is below what a single row takes.
    pub feasible: bool,
    /// When its state last changed.
    pub since: SystemTime,
    /// How its largest batch is found.
    pub batch: BatchStrategy,
    /// How long it is made to wait for a fuller batch.
    pub batch_wait: Duration,
    /// The objective in effect, slack included.
    pub objective: Duration,
    /// What a batch's service time is kept under.
    pub batch_target: Duration,
    /// The most rows of one call; 0: no limit.
    pub max_batch_rows: usize,
}
