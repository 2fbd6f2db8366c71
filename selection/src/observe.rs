//! Applies feedback in grouped compare-and-swap.
//!
//! What comes in for one application or context goes through one queue. A task takes what has
//! gathered there, applies it to the latest state and commits state and marks together; on a
//! conflict it loads and applies again. So no update is lost, none is applied twice, and a busy
//! application costs a commit per group and not per row.
//!
//! Feedback for a context goes to the context's state first and then to its application's, each
//! with marks of its own. A retry after a crash between the two completes the second.

mod applier;
mod group;
mod input;
mod score;

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

pub use self::score::Scored;
pub(crate) use self::{applier::Appliers, input::observe as observe_input, score::Scores};
use skysail_proto::{PredictError, Trace};

use self::applier::{Job, Settled, Told};
use crate::{
    DecisionId, DecisionRecord, Feedback, Label, Task,
    policy::{Policy, SelectionPolicy},
    query::{Acknowledgement, FeedbackValue},
    service::{Noted, Shared, Slot, now_ms, place},
    store::StoreError,
};

/// Why feedback was not taken. Nothing of it was acknowledged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserveError {
    /// It is wrong in a way that repeating it does not mend.
    #[error("{0}")]
    InvalidArgument(Arc<str>),
    /// The policy cannot learn from this kind.
    #[error("{0}")]
    FailedPrecondition(Arc<str>),
    /// The record could not be read or the state not be committed. It may be sent again.
    #[error("{0}")]
    Store(Arc<str>),
    /// The input that it is for could not be asked of the models.
    #[error("{0}")]
    Predict(#[from] PredictError),
}

impl From<StoreError> for ObserveError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string().into())
    }
}

/// What each row of feedback came to, over context and application.
#[derive(Debug, Default)]
struct Tally {
    /// Rows that were marked now, in at least one of the two.
    applied: HashSet<u32>,
    /// Rows of which an arm's state moved.
    moved: HashSet<u32>,
}

/// In the order of interface.md: value well formed, decision known, window, policy takes this
/// kind, mark.
pub(crate) async fn observe(
    shared: &Arc<Shared>,
    mut feedback: Feedback,
    trace: Option<&Arc<Trace>>,
) -> Result<Acknowledgement, ObserveError> {
    well_formed(shared, &mut feedback.value)?;
    let noted = Noted::begin(trace);
    let found = known(shared, &feedback).await;
    noted.end("join");
    let Some(record) = found? else {
        return Ok(Acknowledgement::Unknown);
    };
    let window = u64::try_from(shared.application.feedback_window.as_millis()).unwrap_or(u64::MAX);
    if now_ms().saturating_sub(record.time_ms) > window {
        return Ok(Acknowledgement::Expired);
    }
    let rows = rows(feedback.row, &feedback.value, record.answer.len())?;
    takes(shared, &feedback.value)?;
    let noted = Noted::begin(trace);
    let applied = apply(shared, record, &feedback.value, &rows).await;
    noted.end("commit");
    applied
}

/// As [`observe`], after the window.
pub(crate) async fn give_default(
    shared: &Arc<Shared>,
    record: Arc<DecisionRecord>,
    reward: f64,
) -> Result<Acknowledgement, ObserveError> {
    let value = FeedbackValue::Reward(reward);
    let rows = rows(None, &value, record.answer.len())?;
    takes(shared, &value)?;
    apply(shared, record, &value, &rows).await
}

async fn apply(
    shared: &Arc<Shared>,
    record: Arc<DecisionRecord>,
    value: &FeedbackValue,
    rows: &[(u32, Option<&Label>)],
) -> Result<Acknowledgement, ObserveError> {
    let current = *record.policy == *shared.learner.policy.name();
    let told: Arc<[Told]> = if current {
        rows.iter().map(|(row, label)| told(shared, value, &record, *row, *label)).collect()
    } else {
        rows.iter().map(|(row, _)| Told::Nothing { row: *row }).collect()
    };
    let slot = shared.states.slot(&record.context);
    let tally = learn(shared, &slot, &record, &told, None).await?;
    for (row, label) in rows.iter().filter(|(row, _)| tally.applied.contains(row)) {
        if let Some(loss) = score::loss(&shared.combiner, &record, value, *row, *label) {
            shared.scores.add(loss);
        }
    }
    Ok(tally.acknowledge(shared, &record, told.len(), current))
}

/// Into the context's state, if there is a context, and then into the application's.
async fn learn(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    record: &Arc<DecisionRecord>,
    told: &Arc<[Told]>,
    also: Option<DecisionId>,
) -> Result<Tally, StoreError> {
    let mut tally = Tally::default();
    let own = shared.states.own();
    if !Arc::ptr_eq(slot, own) {
        tally.add(told, settle(shared, Arc::clone(slot), record, told, also).await?);
    }
    tally.add(told, settle(shared, Arc::clone(own), record, told, also).await?);
    Ok(tally)
}

