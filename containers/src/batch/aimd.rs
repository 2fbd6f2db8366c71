//! Additive increase, multiplicative decrease.

use std::{collections::VecDeque, time::Duration};

use super::{
    BatchSample, BatchSizer,
    payoff::{Payoff, Verdict},
};

/// Finds the largest batch that stays under a target, as TCP finds its window.
///
/// - *Slow start*: doubles after each batch that filled the limit in time; ended by two late
///   batches in five.
/// - *Search*: then the limit lies between the largest that was in time and the one that was late.
///   It is looked for where the straight line between the two meets the target, so that it is
///   known after a few batches; one row per batch from the former would take a second.
/// - *Steady*: raised by [`Aimd::RAISE`] (at least 1 row) after each batch that filled the limit
///   in time, lowered by a tenth by each late one. Raised by a quarter of what the batch's time
///   lacks of the target where that is more: one batch that noise made late ends the search far too
///   low, from where 2 % a batch takes seconds.
/// - After twenty full batches in a row below half the target, slow start again: the container has
///   become faster.
/// - A raise must pay: where the median of three full batches after it has over 5 % fewer rows per
///   second than before, it is undone, and tried again after 200 full batches. Some models get
///   slower in larger batches.
/// - Light load says nothing about the limit and does not move it: only batches that were ended by
///   it raise it, and batches of less than half of it do not lower it, unless five in a row are
///   late: what is late with fewer rows is late with more.
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
    /// Late batches of less than half the limit since the last that was in time.
    small: Small,
    payoff: Payoff,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    SlowStart {
        /// The largest limit that a batch filled in time.
        in_time: Point,
    },
    Search {
        in_time: Point,
        late: Point,
        steps: u32,
    },
    Steady,
}

/// What a full batch took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Point {
    limit: usize,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Small {
    late: usize,
    /// Of the largest of them.
    rows: usize,
}

impl Point {
    fn of(sample: &BatchSample) -> Self {
        Self { limit: sample.limit, seconds: sample.service.as_secs_f64() }
    }
}

impl Aimd {
    /// Ratio by which the limit is raised, at least one row.
    pub const RAISE: f64 = 0.02;
    /// Ratio to which a late batch lowers it.
    pub const BACK_OFF: f64 = 0.9;
    const EASY: u32 = 20;
    const RECENT: usize = 5;
    /// The search ends with its best after as many; a straight line needs three.
    const STEPS: u32 = 6;

    /// Starts at one row and stays at `max` rows or less.
    pub fn new(max: usize) -> Self {
        Self {
            limit: 1,
            max: max.max(1),
            phase: Phase::SlowStart { in_time: Point { limit: 1, seconds: 0.0 } },
            recent: VecDeque::with_capacity(Self::RECENT),
            easy: 0,
            small: Small::default(),
            payoff: Payoff::default(),
        }
    }

    /// Starts at `limit` rows; slow start is entered when it proves easy.
    pub(super) fn steady(limit: usize, max: usize) -> Self {
        let mut aimd = Self::new(max);
        aimd.phase = Phase::Steady;
        aimd.set(limit);
        aimd
    }

    fn on_late(&mut self, sample: &BatchSample) {
        // One query with more rows than the limit; or a batch that was formed under a larger limit,
        // which an earlier answer has lowered since.
        if sample.rows > self.limit {
            return;
        }
        self.easy = 0;
        if !sample.limited && sample.rows * 2 < self.limit {
            self.on_late_and_small(sample.rows);
            return;
        }
        self.remember(true);
        match self.phase {
            Phase::SlowStart { in_time } => {
                if self.recent.iter().filter(|late| **late).count() >= 2 {
                    self.recent.clear();
                    self.search(in_time, Point::of(sample), sample.target, 0);
                }
            }
            Phase::Search { in_time, steps, .. } => {
                self.search(in_time, Point::of(sample), sample.target, steps);
            }
            Phase::Steady => {
                self.payoff.late(self.limit);
                self.set(backed_off(self.limit));
            }
        }
    }

