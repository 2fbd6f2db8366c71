//! What an arm earned in a row, by what became known of it.
//!
//! A label scores every arm that answered: the reward is 1 − loss, by the same code as in the
//! service. An arm that was asked and was late or failed earned 0: asking it got the client
//! nothing, and leaving such rows out would flatter the arm that answers easy queries only.
//!
//! A bare reward is what the client made of what it was told, a default too: where a single arm
//! was asked, it is the reward of asking that arm. Where several were, it is credited to those
//! whose answer was given, by q · P(answer), and a default to none (design 4.2).

use std::sync::Arc;

use bytes::Bytes;
use skysail_proto::{DataType, Tensor, TensorSpec};

use super::history::{Known, Truth};
use crate::{
    Application, ArmRecord, DecisionRecord, Label, Loss, Outcome, Task,
    combine::{ArmAnswer, Chosen, Combiner, Got},
};

/// Rounding, in a sum of probabilities.
const ROUNDING: f64 = 1e-9;

/// Relative difference up to which two numbers are the same answer: services answer in FP32.
const SAME: f64 = 1e-4;

/// Rows that are combined again to see whether the recorded answer comes out.
const REPRODUCED: usize = 5_000;

/// How an application judges answers; the log does not say.
#[derive(Clone, Debug, Default)]
pub struct Scoring {
    /// `None`: the zero-one loss, for labels that are no fractions.
    pub loss: Option<Loss>,
    /// Losses are cut here and divided by it; 0: the loss's own default.
    pub loss_cap: f64,
    /// From the index of a score to a label; empty: the label is the index.
    pub class_labels: Vec<Arc<str>>,
}

/// A log that cannot be judged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// Numbers are never quite equal.
    #[error(
        "the answers in the log are fractions, such as {0}; say by which loss they are judged \
         (squared or absolute, with its cap)"
    )]
    Fractions(f64),
    /// There is no difference of them.
    #[error("the answers in the log are texts, such as '{0}', and the loss expects numbers")]
    Texts(Arc<str>),
}

/// Judges answers as the application does.
#[derive(Clone, Debug)]
pub struct Judge {
    combiner: Combiner,
    loss: Loss,
    /// Of labels as the arms say them; `None`: no arm ever said one.
    datatype: Option<DataType>,
    /// Scores per row; 0: the log holds none.
    classes: usize,
}

/// What is known of one arm in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sight {
    /// What it earned, and the probability that this was to be seen.
    Seen { reward: f64, probability: f64 },
    /// It was not seen, and might have been.
    Unseen,
    /// There was no chance of seeing it.
    Hidden,
}

impl Judge {
    /// For a log with such decisions in it.
    ///
    /// # Errors
    ///
    /// The loss does not go with their labels.
    pub fn new(scoring: Scoring, decisions: &[DecisionRecord]) -> Result<Self, JudgeError> {
        let said = |arm: &ArmRecord| arm.labels.iter().flatten().next().cloned();
        let label = decisions.iter().flat_map(|record| &record.arms).find_map(said);
        let classes = decisions.iter().flat_map(|record| &record.arms).flat_map(|arm| &arm.scores);
        let classes = classes.map(Vec::len).max().unwrap_or(0);
        let loss = scoring.loss.unwrap_or(Loss::ZeroOne);
        let regression = matches!(loss, Loss::Squared | Loss::Absolute);
        let datatype = match &label {
            None => None,
            Some(Label::Real(value)) if scoring.loss.is_none() => {
                return Err(JudgeError::Fractions(*value));
            }
            Some(Label::Text(text)) if regression => {
                return Err(JudgeError::Texts(Arc::clone(text)));
            }
            Some(Label::Real(_)) => Some(DataType::Fp64),
            Some(Label::Int(_)) if regression => Some(DataType::Fp64),
            Some(Label::Int(_)) => Some(DataType::Int64),
            Some(Label::Text(_)) => Some(DataType::Bytes),
        };
        let application = Arc::new(application(&scoring, loss, datatype, classes));
        Ok(Self { combiner: Combiner::new(application), loss, datatype, classes })
    }

    /// A truth label as the arms' labels are; `None` where it cannot be one.
    pub(super) fn cast(&self, label: &Label) -> Option<Label> {
        self.datatype?;
        self.combiner.cast_label(label).ok()
    }

    /// By the place in the record's arms.
    pub(super) fn losses(
        &self,
        record: &DecisionRecord,
        row: usize,
        truth: &Label,
    ) -> Vec<Option<f64>> {
        self.combiner.losses(record, row, truth).by_arm
    }

    /// By the place in the record's arms.
    pub(super) fn see(&self, record: &DecisionRecord, truth: &Truth) -> Vec<Sight> {
        match &truth.value {
            Known::Label(label) => {
                let losses = self.losses(record, truth.row, label);
                let see = |(arm, loss): (&ArmRecord, Option<f64>)| {
                    let reward = loss.map_or(0.0, |loss| 1.0 - loss);
                    sight(arm, arm.q, reward)
                };
                record.arms.iter().zip(losses).map(see).collect()
            }
            Known::Reward(reward) if is_single(record) => {
                record.arms.iter().map(|arm| sight(arm, arm.q, *reward)).collect()
            }
            Known::Reward(reward) => credited(record, truth.row, *reward),
        }
    }

