//! What is told where nothing can be answered, and there is no default (design.md 4.1).

use std::sync::Arc;

use skysail_proto::{ModelId, PredictError, error::LateReason};

use super::{
    seal::{Heard, INFEASIBLE, masked},
    select::{Candidate, Decision},
};
use crate::{Application, Outcome, store::Mask};

/// How it went with an arm that replied with an error.
pub(super) fn outcome(error: &PredictError) -> Outcome {
    match error {
        PredictError::Late { why: LateReason::Computing, .. } => Outcome::Late,
        PredictError::Late { .. } | PredictError::Overloaded { .. } => Outcome::Dropped,
        _ => Outcome::Failed,
    }
}

/// The error of a query that no arm takes, whoever is asked: a default would hide a mistake of
/// the client.
pub(super) fn of_query(heard: &[Heard]) -> Option<PredictError> {
    let wrong = |arm: &Heard| matches!(arm.error, Some(PredictError::InvalidArgument(_)));
    let first = heard.first()?;
    heard.iter().all(wrong).then(|| first.error.clone())?
}

/// The error of a query with `missing` rows that have neither an answer nor a default.
pub(super) fn of_answers(
    application: &Application,
    decision: &Decision,
    heard: &[Heard],
    missing: usize,
) -> PredictError {
    if heard.is_empty() {
        return of_masks(application, decision);
    }
    if let Some(used) = heard.iter().find(|arm| arm.outcome == Outcome::Used) {
        let why = format!(
            "{missing} of the rows it answered are no number, and the application has no default"
        );
        return PredictError::Container { model: id(application, decision, used), why: why.into() };
    }
    let error = |is: fn(&PredictError) -> bool| {
        let errors = || heard.iter().map(|arm| arm.error.as_ref().filter(|error| is(error)));
        errors().all(|error| error.is_some()).then(|| errors().flatten().next().cloned()).flatten()
    };
    // Nothing was accepted, so nothing is late; and what has no replica did not fail.
    let overloaded = error(|error| matches!(error, PredictError::Overloaded { .. }));
    let unavailable = error(|error| {
        matches!(error, PredictError::Unavailable { .. } | PredictError::ReplicaLost { .. })
    });
    if let Some(error) = overloaded.or(unavailable) {
        return error;
    }
    let late = |arm: &&Heard| matches!(arm.outcome, Outcome::Late | Outcome::Dropped);
    if let Some(late) = heard.iter().find(late) {
        return match &late.error {
            Some(error @ PredictError::Late { .. }) => error.clone(),
            _ => PredictError::Late {
                model: id(application, decision, late),
                why: LateReason::Computing,
            },
        };
    }
    let failed = &heard[0];
    match &failed.error {
        Some(error @ (PredictError::Container { .. } | PredictError::Internal(_))) => error.clone(),
        _ => PredictError::Container {
            model: id(application, decision, failed),
            why: Arc::clone(&failed.reason),
        },
    }
}

fn of_masks(application: &Application, decision: &Decision) -> PredictError {
    let masked_as = |mask: Mask| {
        let is =
            move |candidate: &Candidate| matches!(candidate, Candidate::Masked(_, m) if *m == mask);
        decision.candidates.iter().any(is)
    };
    // UNAVAILABLE would be retried at once, which makes an overload worse; so one busy arm is
    // enough to say that it is one.
    if masked_as(Mask::PredictedLate) {
        return PredictError::overloaded(
            "every live model is predicted to answer too late",
            application.objective,
        );
    }
    if masked_as(Mask::Infeasible) {
        return PredictError::overloaded(
            format!(
                "the objective of application '{}' cannot be met by any live model: {INFEASIBLE}; \
                 raise the objective, or link a faster model",
                application.name
            ),
            application.objective,
        );
    }
    let arms = application.arms.iter().zip(&decision.candidates);
    let why: Vec<_> = arms
        .map(|(arm, candidate)| {
            format!("{}: {}", arm.name, masked(candidate).unwrap_or("its weight is 0"))
        })
        .collect();
    PredictError::Unavailable {
        model: ModelId::new(Arc::clone(&application.name), "1"),
        why: why.join("; ").into(),
    }
}

fn id(application: &Application, decision: &Decision, arm: &Heard) -> ModelId {
    let named = || ModelId::new(Arc::clone(&application.arms[arm.place].name), "");
    decision.model(arm.place).map_or_else(named, |model| model.id.clone())
}
