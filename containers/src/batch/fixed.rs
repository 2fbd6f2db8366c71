//! Limits that do not move.

use super::{BatchSample, BatchSizer};

/// Always the same limit.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    rows: usize,
}

impl Fixed {
    /// Batches of at most `rows` rows; 0 counts as 1.
    pub fn new(rows: usize) -> Self {
        Self { rows: rows.max(1) }
    }
}

impl BatchSizer for Fixed {
    fn limit(&self) -> usize {
        self.rows
    }

    fn observe(&mut self, _: &BatchSample) {}
}

/// Every query runs alone, whatever its rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBatching;

impl BatchSizer for NoBatching {
    fn limit(&self) -> usize {
        1
    }

    fn observe(&mut self, _: &BatchSample) {}
}
