//! What one arm says, read out of its tensors.

use skysail_proto::{DataType, Tensor};

use super::{
    Combiner,
    numbers::{elements, is_real, label, number},
};
use crate::{Label, Loss, Task};

/// How far from 1 a row of probabilities may sum.
const SUM_WITHIN: f64 = 1e-3;

/// One row of an arm's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RowAnswer {
    /// Its label or value; `None` if the row failed, or the answer is opaque.
    pub label: Option<Label>,
    /// False: it holds a NaN, or a value or label that is none, and the row failed.
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
    scores: Vec<f32>,
    /// Scores per row.
    pub(super) classes: usize,
}

impl ArmAnswer {
    /// Whether any row did not fail.
    pub fn any_answered(&self) -> bool {
        self.rows.iter().any(|row| row.answered)
    }

    /// By row, for the decision record.
    pub fn labels(&self) -> Vec<Option<Label>> {
        self.rows.iter().map(|row| row.label.clone()).collect()
    }

    pub(super) fn answered(&self, row: usize) -> Option<&RowAnswer> {
        self.rows.get(row).filter(|row| row.answered)
    }

    /// The scores of a row, where they are probabilities.
    pub(super) fn probabilities(&self, row: usize) -> Option<&[f32]> {
        self.answered(row)?.top?;
        self.scores.get(row * self.classes..(row + 1) * self.classes)
    }

    /// The largest probability of a row.
    pub(super) fn top_probability(&self, row: usize) -> Option<f32> {
        let top = self.answered(row)?.top?;
        self.scores.get(row * self.classes + top).copied()
    }
}

impl Combiner {
    /// Reads an arm's outputs, which are in the order of the application's.
    ///
    /// # Errors
    ///
    /// An output is missing, or has other rows, another datatype, or no place for one label per
    /// row: the arm failed.
    pub fn read(&self, outputs: &[Tensor], rows: usize) -> Result<ArmAnswer, String> {
        self.check(outputs, rows)?;
        match self.application.task {
            Task::Classification => self.read_classes(outputs, rows),
            Task::Regression => {
                let tensor = outputs.get(self.label_at.unwrap_or_default());
                let rows = read_labels(tensor.ok_or("it has no output to take values from")?)?;
                Ok(ArmAnswer { rows, scores: Vec::new(), classes: 0 })
            }
            Task::Opaque => {
                let rows = (0..rows).map(|row| RowAnswer {
                    label: None,
                    answered: !outputs.iter().any(|tensor| has_nan(tensor, row)),
                    top: None,
                });
                Ok(ArmAnswer { rows: rows.collect(), scores: Vec::new(), classes: 0 })
            }
        }
    }

    /// An arm's scores for the decision record: by row where the loss needs them, and empty for a
    /// row that has no probabilities.
    pub fn record_scores(&self, answer: &ArmAnswer) -> Vec<Vec<f32>> {
        if self.application.loss != Loss::Log || answer.classes == 0 {
            return Vec::new();
        }
        let row = |row| answer.probabilities(row).map(<[f32]>::to_vec).unwrap_or_default();
        (0..answer.rows.len()).map(row).collect()
    }

    fn check(&self, outputs: &[Tensor], rows: usize) -> Result<(), String> {
        let specs = &self.application.outputs;
        if outputs.len() != specs.len() {
            return Err(format!("expected {} outputs, got {}", specs.len(), outputs.len()));
        }
        for (spec, tensor) in specs.iter().zip(outputs) {
            if tensor.datatype() != spec.datatype {
                let (name, want, got) = (tensor.name(), spec.datatype, tensor.datatype());
                return Err(format!("output '{name}': expected datatype {want}, got {got}"));
            }
            let got = tensor.rows().map_err(|error| error.to_string())?;
            if got != rows {
                return Err(format!("output '{}': expected {rows} rows, got {got}", tensor.name()));
            }
        }
        Ok(())
    }

    fn read_classes(&self, outputs: &[Tensor], rows: usize) -> Result<ArmAnswer, String> {
        let labels = self.label_at.and_then(|at| outputs.get(at));
        let mut read = match labels {
            Some(tensor) => read_labels(tensor)?,
            None => vec![RowAnswer { label: None, answered: true, top: None }; rows],
        };
        let Some(tensor) = self.scores_at.and_then(|at| outputs.get(at)) else {
            return if labels.is_some() {
                Ok(ArmAnswer { rows: read, scores: Vec::new(), classes: 0 })
            } else {
                Err("it has neither labels nor scores".into())
            };
        };
        let (scores, classes) = self.read_scores(tensor)?;
        for (row, scores) in read.iter_mut().zip(scores.chunks_exact(classes)) {
            self.judge_scores(row, scores, labels.is_some());
        }
        Ok(ArmAnswer { rows: read, scores, classes })
    }

    fn read_scores(&self, tensor: &Tensor) -> Result<(Vec<f32>, usize), String> {
        let (name, classes) = (tensor.name(), tensor.row_elements());
        let named = self.classes.len();
        if classes == 0 || (named > 0 && classes != named) {
            return Err(format!("output '{name}': expected {named} scores per row, got {classes}"));
        }
        let scores: Vec<f32> = match tensor.datatype() {
            DataType::Bytes => return Err(format!("output '{name}': BYTES are no scores")),
            DataType::Fp32 => {
                let read = |b: &[u8]| b.try_into().map_or(f32::NAN, f32::from_le_bytes);
                tensor.data().chunks_exact(4).map(read).collect()
            }
            datatype => elements(tensor).map(|e| number(datatype, e) as f32).collect(),
        };
        Ok((scores, classes))
    }

    fn judge_scores(&self, row: &mut RowAnswer, scores: &[f32], has_label: bool) {
        if scores.iter().any(|score| score.is_nan()) {
            *row = RowAnswer { label: None, answered: false, top: None };
        }
        if !row.answered {
            return;
        }
        let mut top = 0;
        let (mut sum, mut inside) = (0.0, true);
        for (class, score) in scores.iter().enumerate() {
            if *score > scores[top] {
                top = class;
            }
            sum += f64::from(*score);
            inside &= (0.0..=1.0).contains(score);
        }
        if !has_label {
            row.label = Some(self.class(top));
        }
        row.top = (inside && (sum - 1.0).abs() <= SUM_WITHIN).then_some(top);
    }
}

/// One label per row, of shape `[rows]` or `[rows, 1]`.
fn read_labels(tensor: &Tensor) -> Result<Vec<RowAnswer>, String> {
    let per_row = tensor.row_elements();
    if per_row != 1 {
        let name = tensor.name();
        return Err(format!("output '{name}': expected one element per row, got {per_row}"));
    }
    let read = |element| {
        let label = label(tensor.datatype(), element);
        RowAnswer { answered: label.is_some(), label, top: None }
    };
    Ok(elements(tensor).map(read).collect())
}

fn has_nan(tensor: &Tensor, row: usize) -> bool {
    let datatype = tensor.datatype();
    let Some(size) = datatype.size().filter(|_| is_real(datatype)) else { return false };
    let bytes = size * tensor.row_elements();
    let row = tensor.data().get(row * bytes..(row + 1) * bytes).unwrap_or_default();
    row.chunks_exact(size).any(|element| number(datatype, element).is_nan())
}
