//! Decisions and what became known of their rows, in the order of time.

use std::{collections::HashMap, sync::Arc};

use super::judge::Judge;
use crate::{
    ArmRecord, DecisionId, DecisionRecord, Label, Outcome, RowRecord, query::FeedbackValue,
};

/// Feedback, as a line of the log gives it.
#[derive(Clone, Debug)]
pub struct GivenFeedback {
    /// The decision's id; that of no decision for feedback by input.
    pub decision: DecisionId,
    /// `None`: every row that had none before.
    pub row: Option<u32>,
    /// The truth of each row meant, or a reward.
    pub value: FeedbackValue,
    /// When it came, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Where it was for an input and not for a decision.
    pub input: Option<InputAnswers>,
}

/// What the arms said of an input for which feedback came.
#[derive(Clone, Debug)]
pub struct InputAnswers {
    /// The context id; empty: the application's own state.
    pub context: Arc<str>,
    /// Every arm.
    pub arms: Vec<ArmRecord>,
}

/// What became known of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Its decision's place in [`History::decisions`].
    pub decision: usize,
    /// The row.
    pub row: usize,
    /// A label as the arms' labels are, or a reward.
    pub value: Known,
}

/// A label or a reward.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// Cast as the answers' labels are.
    Label(Label),
    /// In [0, 1].
    Reward(f64),
}

/// What happened, by its place among decisions, truths, or inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Decision(usize),
    Truth(usize),
    Input(usize),
}

/// One application's log, joined.
#[derive(Debug)]
pub struct History {
    decisions: Vec<DecisionRecord>,
    truths: Vec<Truth>,
    /// A record for each row of feedback by input, and what became known of it.
    inputs: Vec<(DecisionRecord, Label)>,
    events: Vec<Event>,
    arms: Vec<Arc<str>>,
    features: usize,
    unjoined: usize,
    unfit: usize,
}

impl History {
    /// Joins feedback to its decisions. `judge` casts labels.
    pub fn new(
        mut decisions: Vec<DecisionRecord>,
        feedback: Vec<GivenFeedback>,
        judge: &Judge,
    ) -> Self {
        decisions.sort_by_key(|record| (record.time_ms, record.id));
        decisions.dedup_by_key(|record| record.id);
        let mut history = Self {
            arms: arms(&decisions),
            features: decisions.iter().map(|record| record.features.len()).max().unwrap_or(0),
            truths: Vec::new(),
            inputs: Vec::new(),
            events: Vec::new(),
            unjoined: 0,
            unfit: 0,
            decisions,
        };
        let mut timed: Vec<(u64, Event)> = history
            .decisions
            .iter()
            .enumerate()
            .map(|(place, record)| (record.time_ms, Event::Decision(place)))
            .collect();
        history.join(feedback, judge, &mut timed);
        // Stable, and decisions are in front: feedback of the same millisecond comes after.
        timed.sort_by_key(|(time, _)| *time);
        history.events = timed.into_iter().map(|(_, event)| event).collect();
        history
    }

    fn join(
        &mut self,
        mut feedback: Vec<GivenFeedback>,
        judge: &Judge,
        timed: &mut Vec<(u64, Event)>,
    ) {
        feedback.sort_by_key(|given| given.time_ms);
        let places: HashMap<DecisionId, usize> =
            self.decisions.iter().enumerate().map(|(place, record)| (record.id, place)).collect();
        let mut known: HashMap<usize, Vec<bool>> = HashMap::new();
        for given in feedback {
            if let Some(input) = &given.input {
                self.take_input(&given, input, judge, timed);
                continue;
            }
            let Some(&decision) = places.get(&given.decision) else {
                self.unjoined += 1;
                continue;
            };
            let record = &self.decisions[decision];
            let all = record.answer.len();
            let known = known.entry(decision).or_insert_with(|| vec![false; all]);
            let first = given.row.unwrap_or(0) as usize;
            let rows = if given.row.is_some() { first..(first + 1).min(all) } else { 0..all };
            for (at, row) in rows.enumerate() {
                if known.get(row).copied().unwrap_or(true) {
                    continue;
                }
                let Some(value) = value(&given.value, at, judge) else {
                    self.unfit += 1;
                    continue;
                };
                known[row] = true;
                let time = given.time_ms.max(record.time_ms);
                timed.push((time, Event::Truth(self.truths.len())));
                self.truths.push(Truth { decision, row, value });
            }
        }
    }

