//! Between the wire and the selection: checks a query, words an answer.

use std::{sync::Arc, time::Instant};

use skysail_proto::{Inputs, PredictError, Tensor, pb::v1};
use skysail_selection::{Application, Contribution, Outcome, Prediction, Query, RowStatus, Status};

/// What of a request the answer needs again.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request_id: String,
    /// Outputs wanted; empty: all.
    pub(super) outputs: Vec<String>,
}

/// Checks a request against the application's signature.
///
/// # Errors
///
/// INVALID_ARGUMENT for the first thing that is wrong.
pub(super) fn query(
    application: &Application,
    request: v1::PredictRequest,
    deadline: Instant,
) -> Result<(Query, Asked), PredictError> {
    let inputs = inputs(application, request.inputs)?;
    features(application, &request.context_features)?;
    for wanted in &request.outputs {
        if !application.outputs.iter().any(|spec| spec.name == *wanted) {
            return Err(PredictError::invalid(format!(
                "application '{}' has no output '{wanted}'; it has: {}",
                application.name,
                names(application.outputs.iter().map(|spec| spec.name.as_str()))
            )));
        }
    }
    let query = Query {
        inputs: Arc::new(inputs),
        context_id: if request.context_id.is_empty() {
            // The common case allocates nothing.
            Arc::default()
        } else {
            request.context_id.into()
        },
        context_features: request.context_features,
        deadline,
    };
    Ok((query, Asked { request_id: request.request_id, outputs: request.outputs }))
}

fn inputs(application: &Application, wire: Vec<v1::Tensor>) -> Result<Inputs, PredictError> {
    let name = &application.name;
    let mut tensors = Vec::with_capacity(wire.len());
    for tensor in wire {
        let tensor = Tensor::try_from(tensor)?;
        let spec = application.inputs.iter().find(|spec| spec.name == tensor.name());
        let spec = spec.ok_or_else(|| {
            PredictError::invalid(format!(
                "application '{name}' has no input '{}'; it takes: {}",
                tensor.name(),
                names(application.inputs.iter().map(|spec| spec.name.as_str()))
            ))
        })?;
        spec.check(&tensor)?;
        tensors.push(tensor);
    }
    let missing = application
        .inputs
        .iter()
        .filter(|spec| !tensors.iter().any(|tensor| tensor.name() == spec.name));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(PredictError::invalid(format!(
            "application '{name}': missing input: {}",
            missing.join(", ")
        )));
    }
    Ok(Inputs::new(tensors)?)
}

fn features(application: &Application, features: &[f32]) -> Result<(), PredictError> {
    if features.len() != application.context_features_dim {
        return Err(PredictError::invalid(format!(
            "application '{}': expected {} context features, got {}",
            application.name,
            application.context_features_dim,
            features.len()
        )));
    }
    match features.iter().position(|feature| !feature.is_finite()) {
        None => Ok(()),
        Some(index) => Err(PredictError::invalid(format!(
            "application '{}': context feature {index} is {}; expected a finite number",
            application.name, features[index]
        ))),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Words an answer. Only the outputs that the client asked for leave.
pub(super) fn response(prediction: Prediction, asked: Asked) -> v1::PredictResponse {
    let wanted = |tensor: &Tensor| {
        asked.outputs.is_empty() || asked.outputs.iter().any(|name| name == tensor.name())
    };
    v1::PredictResponse {
        decision_id: prediction.decision_id.to_string(),
        request_id: asked.request_id,
        outputs: prediction.outputs.into_iter().filter(wanted).map(Into::into).collect(),
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
