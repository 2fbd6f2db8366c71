//! One answer out of several arms' answers, row by row (docs/adr/0003-row-semantics.md).

mod answer;
mod loss;

use std::sync::Arc;

use skysail_proto::{DataType, Tensor};

pub use self::{answer::ArmAnswer, answer::RowAnswer, loss::Losses};
use crate::{Application, Label, RowRecord, RowStatus};

/// Reads, combines and judges answers for one application; made once, when it is put in place.
#[derive(Clone, Debug)]
pub struct Combiner {
    application: Arc<Application>,
    /// Place of the label output among the outputs.
    label_at: Option<usize>,
    /// Place of the scores output among the outputs.
    scores_at: Option<usize>,
    /// What labels are cast to; `None`: labels are class labels alone.
    label_type: Option<DataType>,
    /// By the index of a score; empty where no class has a name.
    classes: Vec<Label>,
}

/// One arm's answer and how much it counts.
#[derive(Clone, Copy, Debug)]
pub struct Got<'a> {
    /// Its place among the application's arms.
    pub arm: usize,
    /// Of the selection.
    pub weight: f64,
    /// As [`Combiner::read`] read it out of `tensors`.
    pub answer: &'a ArmAnswer,
    /// Its outputs, in the order of the application's, under the model's names.
    pub tensors: &'a [Tensor],
}

/// The arms that were asked, the late and the failed among them.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// How many.
    pub arms: usize,
    /// Sum of their weights.
    pub weight: f64,
}

/// The answer to a query. Vectors are by row.
#[derive(Clone, Debug, Default)]
pub struct Combined {
    /// In the order of the application's outputs, under its names. Empty if `missing` is not 0.
    pub outputs: Vec<Tensor>,
    /// In [0, 1]; 0 where no arm answered. A row that got the default for its low confidence
    /// keeps that confidence.
    pub confidence: Vec<f32>,
    /// Where each row comes from.
    pub row_status: Vec<RowStatus>,
    /// For the decision record.
    pub answers: Vec<RowRecord>,
    /// `low_confidence` where a row was below the threshold, else `row_failed` where one has no
    /// answer of an arm; empty otherwise.
    pub reason: &'static str,
    /// Whether an arm answered any row, be it given or replaced by the default.
    pub any_answered: bool,
    /// Rows that have neither an answer nor a default: the query fails.
    pub missing: usize,
}

impl Combiner {
    /// What the application's answers need.
    pub fn new(application: Arc<Application>) -> Self {
        Self { application, label_at: None, scores_at: None, label_type: None, classes: Vec::new() }
    }

    /// The application.
    pub fn application(&self) -> &Arc<Application> {
        &self.application
    }

    /// One answer per row out of what came in time. Nothing at all gives the default.
    pub fn combine(&self, rows: usize, got: &[Got<'_>], chosen: Chosen) -> Combined {
        let _ = (rows, got, chosen);
        Combined::default()
    }
}
