//! One answer out of several arms' answers, row by row (docs/adr/0003-row-semantics.md).

mod answer;
mod assemble;
mod labels;
mod loss;
mod numbers;
mod verdict;

use std::sync::Arc;

use rand::Rng;
use skysail_proto::{DataType, Tensor, TensorSpec};

pub use self::{
    answer::{ArmAnswer, RowAnswer},
    loss::Losses,
};
use self::{
    labels::cast,
    verdict::{Source, Verdicts},
};
use crate::{Application, Label, RowRecord, RowStatus, Task};

/// The reason where a row was below the confidence threshold.
pub const LOW_CONFIDENCE: &str = "low_confidence";

/// The reason where no arm answered a row.
pub const ROW_FAILED: &str = "row_failed";

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
    /// By output; `None`: there is none.
    default: Option<Vec<Tensor>>,
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
        let outputs = &application.outputs;
        let place = |name: &Option<Arc<str>>| {
            let name = name.as_ref()?;
            outputs.iter().position(|spec| *spec.name == **name)
        };
        let label_at = match (place(&application.label_output), application.task) {
            (Some(at), _) => Some(at),
            // A regression with one output needs not say which.
            (None, Task::Regression) => (!outputs.is_empty()).then_some(0),
            (None, _) => None,
        };
        let default = default_of(&application);
        let mut combiner = Self {
            label_at,
            scores_at: place(&application.scores_output),
            label_type: label_at.and_then(|at| outputs.get(at)).map(|spec| spec.datatype),
            classes: Vec::new(),
            default,
            application,
        };
        combiner.classes = combiner.name_classes();
        combiner
    }

    /// The application.
    pub fn application(&self) -> &Arc<Application> {
        &self.application
    }

    /// One answer per row out of what came in time. Nothing at all gives the default.
    ///
    /// With a generator a row's answer is not the vote or the mean but that of one arm, drawn by
    /// weight among those that answered it.
    pub fn combine(
        &self,
        rows: usize,
        got: &[Got<'_>],
        chosen: Chosen,
        rng: Option<&mut dyn Rng>,
    ) -> Combined {
        let draws = rng.is_some();
        let mut verdicts = self.judge(rows, got, chosen, rng);
        let any_answered = verdicts.rows.iter().any(|row| row.source != Source::Missing);
        let reason = self.fall_back(got, &mut verdicts);
        let missing = verdicts.rows.iter().filter(|row| row.source == Source::Missing).count();
        let outputs = if missing == 0 { self.assemble(got, &verdicts) } else { Vec::new() };
        let mut combined = Combined {
            outputs,
            confidence: Vec::with_capacity(rows),
            row_status: Vec::with_capacity(rows),
            answers: Vec::with_capacity(rows),
            reason,
            any_answered,
            missing,
        };
        for row in verdicts.rows {
            let default = row.source == Source::Default;
            let status = if default { RowStatus::Default } else { RowStatus::Answered };
            let label = row.label.filter(|_| !default);
            combined.confidence.push(row.confidence);
            combined.row_status.push(status);
            let arm = match row.source {
                Source::Arm(place) if draws && label.is_none() => Some(got[place].arm),
                _ => None,
            };
            // A default is no draw.
            let p = if default { 1.0 } else { row.p };
            combined.answers.push(RowRecord { label, p, arm, default });
        }
        combined
    }

    /// Puts the default where a row has no answer or too little confidence; says why.
    fn fall_back(&self, got: &[Got<'_>], verdicts: &mut Verdicts) -> &'static str {
        let threshold = self.application.confidence_threshold;
        let mut reason = "";
        for row in &mut verdicts.rows {
            let missing = row.source == Source::Missing;
            let low = !missing && row.confidence < threshold;
            if low {
                reason = LOW_CONFIDENCE;
            } else if missing && reason.is_empty() {
                reason = ROW_FAILED;
            }
            if (missing || low) && self.default.is_some() {
                row.source = Source::Default;
            }
        }
        let replaced = verdicts.rows.iter().any(|row| row.source == Source::Default);
        if replaced && !self.default_fits(got, verdicts) {
            // Rows of two sizes fit no tensor, so all of them are the default.
            for row in &mut verdicts.rows {
                row.source = Source::Default;
            }
        }
        reason
    }

    /// The class labels as the label output would hold them; a name that it cannot hold stands
    /// for its index.
    fn name_classes(&self) -> Vec<Label> {
        let name = |(index, name): (usize, &Arc<str>)| {
            let name = Label::Text(Arc::clone(name));
            match self.label_type {
                None => name,
                Some(datatype) => cast(&name, datatype).unwrap_or_else(|| self.index_label(index)),
            }
        };
        self.application.class_labels.iter().enumerate().map(name).collect()
    }
}

/// The default's tensors in the order of the outputs; `None` unless there is one row of each.
fn default_of(application: &Application) -> Option<Vec<Tensor>> {
    let of = |spec: &TensorSpec| {
        let default = application.default_output.iter().find(|d| d.name() == spec.name)?;
        let fits = default.datatype() == spec.datatype && default.rows() == Ok(1);
        fits.then(|| default.clone())
    };
    let default: Option<Vec<Tensor>> = application.outputs.iter().map(of).collect();
    default.filter(|default| !default.is_empty())
}

#[cfg(test)]
mod tests;
