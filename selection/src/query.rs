//! What passes the seam between the front door and the selection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, ModelId, Tensor, Trace};

use crate::{DecisionId, Label};

/// One request to an application; checked against its signature already.
#[derive(Clone, Debug)]
pub struct Query {
    /// The tensors, under the application's names.
    pub inputs: Arc<Inputs>,
    /// Whose state to use; empty: the application's own.
    pub context_id: Arc<str>,
    /// What a policy may condition on.
    pub context_features: Vec<f32>,
    /// When the answer must leave; slack is off already. Fixed when the query was admitted.
    pub deadline: Instant,
    /// Set where the query is sampled; what is done for it is noted there.
    pub trace: Option<Arc<Trace>>,
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Give it back with feedback.
    pub decision_id: DecisionId,
    /// In the order of the application's outputs, under its names.
    pub outputs: Vec<Tensor>,
    /// Whether all, some or no row was answered by the chosen arms.
    pub status: Status,
    /// Why the status is not `Answered`, or `low_confidence`; empty otherwise.
    pub reason: Arc<str>,
    /// One per row, in [0, 1].
    pub confidence: Vec<f32>,
    /// One per row.
    pub row_status: Vec<RowStatus>,
    /// The chosen and the masked arms.
    pub contributions: Vec<Contribution>,
}

/// Whether all, some or no row was answered by the chosen arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By all that were chosen.
    Answered,
    /// A chosen arm was late, failed or dropped, or some rows hold the default.
    Partial,
    /// Every row holds the default.
    Default,
}

/// Where a row's answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    /// From the arms.
    Answered,
    /// It is the application's default.
    Default,
}

/// What became of one arm.
#[derive(Clone, Debug)]
pub struct Contribution {
    /// The arm's string.
    pub arm: Arc<str>,
    /// The version that was asked; `None` where the name resolves to none.
    pub model: Option<ModelId>,
    /// How it went.
    pub outcome: Outcome,
    /// It was kept from an earlier call.
    pub cached: bool,
    /// Its weight when the answer was combined, normalised over all arms.
    pub weight: f64,
    /// The probability with which it was asked.
    pub propensity: f64,
    /// Why it was not used.
    pub reason: Arc<str>,
    /// Rows of its batch; 0 for a cached answer.
    pub batch_rows: u32,
    /// From entering the queue to dispatch.
    pub queue: Duration,
    /// From dispatch to the container's reply.
    pub compute: Duration,
}

/// How it went with an arm. `NotAsked` appears in records alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its answer went into the combination.
    Used,
    /// It had not answered at the deadline.
    Late,
    /// Every row of it failed.
    Failed,
    /// A queue refused it or gave it up.
    Dropped,
    /// It could not have answered and was not eligible.
    Masked,
    /// The policy did not choose it.
    NotAsked,
}

/// A truth label or a reward, for a decision.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// Which decision.
    pub decision_id: DecisionId,
    /// `None`: every row (a label has one entry per row).
    pub row: Option<u32>,
    /// What is known now.
    pub value: FeedbackValue,
}

/// Truth labels for an input, whoever was asked it before, if anyone was.
#[derive(Clone, Debug)]
pub struct InputFeedback {
    /// The input and its context; the models are asked by its deadline.
    pub query: Query,
    /// `None`: every row.
    pub row: Option<u32>,
    /// One per row, or one alone where a row is named.
    pub labels: Vec<Label>,
    /// Feedback with the same id, not empty, counts once within the feedback window.
    pub feedback_id: String,
}

/// What feedback says.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedbackValue {
    /// One per row, or one alone where a row is named; cast to the label output's datatype.
    Labels(Vec<Label>),
    /// In [0, 1].
    Reward(f64),
}

/// What became of feedback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// To that many rows; committed.
    Applied {
        /// Rows it went to.
        rows: u32,
        /// Rows that had feedback before, and rows that no policy state took it for.
        detail: String,
    },
    /// Every row had feedback before.
    Duplicate,
    /// No such decision is known for this application.
    Unknown,
    /// The feedback window has passed.
    Expired,
}
