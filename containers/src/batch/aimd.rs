//! Additive increase, multiplicative decrease.

use std::{collections::VecDeque, time::Duration};

use super::{BatchSample, BatchSizer};

/// Finds the largest batch that stays under a target, as TCP finds its window.
///
/// - *Slow start*: doubles after each batch that filled the limit in time; ended by two late
///   batches in five, with a return to the largest limit that was in time.
/// - Then: raised by [`Aimd::RAISE`] (at least 1 row) after each batch that filled the limit in
///   time, lowered by a tenth by each late one.
/// - After twenty full batches in a row below half the target, slow start again: the container has
///   become faster.
/// - A raise must pay: where the median of three full batches after it has over
///   [`Aimd::WORSE`] fewer rows per second than before, it is undone, and tried again after
///   [`Aimd::HOLD`] full batches. Some models get slower in larger batches.
/// - Light load says nothing about the limit and does not move it: only batches that were ended by
///   it raise it, and batches of less than half of it do not lower it.
/// - One query with more rows than the limit may raise it but never lowers it.
///
/// The rule is that of Clipper (NSDI 2017, section 4.3.1) with its back-off of 10 %; slow start is
/// TCP's.
#[derive(Clone, Debug)]
pub struct Aimd {
    limit: usize,
    max: usize,
    phase: Phase,
    /// Whether each of the last five batches was late.
    recent: VecDeque<bool>,
    /// Full batches below half the target since the last one that was not.
    easy: u32,
    /// Rows per second of the last full batches, newest last, with the limit each filled.
    rates: VecDeque<Rate>,
    /// The limit with the best median so far, to which a raise that does not pay returns.
    best: Option<Rate>,
    /// Full batches until a raise is tried again.
    hold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    SlowStart {
        /// The largest limit that a batch filled in time.
        in_time: usize,
    },
    Steady,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    limit: usize,
    rows_per_second: f64,
}

impl Aimd {
    /// Ratio by which the limit is raised, at least one row.
    pub const RAISE: f64 = 0.02;
    /// Ratio to which a late batch lowers it.
    pub const BACK_OFF: f64 = 0.9;
    /// Loss of rows per second, as a ratio, from which on a raise is undone.
    pub const WORSE: f64 = 0.05;
    /// Full batches after which a raise that was undone is tried again.
    pub const HOLD: u32 = 200;
    const EASY: u32 = 20;
    const MEDIAN_OF: usize = 3;

    /// Starts at one row and stays at `max` rows or less.
    pub fn new(max: usize) -> Self {
        Self {
            limit: 1,
            max: max.max(1),
            phase: Phase::SlowStart { in_time: 1 },
            recent: VecDeque::with_capacity(5),
            easy: 0,
            rates: VecDeque::with_capacity(Self::MEDIAN_OF),
            best: None,
            hold: 0,
        }
    }

    fn on_late(&mut self, sample: &BatchSample) {
        self.easy = 0;
        if sample.rows > sample.limit || (!sample.limited && sample.rows * 2 < self.limit) {
            return;
        }
        self.remember(true);
        match self.phase {
            Phase::SlowStart { in_time } => {
                if self.recent.iter().filter(|late| **late).count() >= 2 {
                    self.phase = Phase::Steady;
                    self.recent.clear();
                    // What was in time under another speed of the container is no guide.
                    self.set(in_time.min(self.limit));
                }
            }
            Phase::Steady => self.set((self.limit as f64 * Self::BACK_OFF).floor() as usize),
        }
    }

    fn on_time(&mut self, sample: &BatchSample) {
        let full = sample.limited || sample.rows > sample.limit;
        if !full {
            if sample.rows * 2 >= self.limit {
                self.remember(false);
            }
            return;
        }
        self.remember(false);
        if self.raise_did_not_pay(sample) {
            return;
        }
        self.easy = if sample.service < sample.target / 2 { self.easy + 1 } else { 0 };
        if self.hold > 0 {
            self.hold -= 1;
            return;
        }
        if self.phase == Phase::Steady && self.easy >= Self::EASY && self.limit < self.max {
            self.easy = 0;
            self.recent.clear();
            self.phase = Phase::SlowStart { in_time: self.limit };
        }
        match &mut self.phase {
            Phase::SlowStart { in_time } => {
                *in_time = (*in_time).max(sample.limit.min(sample.rows));
                let doubled = self.limit.saturating_mul(2);
                self.set(doubled);
                if self.limit == self.max {
                    self.phase = Phase::Steady;
                }
            }
            Phase::Steady => {
                let step = (self.limit as f64 * Self::RAISE).floor() as usize;
                self.set(self.limit.saturating_add(step.max(1)));
            }
        }
    }

    /// Compares the last three full batches with the best three so far; undoes the raises since
    /// then where they cost rows per second.
    ///
    /// The comparison is with the best and not with the last, since a loss of one per cent per
    /// raise would otherwise never be seen.
    fn raise_did_not_pay(&mut self, sample: &BatchSample) -> bool {
        let seconds = sample.service.as_secs_f64().max(1e-9);
        if self.rates.len() == Self::MEDIAN_OF {
            self.rates.pop_front();
        }
        self.rates
            .push_back(Rate { limit: sample.limit, rows_per_second: sample.rows as f64 / seconds });
        if self.rates.len() < Self::MEDIAN_OF {
            return false;
        }
        let mut sorted: Vec<f64> = self.rates.iter().map(|rate| rate.rows_per_second).collect();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(Self::MEDIAN_OF / 2).copied().unwrap_or_default();
        // The one in the middle of time stands for the three.
        let limit = self.rates.get(Self::MEDIAN_OF / 2).map_or(sample.limit, |rate| rate.limit);
        match self.best {
            Some(best)
                if limit > best.limit
                    && median < best.rows_per_second * (1.0 - Self::WORSE)
                    && self.rates.iter().all(|rate| rate.limit > best.limit) =>
            {
                self.set(best.limit);
                self.phase = Phase::Steady;
                self.hold = Self::HOLD;
                self.best = None;
                self.rates.clear();
                self.easy = 0;
                true
            }
            // At or below the best limit the newer measurement holds: the speed may have changed.
            Some(best) if limit > best.limit && median <= best.rows_per_second => false,
            _ => {
                self.best = Some(Rate { limit, rows_per_second: median });
                false
            }
        }
    }

    fn remember(&mut self, late: bool) {
        if self.recent.len() == 5 {
            self.recent.pop_front();
        }
        self.recent.push_back(late);
    }

    fn set(&mut self, limit: usize) {
        self.limit = limit.clamp(1, self.max);
    }
}

impl BatchSizer for Aimd {
    fn limit(&self) -> usize {
        self.limit
    }

    fn observe(&mut self, sample: &BatchSample) {
        if sample.target > Duration::ZERO && sample.service > sample.target {
            self.on_late(sample);
        } else {
            self.on_time(sample);
        }
    }
}

#[cfg(test)]
mod tests;
