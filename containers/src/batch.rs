//! How large a batch may be, and how long one takes. No clock and no thread in here.

use std::time::Duration;

pub mod aimd;
pub mod fixed;
mod payoff;
pub mod profile;
pub mod quantile;

pub use aimd::Aimd;
pub use fixed::{Fixed, NoBatching};
pub use profile::LatencyProfile;
pub use quantile::Quantile;

/// Finds the largest batch of one replica.
pub trait BatchSizer: Send + 'static {
    /// The most rows that a batch of several queries may have now, at least 1.
    fn limit(&self) -> usize;

    /// Learns from a batch that was computed.
    fn observe(&mut self, sample: &BatchSample);
}

/// One batch, as a [`BatchSizer`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct BatchSample {
    /// Its rows. More than `limit` only where one query alone has as many.
    pub rows: usize,
    /// The limit when it was formed.
    pub limit: usize,
    /// The limit, and not the want of queries, ended it.
    pub limited: bool,
    /// The reply, minus the later of dispatch and the replica's previous reply. Never time in
    /// queue: with that as the signal the limit falls to 1 under load.
    pub service: Duration,
    /// What `service` should stay under: half of what the objective leaves after slack, since a
    /// row may wait out one batch and ride the next.
    pub target: Duration,
}

impl BatchSample {
    /// It took longer than it should. Without a target (zero) nothing is late.
    pub(crate) fn is_late(&self) -> bool {
        self.target > Duration::ZERO && self.service > self.target
    }
}
