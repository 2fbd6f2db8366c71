//! One query, by whichever door: found, checked, admitted, answered, and counted once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, PredictError, Tensor};
use skysail_selection::{Application, Prediction, Query};
use tonic::Status;

use crate::{admit, applications::Served, grpc::Shared, metrics::Protocol, stack::Stack, status};

/// What a client asked an application, as no protocol in particular says it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) inputs: Vec<Tensor>,
    /// Empty: the application's own state is used.
    pub(crate) context_id: String,
    pub(crate) context_features: Vec<f32>,
    /// The request's own, beside the transport's.
    pub(crate) timeout: Option<Duration>,
    /// Outputs wanted, in this order; empty: all.
    pub(crate) outputs: Vec<String>,
}

impl Shared {
    /// One query; its reply is counted here, once, and so is a call that is cancelled. The answer
    /// holds the outputs that were asked for.
    ///
    /// `read` is called once the application is known.
    pub(crate) async fn predict(
        &self,
        application: &str,
        read: impl FnOnce() -> Result<Asked, PredictError>,
        arrived: Instant,
        transport: Option<Duration>,
        protocol: Protocol,
    ) -> Result<Prediction, Status> {
        let served = match self.applications.get(application) {
            Ok(served) => served,
            Err(error) => {
                let refused = status::of_predict(&error);
                self.metrics.unknown_application(refused.code(), protocol);
                return Err(refused);
            }
        };
        let mut counted = Counted { served: &served, arrived, protocol, done: false };
        let result = self.answer(&served, read, arrived, transport).await;
        counted.done = true;
        let took = arrived.elapsed();
        match result {
            Ok((prediction, stack)) => {
                let application = stack.application();
                let in_time = took <= application.objective;
                served.metrics.answered(prediction.status, took, in_time, protocol);
                served.statistics.answered(&prediction, took, application.max_age.is_some());
                Ok(prediction)
            }
            Err(error) => {
                let refused = status::of_predict(&error);
                served.metrics.refused(refused.code(), reason(&error), protocol);
                served.statistics.failed(took);
                Err(refused)
            }
        }
    }

    async fn answer(
        &self,
        served: &Served,
        read: impl FnOnce() -> Result<Asked, PredictError>,
        arrived: Instant,
        transport: Option<Duration>,
    ) -> Result<(Prediction, Arc<Stack>), PredictError> {
        let stack = self.applications.selector(served).await?;
        let application = stack.application();
        let mut asked = read()?;
        let outputs = std::mem::take(&mut asked.outputs);
        let (objective, slack) = (application.objective, application.slack);
        let deadline = admit::deadline(arrived, objective, slack, asked.timeout, transport);
        let query = query(application, asked, deadline)?;
        known(application, &outputs)?;
        let _place = served.admission.admit(objective)?;
        let mut prediction = stack.predict(query).await?;
        if !outputs.is_empty() {
            prediction.outputs = picked(prediction.outputs, &outputs);
        }
        Ok((prediction, stack))
    }
}

/// Counts a query whose call was cancelled, which no reply does.
struct Counted<'a> {
    served: &'a Served,
    arrived: Instant,
    protocol: Protocol,
    done: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.served.metrics.refused(tonic::Code::Cancelled, "cancelled", self.protocol);
            self.served.statistics.failed(self.arrived.elapsed());
        }
    }
}

/// A refusal's reason, as the label says it.
fn reason(error: &PredictError) -> &'static str {
    match error {
        PredictError::NotFound { .. } => "not_found",
        PredictError::InvalidArgument(_) => "invalid_argument",
        PredictError::FailedPrecondition(_) => "failed_precondition",
        PredictError::Overloaded { .. } => "overloaded",
        PredictError::Late { .. } => "late",
        PredictError::Unavailable { .. } => "no_live_replica",
        PredictError::ReplicaLost { .. } => "replica_lost",
        PredictError::State(_) => "state",
        PredictError::Container { .. } => "container_failed",
        PredictError::Cancelled => "cancelled",
        _ => "internal",
    }
}

/// Checks what was asked against the application's signature. Its outputs are checked by [`known`].
///
/// # Errors
///
/// INVALID_ARGUMENT for the first thing that is wrong.
pub(crate) fn query(
    application: &Application,
    asked: Asked,
    deadline: Instant,
) -> Result<Query, PredictError> {
    let inputs = inputs(application, asked.inputs)?;
    features(application, &asked.context_features)?;
    Ok(Query {
        inputs: Arc::new(inputs),
        context_id: if asked.context_id.is_empty() {
            // The common case allocates nothing.
            Arc::default()
        } else {
            asked.context_id.into()
        },
        context_features: asked.context_features,
        deadline,
    })
}

fn inputs(application: &Application, tensors: Vec<Tensor>) -> Result<Inputs, PredictError> {
    let name = &application.name;
    for tensor in &tensors {
        let spec = application.inputs.iter().find(|spec| spec.name == tensor.name());
        let spec = spec.ok_or_else(|| {
            PredictError::invalid(format!(
                "application '{name}' has no input '{}'; it takes: {}",
                tensor.name(),
                names(application.inputs.iter().map(|spec| spec.name.as_str()))
            ))
        })?;
        spec.check(tensor)?;
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

fn known(application: &Application, outputs: &[String]) -> Result<(), PredictError> {
    for wanted in outputs {
        if !application.outputs.iter().any(|spec| spec.name == *wanted) {
            return Err(PredictError::invalid(format!(
                "application '{}' has no output '{wanted}'; it has: {}",
                application.name,
                names(application.outputs.iter().map(|spec| spec.name.as_str()))
            )));
        }
    }
    Ok(())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Those of `outputs` that are wanted, in that order; one that is asked for twice leaves once.
fn picked(mut outputs: Vec<Tensor>, wanted: &[String]) -> Vec<Tensor> {
    let mut take = |name: &String| {
        let index = outputs.iter().position(|tensor| tensor.name() == name)?;
        Some(outputs.swap_remove(index))
    };
    wanted.iter().filter_map(&mut take).collect()
}
