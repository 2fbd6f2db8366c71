//! What another policy would have earned, out of the decision log (docs/adr/0009).
//!
//! The log has, for each decision, the probability q with which each arm was asked. An arm that a
//! target policy asks with probability π(a) stands in the estimate with the weight
//! π(a) · 1\[asked\] / q(a), so that rows count as often as if the target had drawn. One arm may
//! have been asked or several; where all were (q = 1), every weight is π(a) and nothing is guessed.
//!
//! A target that learns is played through the log in the order of time: each decision is judged by
//! the distribution that the target had then, before it learned anything of it.
//!
//! # Layout
//!
//! - [`history`]: decisions and what became known of their rows, in order
//! - [`judge`]: what an arm earned, by a truth label or a reward
//! - `replay`: a target's distribution at each decision, and what it learns
//! - `model`: a reward model, for the estimators that need one
//! - [`rows`], [`estimate`]: weights and rewards, and estimators with intervals and refusals
//! - [`audit`]: whether the log's probabilities are those that were drawn from
//!
//! # What it does not do
//!
//! It reads no file and prints nothing; `skysail evaluate` does.

pub mod audit;
pub mod estimate;
pub mod history;
pub mod judge;
mod model;
pub mod normal;
mod replay;
pub mod rows;

use std::fmt;

pub use self::{
    audit::{Audit, Check},
    estimate::{Diagnostics, Estimate, Estimates, Refusal},
    history::{GivenFeedback, History, InputAnswers},
    judge::{Judge, JudgeError, Scoring},
    rows::{Rows, Term},
};
use self::{model::RewardModel, replay::Replay};
use crate::policy::Policy;

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Weights above this are cut for the clipped estimate. Number > 0, default 10. Raising it
    /// trades its bias for variance.
    pub clip: f64,
    /// How often the intervals are to hold. Ratio in (0, 1), default .95.
    pub confidence: f64,
    /// Milliseconds after which a query that has no feedback no longer counts as pending, for
    /// policies that count those. Default one hour, as the feedback window is.
    pub window_ms: u64,
    /// Of the targets' own draws. They matter for policies that combine or count what is pending.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { clip: 10.0, confidence: 0.95, window_ms: 3_600_000, seed: 0 }
    }
}

/// A policy to judge.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it is shown.
    pub name: String,
    /// It, over the arms of the [`History`].
    pub policy: Policy,
}

/// What came out for one target.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The target's name.
    pub name: String,
    /// How much the log says of it.
    pub diagnostics: Diagnostics,
    /// What it would have earned, or why no number means anything.
    pub estimates: Result<Estimates, Refusal>,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Decisions in the history.
    pub decisions: usize,
    /// Rows with feedback.
    pub rows: usize,
    /// Mean reward of what clients were told; `None` where no row has feedback.
    pub logged: Option<Estimate>,
    /// The log's own checks.
    pub audit: Audit,
    /// In the order of the targets.
    pub policies: Vec<Judged>,
}

/// Judges every target by the log.
pub fn evaluate(history: &History, judge: &Judge, targets: &[Target], options: &Options) -> Report {
    let audit = Audit::of(history);
    let models = RewardModel::fit(history, judge);
    let judged = |target: &Target| {
        let replay = Replay::run(history, judge, &models, target, options);
        let diagnostics = replay.rows.diagnostics(history.decisions().len(), replay.uncovered());
        let estimates = match audit.failed() {
            Some(check) => Err(Refusal::Audit { check }),
            None => replay
                .refusal(history, judge)
                .or_else(|| diagnostics.refusal())
                .map_or_else(|| Ok(replay.rows.estimates(options.confidence)), Err),
        };
        Judged { name: target.name.clone(), diagnostics, estimates }
    };
    Report {
        decisions: history.decisions().len(),
        rows: history.truths().len(),
        logged: logged(history, judge, options),
        policies: targets.iter().map(judged).collect(),
        audit,
    }
}

/// What the clients were told is worth, whoever answered.
fn logged(history: &History, judge: &Judge, options: &Options) -> Option<Estimate> {
    let mut rows = Rows::new(options.clip);
    for truth in history.truths() {
        let reward = judge.told(&history.decisions()[truth.decision], truth);
        let term = Term { weight: 1.0, reward, predicted: 0.0 };
        rows.push(truth.decision, Some(0.0), &[term]);
    }
    (!history.truths().is_empty()).then(|| rows.estimates(options.confidence).ips)
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.value)?;
        match self.interval {
            Some((from, to)) => write!(f, " [{from:.4}, {to:.4}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
