//! Truth labels, as the application's answers have them.

use skysail_proto::{DataType, Tensor};

use super::{
    Combiner,
    numbers::{self, as_number, elements, fits, is_real, rounded, text},
};
use crate::Label;

impl Combiner {
    /// A label as the application's answers have it: cast to the label output's datatype. A class
    /// label is accepted by its name too; without a label output, also by its index.
    ///
    /// # Errors
    ///
    /// The label output's datatype cannot hold it.
    pub fn cast_label(&self, label: &Label) -> Result<Label, String> {
        if let Label::Text(text) = label
            && let Some(class) = self.application.class_labels.iter().position(|c| c == text)
        {
            return Ok(self.class(class));
        }
        if let Some(datatype) = self.label_type {
            return cast(label, datatype).ok_or_else(|| {
                format!(
                    "label '{}' does not fit {datatype}, the datatype of the label output",
                    text(label)
                )
            });
        }
        // Scores alone: a label is a class, by its index or its name.
        let index = as_number(label).filter(|n| *n >= 0.0 && n.fract() == 0.0).map(|n| n as usize);
        Ok(match index {
            Some(index) if self.classes.is_empty() || index < self.classes.len() => {
                self.class(index)
            }
            _ => Label::Text(text(label)),
        })
    }

    /// The truth labels of a feedback tensor, cast: `[rows]` or `[rows, 1]`, of any datatype.
    ///
    /// # Errors
    ///
    /// Other rows or another shape, a NaN, or a label that does not fit the label output.
    pub fn labels_from_tensor(&self, tensor: &Tensor, rows: usize) -> Result<Vec<Label>, String> {
        if tensor.rows() != Ok(rows) || tensor.row_elements() != 1 {
            return Err(format!(
                "label '{}' has shape {:?}; expected one label per row: [{rows}]",
                tensor.name(),
                tensor.shape()
            ));
        }
        let read = |(row, element)| {
            let label = numbers::label(tensor.datatype(), element).ok_or_else(|| {
                let what =
                    if tensor.datatype() == DataType::Bytes { "not UTF-8" } else { "not finite" };
                format!("label '{}', row {row}: it is {what}", tensor.name())
            })?;
            self.cast_label(&label)
        };
        elements(tensor).enumerate().map(read).collect()
    }

    /// The label of a class, by the index of its score.
    pub(super) fn class(&self, index: usize) -> Label {
        self.classes.get(index).cloned().unwrap_or_else(|| self.index_label(index))
    }

    /// The index of the score of the class that `label` names.
    pub(super) fn class_index(&self, label: &Label) -> Option<usize> {
        if !self.classes.is_empty() {
            return self.classes.iter().position(|class| class == label);
        }
        as_number(label).filter(|n| *n >= 0.0 && n.fract() == 0.0).map(|n| n as usize)
    }

    pub(super) fn index_label(&self, index: usize) -> Label {
        let index = Label::Int(i64::try_from(index).unwrap_or(i64::MAX));
        self.label_type.and_then(|datatype| cast(&index, datatype)).unwrap_or(index)
    }
}

/// `label` in another datatype; `None` where that cannot hold it.
pub(super) fn cast(label: &Label, datatype: DataType) -> Option<Label> {
    if datatype == DataType::Bytes {
        return Some(Label::Text(text(label)));
    }
    if is_real(datatype) {
        let value = rounded(datatype, as_number(label)?);
        return value.is_finite().then_some(Label::Real(value));
    }
    let value = match label {
        Label::Int(value) => *value,
        Label::Text(text) => match text.trim() {
            "true" => 1,
            "false" => 0,
            text => text.parse().ok()?,
        },
        Label::Real(value) => whole(*value)?,
    };
    fits(datatype, value).then_some(Label::Int(value))
}

fn whole(value: f64) -> Option<i64> {
    // Above 2^63 the cast would saturate.
    (value.fract() == 0.0 && value.abs() < 9.2e18).then_some(value as i64)
}
