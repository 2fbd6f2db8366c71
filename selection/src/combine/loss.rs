//! What a truth label says of an arm's answer.

use super::{Combiner, numbers::as_number};
use crate::{DecisionRecord, Label, Loss};

/// Where nothing else is asked for: −ln of a probability of .01.
const LOG_CAP: f64 = 4.6;

/// What a truth label says of each arm of a decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// By the place in the record's arms, in [0, 1]; `None`: it did not answer the row.
    pub by_arm: Vec<Option<f64>>,
    /// How many were above the cap.
    pub clipped: u32,
}

impl Combiner {
    /// The loss of every arm that answered `row`, for
    /// [`Observation::Losses`](crate::policy::Observation::Losses). `truth` is cast already.
    pub fn losses(&self, record: &DecisionRecord, row: usize, truth: &Label) -> Losses {
        let mut clipped = 0;
        let by_arm = record.arms.iter().map(|arm| {
            let label = arm.labels.get(row)?.as_ref()?;
            let scores = arm.scores.get(row).filter(|scores| !scores.is_empty());
            let (loss, was_clipped) = self.loss(truth, label, scores.map(Vec::as_slice));
            clipped += u32::from(was_clipped);
            Some(loss)
        });
        Losses { by_arm: by_arm.collect(), clipped }
    }

    /// The loss of one answer in [0, 1]: the raw loss cut at the cap and divided by it; and
    /// whether it was cut. The log loss takes an arm without probabilities at its word, as if its
    /// label had probability 1.
    pub fn loss(&self, truth: &Label, label: &Label, scores: Option<&[f32]>) -> (f64, bool) {
        let cap = self.cap();
        let raw = match self.application.loss {
            Loss::ZeroOne => return (if truth == label { 0.0 } else { 1.0 }, false),
            Loss::Log => self.log_loss(truth, label, scores),
            Loss::Squared => difference(truth, label).powi(2),
            Loss::Absolute => difference(truth, label),
        };
        // A NaN is the worst there is.
        if raw <= cap { (raw.max(0.0) / cap, false) } else { (1.0, true) }
    }

    fn cap(&self) -> f64 {
        let asked = self.application.loss_cap;
        match self.application.loss {
            _ if asked > 0.0 && asked.is_finite() => asked,
            Loss::Log => LOG_CAP,
            _ => 1.0,
        }
    }

    fn log_loss(&self, truth: &Label, label: &Label, scores: Option<&[f32]>) -> f64 {
        let Some(scores) = scores else {
            return if truth == label { 0.0 } else { f64::INFINITY };
        };
        let of_truth = self.class_index(truth).and_then(|index| scores.get(index));
        // Rows of probabilities may be off by a thousandth, so one can exceed 1.
        of_truth.map_or(f64::INFINITY, |p| -f64::from(*p).clamp(0.0, 1.0).ln())
    }
}

fn difference(truth: &Label, label: &Label) -> f64 {
    match (as_number(truth), as_number(label)) {
        (Some(truth), Some(label)) => (truth - label).abs(),
        _ => f64::INFINITY,
    }
}