    fn on_late_and_small(&mut self, rows: usize) {
        let small = &mut self.small;
        *small = Small { late: small.late + 1, rows: small.rows.max(rows) };
        if small.late >= Self::RECENT {
            let limit = backed_off(small.rows);
            *small = Small::default();
            self.payoff.late(limit);
            self.phase = Phase::Steady;
            self.set(limit);
        }
    }

    fn on_time(&mut self, sample: &BatchSample) {
        self.small = Small::default();
        if sample.rows > sample.limit.max(self.limit) {
            // What one query's many rows took per row is no measure of a batch of the limit.
            if !self.payoff.holds() {
                self.set(self.limit.saturating_add(step(self.limit)));
            }
            return;
        }
        if sample.rows * 2 >= self.limit {
            self.remember(false);
        }
        // One that was formed before the last raise has not tried it, and one that ended since the
        // next query alone has more rows than were left has not either.
        if !sample.limited || sample.limit < self.limit || sample.rows * 2 < self.limit {
            return;
        }
        match self.payoff.observe(sample.limit, sample.rows, sample.service) {
            Verdict::Go => {}
            Verdict::Wait => return,
            Verdict::Undo(limit) => {
                self.phase = Phase::Steady;
                self.easy = 0;
                self.set(limit);
                return;
            }
        }
        let easy = sample.service < sample.target / 2 && !self.payoff.holds();
        self.easy = if easy { self.easy + 1 } else { 0 };
        if self.payoff.holds() {
            return;
        }
        match self.phase {
            Phase::SlowStart { .. } => self.double(sample),
            Phase::Search { late, steps, .. } => {
                self.search(Point::of(sample), late, sample.target, steps);
            }
            Phase::Steady if self.easy >= Self::EASY => {
                self.easy = 0;
                self.recent.clear();
                self.double(sample);
            }
            Phase::Steady => self.raise(sample),
        }
    }

    fn double(&mut self, sample: &BatchSample) {
        self.phase = Phase::SlowStart { in_time: Point::of(sample) };
        self.set(self.limit.saturating_mul(2));
        if self.limit == self.max {
            self.phase = Phase::Steady;
        }
    }

    fn raise(&mut self, sample: &BatchSample) {
        let used = sample.service.as_secs_f64() / sample.target.as_secs_f64().max(f64::EPSILON);
        // In proportion to time; a batch has a fixed cost, so that the truth lies beyond.
        let missing = 1.0 / used.max(0.5) - 1.0;
        let more = (self.limit as f64 * missing / 4.0) as usize;
        self.set(self.limit.saturating_add(more.max(step(self.limit))));
    }

    /// The next limit to try between the two, or the end of the search.
    fn search(&mut self, in_time: Point, late: Point, target: Duration, steps: u32) {
        let gap = late.limit.saturating_sub(in_time.limit);
        if gap <= step(late.limit) || steps >= Self::STEPS {
            self.phase = Phase::Steady;
            self.set(in_time.limit.min(self.limit));
            return;
        }
        let rise = late.seconds - in_time.seconds;
        let share = (target.as_secs_f64() - in_time.seconds) / rise;
        // Kept off both ends, which are known. A rise of zero or less is chance.
        let share = if rise > 0.0 { share.clamp(0.05, 0.95) } else { 0.5 };
        let next = (gap as f64 * share).floor() as usize;
        self.phase = Phase::Search { in_time, late, steps: steps + 1 };
        self.set(in_time.limit + next.clamp(1, gap - 1));
    }

    fn remember(&mut self, late: bool) {
        if self.recent.len() == Self::RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(late);
    }

    fn set(&mut self, limit: usize) {
        self.limit = limit.clamp(1, self.max);
    }
}

fn step(limit: usize) -> usize {
    ((limit as f64 * Aimd::RAISE).floor() as usize).max(1)
}

fn backed_off(limit: usize) -> usize {
    (limit as f64 * Aimd::BACK_OFF).floor() as usize
}

impl BatchSizer for Aimd {
    fn limit(&self) -> usize {
        self.limit
    }

    fn observe(&mut self, sample: &BatchSample) {
        if sample.is_late() { self.on_late(sample) } else { self.on_time(sample) }
    }
}

#[cfg(test)]
mod tests;
