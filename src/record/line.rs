//! What a line of the log may hold: a decision record, or feedback that was applied to one.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use skysail_selection::{
    ArmRecord, DecisionId, DecisionRecord, Feedback, Label, query::FeedbackValue,
};

/// Feedback as the log keeps it, so that a reader can join it to its decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedbackLine {
    /// The decision. Its name tells this line from a decision's, which begins with `id`.
    pub feedback: DecisionId,
    /// The row; left out: every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// The truth, one per row, or one alone where a row is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// Or a reward, in [0, 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// It was for an input and not for a decision: what the arms said when they were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<InputLine>,
    /// What became of it.
    pub outcome: Cow<'static, str>,
    /// When it came, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// What was asked for feedback by input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputLine {
    /// The application.
    pub application: Arc<str>,
    /// The context id; left out: the application's own state.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub context: Arc<str>,
    /// Every arm and what it said.
    pub arms: Vec<ArmRecord>,
}

impl FeedbackLine {
    /// Feedback by input that came now and was applied. `asked` is what the arms said.
    pub fn by_input(row: Option<u32>, labels: Vec<Label>, asked: &DecisionRecord) -> Self {
        Self {
            feedback: asked.id,
            row,
            labels,
            reward: None,
            input: Some(InputLine {
                application: Arc::clone(&asked.application),
                context: Arc::clone(&asked.context),
                arms: asked.arms.clone(),
            }),
            outcome: Cow::Borrowed("applied"),
            time_ms: now_ms(),
        }
    }

    /// Feedback that did not come, and what stands in for it.
    pub fn default_reward(decision: DecisionId, reward: f64) -> Self {
        Self {
            feedback: decision,
            row: None,
            labels: Vec::new(),
            reward: Some(reward),
            input: None,
            outcome: Cow::Borrowed("default"),
            time_ms: now_ms(),
        }
    }

    /// Feedback that came now and was applied.
    pub fn new(feedback: &Feedback) -> Self {
        let (labels, reward) = match &feedback.value {
            FeedbackValue::Labels(labels) => (labels.clone(), None),
            FeedbackValue::Reward(reward) => (Vec::new(), Some(*reward)),
        };
        Self {
            feedback: feedback.decision_id,
            row: feedback.row,
            labels,
            reward,
            input: None,
            outcome: Cow::Borrowed("applied"),
            time_ms: now_ms(),
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A line that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line<'a> {
    Decision(&'a DecisionRecord),
    Feedback(&'a FeedbackLine),
}

impl Line<'_> {
    /// Appends it with its end of line.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self {
            Self::Decision(record) => serde_json::to_writer(&mut *bytes, record)?,
            Self::Feedback(feedback) => serde_json::to_writer(&mut *bytes, feedback)?,
        }
        bytes.push(b'\n');
        Ok(())
    }

    /// The decision that it is.
    pub(super) fn decision(&self) -> Option<DecisionId> {
        match self {
            Self::Decision(record) => Some(record.id),
            Self::Feedback(_) => None,
        }
    }

    pub(super) fn time_ms(&self) -> u64 {
        match self {
            Self::Decision(record) => record.id.time_ms(),
            Self::Feedback(feedback) => feedback.time_ms,
        }
    }
}

/// As much of a line as the index needs. Reading it checks all of the line.
#[derive(Deserialize)]
pub(super) struct Head {
    pub(super) id: Option<DecisionId>,
    feedback: Option<DecisionId>,
    #[serde(default)]
    time_ms: u64,
}

impl Head {
    /// `None`: neither a decision nor feedback, or not whole.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let head: Self = serde_json::from_slice(line).ok()?;
        (head.id.is_some() || head.feedback.is_some()).then_some(head)
    }

    pub(super) fn time_ms(&self) -> u64 {
        self.id.map_or(self.time_ms, |id| id.time_ms())
    }
}