    /// What the client was told is worth.
    pub(super) fn told(&self, record: &DecisionRecord, truth: &Truth) -> f64 {
        let label = match &truth.value {
            Known::Reward(reward) => return *reward,
            Known::Label(label) => label,
        };
        let asked: Vec<usize> = asked(record).collect();
        if let [only] = asked[..] {
            let loss = self.losses(record, truth.row, label)[only];
            return loss.map_or(0.0, |loss| 1.0 - loss);
        }
        let answer = record.answer.get(truth.row).and_then(|answer| answer.label.as_ref());
        match answer {
            Some(answer) if self.loss != Loss::Log => {
                1.0 - self.combiner.loss(label, answer, None).0
            }
            _ => self.combined(record, truth.row, label, &asked, &weights(record)),
        }
    }

    /// What the combination of these arms' answers would have earned.
    pub(super) fn combined(
        &self,
        record: &DecisionRecord,
        row: usize,
        truth: &Label,
        chosen: &[usize],
        weights: &[f64],
    ) -> f64 {
        let Some((label, scores)) = self.combine(record, row, chosen, weights) else { return 0.0 };
        1.0 - self.combiner.loss(truth, &label, scores.as_deref()).0
    }

    /// What an answer drawn by weight among these arms would have earned in the mean.
    pub(super) fn drawn(
        &self,
        record: &DecisionRecord,
        row: usize,
        truth: &Label,
        chosen: &[usize],
        weights: &[f64],
    ) -> f64 {
        let losses = self.losses(record, row, truth);
        let (mut earned, mut all) = (0.0, 0.0);
        for place in chosen {
            let weight = weights.get(*place).copied().unwrap_or(0.0);
            if let Some(loss) = losses.get(*place).copied().flatten() {
                earned += weight * (1.0 - loss);
                all += weight;
            }
        }
        if all > 0.0 { earned / all } else { 0.0 }
    }

    /// The service's own combination, out of what the record holds.
    fn combine(
        &self,
        record: &DecisionRecord,
        row: usize,
        chosen: &[usize],
        weights: &[f64],
    ) -> Option<(Label, Option<Vec<f32>>)> {
        let answers: Vec<(usize, ArmAnswer, Vec<Tensor>)> = chosen
            .iter()
            .filter_map(|place| {
                let tensors = self.tensors(record.arms.get(*place)?, row)?;
                let answer = self.combiner.read(&tensors, 1).ok()?;
                Some((*place, answer, tensors))
            })
            .collect();
        let weight = |place: usize| weights.get(place).copied().unwrap_or(0.0);
        let got: Vec<Got<'_>> = answers
            .iter()
            .map(|(arm, answer, tensors)| Got { arm: *arm, weight: weight(*arm), answer, tensors })
            .collect();
        let all = chosen.iter().map(|place| weight(*place)).sum();
        let combined =
            self.combiner.combine(1, &got, Chosen { arms: chosen.len(), weight: all }, None);
        let label = combined.answers.into_iter().next()?.label?;
        let scores = combined.outputs.get(1).map(|tensor| {
            let (numbers, _) = tensor.data().as_chunks();
            numbers.iter().map(|number| f32::from_le_bytes(*number)).collect::<Vec<_>>()
        });
        // Scores that are no probabilities are no mean of any; the label stands alone.
        let is_mean = |scores: &Vec<f32>| scores.iter().sum::<f32>() > 0.5;
        Some((label, scores.filter(is_mean)))
    }

    /// One row of an arm's answer, as the arm gave it. `None`: it did not answer.
    fn tensors(&self, arm: &ArmRecord, row: usize) -> Option<Vec<Tensor>> {
        let label = arm.labels.get(row)?.as_ref()?;
        let datatype = self.datatype?;
        let data = match (label, datatype) {
            (Label::Int(value), DataType::Int64) => Bytes::copy_from_slice(&value.to_le_bytes()),
            (Label::Int(value), _) => Bytes::copy_from_slice(&(*value as f64).to_le_bytes()),
            (Label::Real(value), _) => Bytes::copy_from_slice(&value.to_le_bytes()),
            (Label::Text(text), _) => {
                return self.with_scores(Tensor::from_strings(LABEL, &[text.as_bytes()]), arm, row);
            }
        };
        self.with_scores(Tensor::new(LABEL, datatype, [1], data).ok()?, arm, row)
    }

    fn with_scores(&self, label: Tensor, arm: &ArmRecord, row: usize) -> Option<Vec<Tensor>> {
        if self.classes == 0 {
            return Some(vec![label]);
        }
        let none = vec![0.0; self.classes];
        let scores = arm.scores.get(row).filter(|scores| scores.len() == self.classes);
        let data: Vec<u8> =
            scores.unwrap_or(&none).iter().flat_map(|score| score.to_le_bytes()).collect();
        let shape = [1, i64::try_from(self.classes).ok()?];
        Some(vec![label, Tensor::new(SCORES, DataType::Fp32, shape, data).ok()?])
    }