    fn take_input(
        &mut self,
        given: &GivenFeedback,
        input: &InputAnswers,
        judge: &Judge,
        timed: &mut Vec<(u64, Event)>,
    ) {
        let rows = input.arms.iter().map(|arm| arm.labels.len()).max().unwrap_or(0);
        let first = given.row.unwrap_or(0) as usize;
        let rows = if given.row.is_some() { first..(first + 1).min(rows) } else { 0..rows };
        for (at, row) in rows.enumerate() {
            let Some(Known::Label(label)) = value(&given.value, at, judge) else {
                self.unfit += 1;
                continue;
            };
            timed.push((given.time_ms, Event::Input(self.inputs.len())));
            self.inputs.push((of_input(given, input, row), label));
        }
    }

    /// By time.
    pub fn decisions(&self) -> &[DecisionRecord] {
        &self.decisions
    }

    /// By the time when they became known.
    pub fn truths(&self) -> &[Truth] {
        &self.truths
    }

    /// What the arms said of single rows for which feedback came by input, with the truth.
    pub(super) fn input(&self, place: usize) -> &(DecisionRecord, Label) {
        &self.inputs[place]
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Every arm that any decision could ask, as the latest lists them, then older ones.
    pub fn arms(&self) -> &[Arc<str>] {
        &self.arms
    }

    /// The place of an arm in [`arms`](Self::arms).
    pub(super) fn place(&self, arm: &str) -> Option<usize> {
        self.arms.iter().position(|known| **known == *arm)
    }

    /// Dimension of the context features; 0: there are none.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Feedback whose decision is not here.
    pub fn unjoined(&self) -> usize {
        self.unjoined
    }

    /// Rows of feedback that do not fit their decision: too few labels, or of another kind.
    pub fn unfit(&self) -> usize {
        self.unfit
    }
}

fn arms(decisions: &[DecisionRecord]) -> Vec<Arc<str>> {
    let mut arms: Vec<Arc<str>> = Vec::new();
    let mut last: &[ArmRecord] = &[];
    for record in decisions.iter().rev() {
        // The same arms again, in all but a few places of a log.
        if record.arms.len() == last.len()
            && record.arms.iter().zip(last).all(|(a, b)| a.arm == b.arm)
        {
            continue;
        }
        last = &record.arms;
        for arm in last {
            if !arms.contains(&arm.arm) {
                arms.push(Arc::clone(&arm.arm));
            }
        }
    }
    arms
}

fn value(value: &FeedbackValue, at: usize, judge: &Judge) -> Option<Known> {
    match value {
        FeedbackValue::Reward(reward) => {
            (0.0..=1.0).contains(reward).then_some(Known::Reward(*reward))
        }
        FeedbackValue::Labels(labels) => judge.cast(labels.get(at)?).map(Known::Label),
    }
}

/// A record of one row, for those who learn from it.
fn of_input(given: &GivenFeedback, input: &InputAnswers, row: usize) -> DecisionRecord {
    let arm = |arm: &ArmRecord| ArmRecord {
        labels: arm.labels.get(row).cloned().into_iter().collect(),
        scores: arm.scores.get(row).cloned().into_iter().collect(),
        outcome: if arm.labels.get(row).is_some() { arm.outcome } else { Outcome::Failed },
        ..arm.clone()
    };
    DecisionRecord {
        id: given.decision,
        time_ms: given.time_ms,
        application: Arc::default(),
        context: Arc::clone(&input.context),
        features: Vec::new(),
        features_kept: None,
        policy: Arc::default(),
        state_version: 0,
        arms: input.arms.iter().map(arm).collect(),
        answer: vec![RowRecord { label: None, p: 1.0, arm: None, default: false }],
        shadow: None,
    }
}
