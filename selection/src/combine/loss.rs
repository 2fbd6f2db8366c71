//! What a truth label says of an arm's answer.

use skysail_proto::Tensor;

use super::Combiner;
use crate::{DecisionRecord, Label};

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
    /// [`Observation::Losses`](crate::policy::Observation::Losses).
    pub fn losses(&self, record: &DecisionRecord, row: usize, truth: &Label) -> Losses {
        let _ = (record, row, truth);
        Losses::default()
    }

    /// The loss of one answer, in [0, 1], and whether it was above the cap.
    pub fn loss(&self, truth: &Label, label: &Label, scores: Option<&[f32]>) -> (f64, bool) {
        let _ = scores;
        (if truth == label { 0.0 } else { 1.0 }, false)
    }

    /// A label as the application's answers have it: cast to the label output's datatype. A class
    /// label is accepted by its name too.
    ///
    /// # Errors
    ///
    /// The label output's datatype cannot hold it.
    pub fn cast_label(&self, label: &Label) -> Result<Label, String> {
        Ok(label.clone())
    }

    /// The truth labels of a feedback tensor, cast: `[rows]` or `[rows, 1]`, of any datatype.
    ///
    /// # Errors
    ///
    /// Other rows or another shape, a NaN, or a label that does not fit the label output.
    pub fn labels_from_tensor(&self, tensor: &Tensor, rows: usize) -> Result<Vec<Label>, String> {
        let _ = (tensor, rows);
        Ok(Vec::new())
    }
}
