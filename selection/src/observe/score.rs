//! How right the answers were that were given, by the feedback that was applied.
//!
//! Policies learn from the losses of arms; this is for those who look on, and no part of a state.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{DecisionRecord, Label, combine::Combiner, query::FeedbackValue};

/// What feedback said of the answers that were given, counted on this front end alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    /// Rows of decisions that a label or a reward came for, a default reward included. Left out
    /// are rows whose answer was the default output, which no record holds, and feedback by input,
    /// for which nothing was answered.
    pub rows: u64,
    /// The sum of their losses, each in [0, 1]; a reward's loss is what it lacks of 1.
    pub loss: f64,
}

/// Both only rise and tell nothing about other memory, hence relaxed.
#[derive(Debug, Default)]
pub(crate) struct Scores {
    rows: AtomicU64,
    millionths: AtomicU64,
}

impl Scores {
    pub(super) fn add(&self, loss: f64) {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.millionths.fetch_add((loss * 1e6).round() as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Scored {
        Scored {
            rows: self.rows.load(Ordering::Relaxed),
            loss: self.millionths.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }
}

/// The loss of the answer that was given for a row, where it can be told.
pub(super) fn loss(
    combiner: &Combiner,
    record: &DecisionRecord,
    value: &FeedbackValue,
    row: u32,
    label: Option<&Label>,
) -> Option<f64> {
    match (value, label) {
        (FeedbackValue::Reward(reward), _) => Some(1.0 - reward),
        (FeedbackValue::Labels(_), Some(truth)) => {
            let answer = record.answer.get(row as usize)?.label.as_ref()?;
            Some(combiner.loss(truth, answer, None).0)
        }
        (FeedbackValue::Labels(_), None) => None,
    }
}