/// Checks what needs no record, and casts labels as the answers were.
fn well_formed(shared: &Shared, value: &mut FeedbackValue) -> Result<(), ObserveError> {
    let wrong = |error: String| ObserveError::InvalidArgument(error.into());
    match value {
        FeedbackValue::Reward(reward) if (0.0..=1.0).contains(reward) => Ok(()),
        FeedbackValue::Reward(reward) => {
            Err(wrong(format!("reward: expected a number in [0, 1], got {reward}")))
        }
        FeedbackValue::Labels(_) if shared.application.task == Task::Opaque => Err(wrong(format!(
            "application '{}' is opaque: there is nothing to compare a label with; send a reward",
            shared.application.name
        ))),
        FeedbackValue::Labels(labels) => {
            for label in labels {
                *label = shared.combiner.cast_label(label).map_err(wrong)?;
            }
            Ok(())
        }
    }
}

/// The record of the decision, if it is one of this application.
async fn known(
    shared: &Shared,
    feedback: &Feedback,
) -> Result<Option<Arc<DecisionRecord>>, StoreError> {
    let name = &shared.application.name;
    let record = shared.log.find(feedback.decision_id).await?;
    // The place is in the id: one that was made up, or of another application, does not fit.
    Ok(record.filter(|record| {
        record.application == *name && place(name, &record.context) == feedback.decision_id.place()
    }))
}

/// Each row that is meant, with its label where there are labels.
fn rows(
    row: Option<u32>,
    value: &FeedbackValue,
    all: usize,
) -> Result<Vec<(u32, Option<&Label>)>, ObserveError> {
    let invalid = |error: String| Err(ObserveError::InvalidArgument(error.into()));
    let expected = match row {
        Some(row) if row as usize >= all => {
            return invalid(format!(
                "row: expected one below {all}, the rows of the query, got {row}"
            ));
        }
        Some(_) => 1,
        None => all,
    };
    let first = row.unwrap_or(0);
    let numbers = (first..).take(expected);
    match value {
        FeedbackValue::Labels(labels) if labels.len() != expected => {
            let rows = if row.is_some() { "the row" } else { "each row of the query" };
            invalid(format!("label: expected {expected}, one for {rows}, got {}", labels.len()))
        }
        FeedbackValue::Labels(labels) => Ok(numbers.zip(labels.iter().map(Some)).collect()),
        FeedbackValue::Reward(_) => Ok(numbers.map(|row| (row, None)).collect()),
    }
}

fn takes(shared: &Shared, value: &FeedbackValue) -> Result<(), ObserveError> {
    if matches!(value, FeedbackValue::Labels(_)) || shared.learner.policy.takes_rewards() {
        return Ok(());
    }
    let error = format!(
        "policy '{}' of application '{}' cannot learn from a reward; send a label, or use a policy \
         that can: {}",
        shared.learner.policy,
        shared.application.name,
        Policy::that_take_rewards().join(", ")
    );
    Err(ObserveError::FailedPrecondition(error.into()))
}

fn told(
    shared: &Shared,
    value: &FeedbackValue,
    record: &DecisionRecord,
    row: u32,
    label: Option<&Label>,
) -> Told {
    match (value, label) {
        (FeedbackValue::Reward(reward), _) => Told::Reward { row, reward: *reward },
        (_, Some(truth)) => {
            let losses = shared.combiner.losses(record, row as usize, truth);
            shared.clipped.fetch_add(u64::from(losses.clipped), Ordering::Relaxed);
            Told::Losses { row, losses: losses.by_arm }
        }
        (_, None) => Told::Nothing { row },
    }
}

async fn settle(
    shared: &Arc<Shared>,
    slot: Arc<Slot>,
    record: &Arc<DecisionRecord>,
    told: &Arc<[Told]>,
    also: Option<DecisionId>,
) -> Result<Settled, StoreError> {
    let (job, settled) = Job::new(Arc::clone(record), Arc::clone(told), also);
    applier::send(shared, slot, job).await;
    settled.await.unwrap_or_else(|_| Err(StoreError("feedback was given up; send it again".into())))
}

impl Tally {
    fn add(&mut self, told: &[Told], settled: Settled) {
        for (told, row) in told.iter().zip(settled) {
            if row.marked {
                self.applied.insert(told.row());
            }
            if row.moved {
                self.moved.insert(told.row());
            }
        }
    }

    fn acknowledge(
        self,
        shared: &Shared,
        record: &DecisionRecord,
        told: usize,
        current: bool,
    ) -> Acknowledgement {
        let applied = self.applied.len();
        if applied == 0 {
            return Acknowledgement::Duplicate;
        }
        let rows = if told == 1 { "row" } else { "rows" };
        let mut detail = format!("{applied} of {told} {rows}");
        if applied < told {
            detail.push_str(&format!("; {} had feedback before", told - applied));
        }
        let still = self.applied.difference(&self.moved).count();
        if !current {
            detail.push_str(&format!(
                "; not applied: the decision is of policy '{}', and the application has '{}' now",
                record.policy, shared.learner.policy
            ));
        } else if still > 0 {
            detail.push_str(&format!("; {still} moved no arm"));
        }
        Acknowledgement::Applied { rows: u32::try_from(applied).unwrap_or(u32::MAX), detail }
    }
}

#[cfg(test)]
mod tests;
