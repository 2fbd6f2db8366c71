//! Feedback by input: what is not known of a decision is asked of the models.
//!
//! Every live arm is asked, through the cache, as a query would be; so each has its loss, with
//! the inclusion probability 1. Nothing was decided, so there is no window and no propensity.

use std::sync::Arc;

use skysail_proto::{ModelCall, ModelReply, PredictError};
use tower::Service;

use super::{ObserveError, Told, learn, told, well_formed};
use crate::{
    DecisionId, DecisionRecord, Outcome, Query,
    query::{Acknowledgement, FeedbackValue, InputFeedback},
    service::{Shared, now_ms},
};

/// Ids of the two parts of time, one feedback window long each, in which the same feedback may
/// come again.
struct Ids {
    this: DecisionId,
    next: DecisionId,
}

impl Ids {
    /// Marks are kept for the window from the time in their id. So the id holds the end of the
    /// part of time in which the feedback came, and the mark of the part after it is set as well:
    /// whoever repeats the feedback within the window meets one of the two.
    fn new(feedback_id: &str, window_ms: u64) -> Self {
        if feedback_id.is_empty() {
            let (this, next) = (once(), once());
            return Self { this, next };
        }
        let digest = blake3::hash(feedback_id.as_bytes());
        let mut place = [0; 16];
        place.copy_from_slice(&digest.as_bytes()[..16]);
        let window = window_ms.max(1);
        let part = now_ms() / window + 1;
        let id = |part: u64| DecisionId::new(part.saturating_mul(window), [0; 3], 0, place);
        Self { this: id(part), next: id(part + 1) }
    }
}

/// An id that nobody has: each call counts.
fn once() -> DecisionId {
    DecisionId::new(now_ms(), rand::random(), rand::random(), rand::random())
}

/// Asks, and applies. With it comes what the arms said, for the log.
pub(crate) async fn observe<M>(
    shared: &Arc<Shared>,
    models: &M,
    feedback: InputFeedback,
) -> Result<(Acknowledgement, Arc<DecisionRecord>), ObserveError>
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone,
{
    let InputFeedback { query, row, labels, feedback_id } = feedback;
    let mut value = FeedbackValue::Labels(labels);
    well_formed(shared, &mut value)?;
    if shared.application.context_features_dim > 0 {
        let why = format!(
            "application '{}' has context features, and feedback by input brings none; send the \
             decision_id",
            shared.application.name
        );
        return Err(ObserveError::FailedPrecondition(why.into()));
    }
    let slot = shared.slot_of(&query.context_id);
    let window = u64::try_from(shared.application.feedback_window.as_millis()).unwrap_or(u64::MAX);
    let ids = Ids::new(&feedback_id, window);
    let rows = super::rows(row, &value, query.inputs.rows())?;
    let record = Arc::new(ask(shared, models, &query, ids.this).await?);
    let told: Arc<[Told]> =
        rows.iter().map(|(row, label)| told(shared, &value, &record, *row, *label)).collect();
    let acknowledgement = learn(shared, &slot, &record, &told, Some(ids.next)).await?;
    Ok((acknowledgement.acknowledge(shared, &record, told.len(), true), record))
}

/// What every live arm says of the input.
async fn ask<M>(
    shared: &Shared,
    models: &M,
    query: &Query,
    id: DecisionId,
) -> Result<DecisionRecord, ObserveError>
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone,
{
    let record = shared.ask_all(models, query, id).await?;
    if record.arms.iter().any(|arm| arm.outcome == Outcome::Used) {
        return Ok(record);
    }
    let outcomes: Vec<_> =
        record.arms.iter().map(|arm| format!("{}: {:?}", arm.arm, arm.outcome)).collect();
    let why = format!(
        "no arm of application '{}' answered this input ({}); send the feedback again",
        shared.application.name,
        outcomes.join(", ")
    );
    Err(ObserveError::Store(why.into()))
}
