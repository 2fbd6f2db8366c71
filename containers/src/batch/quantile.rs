//! A line through the slow batches.

use std::collections::VecDeque;

use super::{Aimd, BatchSample, BatchSizer};
use pinball::{Line, fit};

mod pinball;

/// Keeps the 99th percentile of service time under the target: it fits that percentile as a line
/// in rows, and the limit is the largest batch for which the line is under the target.
///
/// - It starts as [`Aimd`] does, and goes on so until [`Quantile::ENOUGH`] batches were seen.
/// - The line is fitted to the last [`Quantile::WINDOW`] batches, again after every
///   [`Quantile::REFIT`] that filled the limit; so light load does not move the limit. It is not
///   trusted beyond twice the largest batch seen.
/// - Once the limit stands still all batches have one size and say nothing of the slope. Then the
///   line keeps its shape and follows their level.
/// - A change of speed is followed: three late full batches in five, five late ones of any size in a
///   row, or as many as a refit takes that all took less than half of what the line says, are another
///   container. What was seen before is forgotten, and [`Aimd`] looks again, from where the limit is.
/// - One query with more rows than the limit does not enter the fit, so it never lowers the limit;
///   in time, it widens how far the line is trusted.
///
/// Clipper's alternative to AIMD (NSDI 2017, section 4.3.2), which fitted once. It does not see
/// that larger batches are slower per row.
#[derive(Debug)]
pub struct Quantile {
    max: usize,
    limit: usize,
    /// Finds the limit as long as there is no line.
    explorer: Aimd,
    line: Option<Line>,
    /// Rows and seconds, newest last.
    samples: VecDeque<(f64, f64)>,
    /// The largest batch since the last change of speed.
    largest: usize,
    /// Full batches since the last fit.
    since_fit: usize,
    /// How many of these took less than half of what the line says.
    fast: usize,
    /// Whether each of the last five full batches was late.
    recent: VecDeque<bool>,
    /// Late batches, full or not, since the last that was in time.
    late: usize,
}

impl Quantile {
    /// The quantile that is kept under the target.
    pub const TAU: f64 = 0.99;
    /// Batches that a fit looks at.
    pub const WINDOW: usize = 1_000;
    /// Full batches after which the line is fitted again.
    pub const REFIT: usize = 100;
    /// Batches before the first fit: a hundred tell a 99th percentile only just.
    pub const ENOUGH: usize = 100;
    /// Sizes must differ by as much, as a ratio, for a slope to be seen in them.
    const SPREAD: f64 = 1.25;

    /// Starts at one row and stays at `max` rows or less.
    pub fn new(max: usize) -> Self {
        Self::explore(Aimd::new(max), max)
    }

    fn explore(explorer: Aimd, max: usize) -> Self {
        Self {
            max: max.max(1),
            limit: explorer.limit(),
            explorer,
            line: None,
            samples: VecDeque::new(),
            largest: 1,
            since_fit: 0,
            fast: 0,
            recent: VecDeque::with_capacity(5),
            late: 0,
        }
    }

    fn restart(&mut self, limit: usize) {
        *self = Self::explore(Aimd::steady(limit, self.max), self.max);
    }

    fn remember(&mut self, sample: &BatchSample) {
        if self.samples.len() == Self::WINDOW {
            self.samples.pop_front();
        }
        self.samples.push_back((sample.rows as f64, sample.service.as_secs_f64()));
        self.largest = self.largest.max(sample.rows);
    }

    /// True where the container has another speed than the line says.
    fn has_changed(&mut self, line: Line, sample: &BatchSample) -> bool {
        if self.recent.len() == 5 {
            self.recent.pop_front();
        }
        self.recent.push_back(sample.is_late());
        let late = self.recent.iter().filter(|late| **late).count();
        let expected = line.at(sample.rows as f64);
        self.fast += usize::from(sample.service.as_secs_f64() < expected / 2.0);
        // At one row there is nowhere to go.
        (late >= 3 && self.limit > 1) || self.fast >= Self::REFIT
    }

    fn refit(&mut self) {
        (self.since_fit, self.fast) = (0, 0);
        let points = self.samples.make_contiguous();
        let (least, most) = points
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(least, most), (x, _)| (least.min(*x), most.max(*x)));
        let fitted = if most >= least * Self::SPREAD { fit(points, Self::TAU) } else { None };
        self.line = fitted.or_else(|| Some(self.line?.scaled_to(points)));
    }

    fn follow(&mut self, target: f64) {
        let Some(line) = self.line else { return };
        let trusted = self.largest.saturating_mul(2).min(self.max);
        let rows = (target - line.intercept) / line.slope;
        // A line that does not rise says that any batch is in time, or none.
        let in_time = if line.slope > 0.0 {
            rows as usize
        } else if line.intercept <= target {
            trusted
        } else {
            1
        };
        self.limit = in_time.clamp(1, trusted.max(1));
    }
}

impl Line {
    /// The same shape, so that the quantile of `points` lies on it.
    fn scaled_to(self, points: &[(f64, f64)]) -> Self {
        let mut ratios: Vec<f64> =
            points.iter().map(|(rows, seconds)| seconds / self.at(*rows)).collect();
        ratios.retain(|ratio| ratio.is_finite() && *ratio > 0.0);
        ratios.sort_unstable_by(f64::total_cmp);
        let rank = (ratios.len() as f64 * Quantile::TAU).ceil() as usize;
        let factor = ratios.get(rank.saturating_sub(1)).copied().unwrap_or(1.0);
        Self { intercept: self.intercept * factor, slope: self.slope * factor }
    }
}

impl BatchSizer for Quantile {
    fn limit(&self) -> usize {
        self.limit
    }

    fn observe(&mut self, sample: &BatchSample) {
        let over = sample.rows > sample.limit.max(self.limit);
        if over && !sample.is_late() {
            self.largest = self.largest.max(sample.rows);
        } else if !over {
            self.remember(sample);
        }
        let full = !over && sample.limited;
        let Some(line) = self.line else {
            self.explorer.observe(sample);
            self.limit = self.explorer.limit();
            if full && self.samples.len() >= Self::ENOUGH {
                self.refit();
                self.follow(sample.target.as_secs_f64());
            }
            return;
        };
        // What is late with fewer rows is late with more.
        if !sample.is_late() {
            self.late = 0;
        } else if !over {
            self.late += 1;
        }
        if self.late >= 5 && sample.rows < self.limit {
            self.restart(sample.rows);
            return;
        }
        if !full {
            return;
        }
        if self.has_changed(line, sample) {
            self.restart(self.limit);
            self.explorer.observe(sample);
            self.limit = self.explorer.limit();
            return;
        }
        self.since_fit += 1;
        if self.since_fit >= Self::REFIT {
            self.refit();
        }
        // Also without a new line: the target may be another.
        self.follow(sample.target.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