    /// Share of the recorded answers of several arms that come out again when the recorded labels
    /// are combined; `None` where no answer was of several arms.
    pub(super) fn reproduces(&self, decisions: &[DecisionRecord]) -> Option<f64> {
        let (mut rows, mut same) = (0_usize, 0_usize);
        'decisions: for record in decisions {
            let asked: Vec<usize> = asked(record).collect();
            if asked.len() < 2 {
                continue;
            }
            let weights = weights(record);
            for (row, answer) in record.answer.iter().enumerate() {
                // A drawn answer is not to come out of the vote.
                let Some(told) = answer.label.as_ref().filter(|_| answer.p >= 1.0) else {
                    continue;
                };
                let again = self.combine(record, row, &asked, &weights);
                rows += 1;
                same += usize::from(again.is_some_and(|(label, _)| is_same(&label, told)));
                if rows == REPRODUCED {
                    break 'decisions;
                }
            }
        }
        (rows > 0).then(|| same as f64 / rows as f64)
    }
}

const LABEL: &str = "label";
const SCORES: &str = "scores";

/// As much of the application as judging needs.
fn application(
    scoring: &Scoring,
    loss: Loss,
    datatype: Option<DataType>,
    classes: usize,
) -> Application {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
    };
    let label = datatype.map(|datatype| spec(LABEL, datatype, &[-1]));
    let scores = (classes > 0).then(|| spec(SCORES, DataType::Fp32, &[-1, classes as i64]));
    Application {
        name: Arc::default(),
        inputs: Vec::new(),
        label_output: label.as_ref().map(|_| LABEL.into()),
        scores_output: scores.as_ref().map(|_| SCORES.into()),
        outputs: label.into_iter().chain(scores).collect(),
        objective: std::time::Duration::ZERO,
        slack: std::time::Duration::ZERO,
        task: match (datatype, loss) {
            (None, _) => Task::Opaque,
            (_, Loss::Squared | Loss::Absolute) => Task::Regression,
            _ => Task::Classification,
        },
        class_labels: scoring.class_labels.clone(),
        loss,
        loss_cap: scoring.loss_cap,
        policy_name: Arc::default(),
        policy_parameters: Vec::new(),
        shadow: None,
        confidence_threshold: 0.0,
        default_output: Vec::new(),
        arms: Vec::new(),
        max_age: None,
        feedback_window: std::time::Duration::ZERO,
        context_features_dim: 0,
    }
}

/// The arm was asked, whatever came of it.
pub(super) fn was_asked(arm: &ArmRecord) -> bool {
    !matches!(arm.outcome, Outcome::NotAsked | Outcome::Masked)
}

/// The places of the arms that were asked.
pub(super) fn asked(record: &DecisionRecord) -> impl Iterator<Item = usize> {
    let arms = record.arms.iter().enumerate();
    arms.filter(|(_, arm)| was_asked(arm)).map(|(place, _)| place)
}

fn weights(record: &DecisionRecord) -> Vec<f64> {
    record.arms.iter().map(|arm| arm.weight).collect()
}

/// One arm was asked and no other could have been beside it.
pub(super) fn is_single(record: &DecisionRecord) -> bool {
    record.arms.iter().map(|arm| arm.q).sum::<f64>() <= 1.0 + ROUNDING && asked(record).count() <= 1
}

fn sight(arm: &ArmRecord, probability: f64, reward: f64) -> Sight {
    if probability <= 0.0 || arm.outcome == Outcome::Masked {
        Sight::Hidden
    } else if was_asked(arm) {
        Sight::Seen { reward, probability }
    } else {
        Sight::Unseen
    }
}

/// A reward for one of several arms' answers. Where the answer was drawn (P < 1), another might
/// have been; where it was not, the overruled arms stay hidden.
fn credited(record: &DecisionRecord, row: usize, reward: f64) -> Vec<Sight> {
    let Some(answer) = record.answer.get(row).filter(|answer| !answer.default) else {
        return vec![Sight::Hidden; record.arms.len()];
    };
    let see = |arm: &ArmRecord| {
        let same = answer.label.is_some() && arm.labels.get(row) == Some(&answer.label);
        match sight(arm, arm.q * answer.p, reward) {
            Sight::Seen { .. } if !same && answer.p < 1.0 => Sight::Unseen,
            Sight::Seen { .. } if !same => Sight::Hidden,
            other => other,
        }
    };
    record.arms.iter().map(see).collect()
}

fn is_same(a: &Label, b: &Label) -> bool {
    let number = |label: &Label| match label {
        Label::Int(value) => Some(*value as f64),
        Label::Real(value) => Some(*value),
        Label::Text(_) => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => (a - b).abs() <= SAME * a.abs().max(b.abs()).max(SAME),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
