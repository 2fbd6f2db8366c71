//! Whether the probabilities in the log are those that were drawn from.
//!
//! Two checks that need no feedback. Neither sees all: a choice that is overridden, and logged with
//! the probability of the first one, leaves every weight as it was; and a wrong probability of the
//! right arm can leave the order of ranks as it was. Together they have seen whatever was tried.

use std::fmt;

use super::{History, judge::was_asked};
use crate::{DecisionRecord, Outcome};

/// Standard errors that are allowed.
const MOST_ERRORS: f64 = 4.0;

/// A sum of probabilities above 1 by more than this: several arms may be asked.
const ROUNDING: f64 = 1e-9;

/// One decision, as the audit looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// The probability of each arm being asked; 0 where it could not be.
    pub q: &'a [f64],
    /// The arms that were asked, each with the probability that was recorded for it.
    pub asked: &'a [(usize, f64)],
    /// Which arms were eligible.
    pub live: &'a [bool],
}

/// What was counted against what was to be expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What was counted.
    pub what: String,
    /// The mean weight, or how often the arm was asked.
    pub got: f64,
    /// What it should be.
    pub expected: f64,
    /// The difference in standard errors, which follow from the probabilities; ±∞ where nothing
    /// was left to chance and it differs all the same.
    pub z: f64,
    /// Within four standard errors and what the skewness of rare arms adds.
    pub passed: bool,
}

/// All checks of one log.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Decisions looked at.
    pub decisions: usize,
    /// One for each target and each rank.
    pub checks: Vec<Check>,
}

impl Audit {
    /// Of the decisions of a history.
    pub fn of(history: &History) -> Self {
        let mut tally = Tally::default();
        for record in history.decisions() {
            tally.add_record(record);
        }
        tally.finish()
    }

    /// The first check that failed, in words.
    pub fn failed(&self) -> Option<String> {
        self.checks.iter().find(|check| !check.passed).map(Check::to_string)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, got, expected, z, .. } = self;
        let precision = if *expected > 10.0 { 0 } else { 4 };
        write!(f, "{what} {got:.precision$}, expected {expected:.precision$}, z = {z:.1}")
    }
}

/// Sums of one check.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    got: f64,
    expected: f64,
    variance: f64,
    /// Third central moment.
    skew: f64,
}

impl Sum {
    fn add(&mut self, got: f64, expected: f64, variance: f64, skew: f64) {
        self.got += got;
        self.expected += expected;
        self.variance += variance.max(0.0);
        self.skew += skew;
    }

    /// The normal's four standard errors and the term of Cornish and Fisher (1938) for skewness:
    /// of an arm that is asked once in ten thousand times, four asks too many are no alarm.
    fn check(&self, what: String, scale: f64) -> Check {
        let error = self.variance.sqrt();
        let off = self.got - self.expected;
        let skewed = if self.variance > 0.0 { self.skew.abs() / self.variance } else { 0.0 };
        let allowed = MOST_ERRORS * error + (MOST_ERRORS * MOST_ERRORS - 1.0) / 6.0 * skewed;
        let rounding = 1e-9 * self.expected.max(1.0);
        let z = if off.abs() <= rounding { 0.0 } else { off / error };
        let passed = off.abs() <= allowed + rounding;
        Check { what, got: self.got * scale, expected: self.expected * scale, z, passed }
    }
}

/// Counts decisions.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    decisions: usize,
    uniform: Sum,
    first: Sum,
    ranks: Vec<Sum>,
}

impl Tally {
    /// One decision of the log.
    pub fn add_record(&mut self, record: &DecisionRecord) {
        let q: Vec<f64> = record.arms.iter().map(|arm| arm.q).collect();
        let live: Vec<bool> =
            record.arms.iter().map(|arm| arm.outcome != Outcome::Masked).collect();
        let arms = record.arms.iter().enumerate();
        let asked: Vec<(usize, f64)> =
            arms.filter(|(_, arm)| was_asked(arm)).map(|(place, arm)| (place, arm.q)).collect();
        self.add(&Drawn { q: &q, asked: &asked, live: &live });
    }

    /// One decision.
    pub fn add(&mut self, drawn: &Drawn<'_>) {
        let count = drawn.live.iter().filter(|live| **live).count();
        if count == 0 {
            return;
        }
        self.decisions += 1;
        let first = drawn.live.iter().position(|live| *live);
        weigh(
            &mut self.uniform,
            drawn,
            |place| {
                if drawn.live[place] { 1.0 / count as f64 } else { 0.0 }
            },
        );
        weigh(&mut self.first, drawn, |place| if first == Some(place) { 1.0 } else { 0.0 });
        self.rank(drawn);
    }

    /// Whether the arm of each rank was asked as often as its probabilities say.
    fn rank(&mut self, drawn: &Drawn<'_>) {
        let mut order: Vec<usize> = (0..drawn.q.len()).filter(|place| drawn.live[*place]).collect();
        order.sort_by(|a, b| drawn.q[*b].total_cmp(&drawn.q[*a]));
        if self.ranks.len() < order.len() {
            self.ranks.resize(order.len(), Sum::default());
        }
        for (sum, place) in self.ranks.iter_mut().zip(order) {
            let q = drawn.q[place].clamp(0.0, 1.0);
            let was = drawn.asked.iter().any(|(asked, _)| *asked == place);
            let variance = q * (1.0 - q);
            sum.add(if was { 1.0 } else { 0.0 }, q, variance, variance * (1.0 - 2.0 * q));
        }
    }

    /// The verdicts.
    pub fn finish(self) -> Audit {
        if self.decisions == 0 {
            return Audit::default();
        }
        let scale = 1.0 / self.decisions as f64;
        let mut checks = vec![
            self.uniform.check("mean weight of a uniform target".into(), scale),
            self.first.check("mean weight of a target that asks the first arm".into(), scale),
        ];
        let ranks = self.ranks.iter().enumerate();
        checks.extend(
            ranks.map(|(rank, sum)| {
                sum.check(format!("the arm of rank {} was asked", rank + 1), 1.0)
            }),
        );
        Audit { decisions: self.decisions, checks }
    }
}

/// The weight of a target in one decision, with its moments as they follow from q.
fn weigh(sum: &mut Sum, drawn: &Drawn<'_>, target: impl Fn(usize) -> f64) {
    let got = drawn.asked.iter().map(|(place, p)| target(*place) / p).sum::<f64>();
    let (mut mean, mut square, mut cube, mut apart) = (0.0, 0.0, 0.0, (0.0, 0.0));
    for (place, q) in drawn.q.iter().enumerate().filter(|(_, q)| **q > 0.0) {
        let pi = target(place);
        mean += pi;
        square += pi * pi / q;
        cube += pi * pi * pi / (q * q);
        let weight = pi / q;
        apart.0 += weight * weight * q * (1.0 - q);
        apart.1 += weight * weight * weight * q * (1.0 - q) * (1.0 - 2.0 * q);
    }
    if drawn.q.iter().sum::<f64>() <= 1.0 + ROUNDING {
        let skew = cube - 3.0 * mean * square + 2.0 * mean * mean * mean;
        sum.add(got, mean, square - mean * mean, skew);
    } else {
        // Arms that are asked beside each other are taken as independent.
        sum.add(got, mean, apart.0, apart.1);
    }
}

#[cfg(test)]
mod tests;
