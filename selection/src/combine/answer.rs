//! What one arm says, read out of its tensors.

use skysail_proto::Tensor;

use super::Combiner;
use crate::Label;

/// One row of an arm's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RowAnswer {
    /// Its label or value; `None` if the row failed, or the answer is opaque.
    pub label: Option<Label>,
    /// False: it holds a NaN, and the row failed.
    pub answered: bool,
    /// Index of its largest score, where its scores are probabilities.
    pub top: Option<usize>,
}

/// What one arm says, by row.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmAnswer {
    /// One per row.
    pub rows: Vec<RowAnswer>,
    /// Row-major; empty without a scores output.
    pub(super) scores: Vec<f32>,
    /// Scores per row.
    pub(super) classes: usize,
}

impl ArmAnswer {
    /// Whether any row did not fail.
    pub fn any_answered(&self) -> bool {
        self.rows.iter().any(|row| row.answered)
    }

    /// For the decision record.
    pub fn labels(&self) -> Vec<Option<Label>> {
        self.rows.iter().map(|row| row.label.clone()).collect()
    }
}

impl Combiner {
    /// Reads an arm's outputs, which are in the order of the application's.
    ///
    /// # Errors
    ///
    /// An output is missing, or has other rows, another datatype or another shape than the
    /// application's: the arm failed.
    pub fn read(&self, outputs: &[Tensor], rows: usize) -> Result<ArmAnswer, String> {
        let _ = (outputs, rows);
        Ok(ArmAnswer { rows: Vec::new(), scores: Vec::new(), classes: 0 })
    }

    /// An arm's scores for the decision record: empty unless the loss needs them, and for each
    /// row that has no probabilities.
    pub fn record_scores(&self, answer: &ArmAnswer) -> Vec<Vec<f32>> {
        let _ = answer;
        Vec::new()
    }
}
