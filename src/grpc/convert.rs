//! Between the wire and the front door: reads a query, words an answer.

use skysail_proto::{PredictError, Tensor, pb::v1};
use skysail_selection::{Contribution, Outcome, Prediction, RowStatus, Status};

use crate::{application, predict::Asked};

/// What a request asks.
///
/// # Errors
///
/// INVALID_ARGUMENT for a timeout or a tensor that is none.
pub(super) fn asked(request: v1::PredictRequest) -> Result<Asked, PredictError> {
    Ok(Asked {
        timeout: application::duration("timeout", request.timeout.as_ref())?,
        inputs: tensors(request.inputs)?,
        context_id: request.context_id,
        context_features: request.context_features,
        outputs: request.outputs,
    })
}

/// The tensors of a message.
///
/// # Errors
///
/// One of them is none.
pub(super) fn tensors(wire: Vec<v1::Tensor>) -> Result<Vec<Tensor>, PredictError> {
    wire.into_iter().map(|tensor| Ok(Tensor::try_from(tensor)?)).collect()
}

/// Words an answer.
pub(super) fn response(prediction: Prediction, request_id: String) -> v1::PredictResponse {
    v1::PredictResponse {
        decision_id: prediction.decision_id.to_string(),
        request_id,
        outputs: prediction.outputs.into_iter().map(Into::into).collect(),
        status: match prediction.status {
            Status::Answered => v1::Status::Answered,
            Status::Partial => v1::Status::Partial,
            Status::Default => v1::Status::Default,
        }
        .into(),
        reason: prediction.reason.as_ref().to_owned(),
        confidence: prediction.confidence,
        row_status: prediction.row_status.into_iter().map(row_status).collect(),
        contributions: prediction.contributions.into_iter().map(contribution).collect(),
        error: None,
    }
}

fn row_status(status: RowStatus) -> i32 {
    match status {
        RowStatus::Answered => v1::RowStatus::Answered,
        RowStatus::Default => v1::RowStatus::Default,
    }
    .into()
}

fn contribution(contribution: Contribution) -> v1::Contribution {
    let micros = |took: std::time::Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let (model, version) = contribution
        .model
        .map(|model| (model.name.as_ref().to_owned(), model.version.as_ref().to_owned()))
        .unwrap_or_default();
    v1::Contribution {
        arm: contribution.arm.as_ref().to_owned(),
        model,
        version,
        outcome: match contribution.outcome {
            Outcome::Used => v1::Outcome::Used,
            Outcome::Late => v1::Outcome::Late,
            Outcome::Failed => v1::Outcome::Failed,
            Outcome::Dropped => v1::Outcome::Dropped,
            Outcome::Masked => v1::Outcome::Masked,
            Outcome::NotAsked => v1::Outcome::Unspecified,
        }
        .into(),
        cached: contribution.cached,
        weight: contribution.weight,
        propensity: contribution.propensity,
        reason: contribution.reason.as_ref().to_owned(),
        batch_rows: contribution.batch_rows,
        queue_us: micros(contribution.queue),
        compute_us: micros(contribution.compute),
    }
}
