//! One query, by whichever door: found, checked, admitted, answered, and counted once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, PredictError, Tensor, Trace};
use skysail_selection::{Application, Prediction, Query, Status as PredictionStatus};
use tonic::Status;

use crate::{
    admit,
    applications::Served,
    grpc::Shared,
    metrics::{ApplicationMetrics, Protocol},
    open_inference::Statistics,
    stack::Stack,
    status,
    telemetry::{Parent, RefusalLog, Traced, refusals::Refusal},
};

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

/// How a query came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// What its transport allows it.
    pub timeout: Option<Duration>,
    /// Its caller's trace.
    pub parent: Parent,
    /// By which door.
    pub protocol: Protocol,
}

impl Arrival {
    /// Now, without a timeout and without a trace.
    pub fn by(protocol: Protocol) -> Self {
        Self { at: Instant::now(), timeout: None, parent: Parent::default(), protocol }
    }
}

impl Shared {
    /// One query; its reply is counted here, once, and so is a call that is cancelled. The answer
    /// holds the outputs that were asked for.
    ///
    /// `read` is called once the application is known. `request_id` is for the log.
    pub(crate) async fn predict(
        &self,
        application: &str,
        request_id: &str,
        read: impl FnOnce() -> Result<Asked, PredictError>,
        arrival: Arrival,
    ) -> Result<Prediction, Status> {
        let traced = self.traced(application, arrival);
        let served = match self.applications.get(application) {
            Ok(served) => served,
            Err(error) => {
                let (metrics, log) = (self.metrics.unknown(), &self.unknown);
                let told = Told { metrics, log, statistics: None, request_id, arrival };
                let unheard = Unheard { told, traced, done: false };
                return Err(unheard.refuse(status::of_predict(&error), "unknown_application"));
            }
        };
        let (metrics, log) = (&served.metrics, &*served.refusals);
        let told = Told { metrics, log, statistics: Some(&served.statistics), request_id, arrival };
        let mut unheard = Unheard { told, traced, done: false };
        let trace = unheard.traced.as_ref().map(|traced| Arc::clone(traced.trace()));
        match self.answer(&served, read, arrival, trace).await {
            Ok((prediction, stack)) => {
                unheard.done = true;
                let (application, took) = (stack.application(), arrival.at.elapsed());
                let in_time = took <= application.objective;
                served.metrics.answered(prediction.status, took, in_time, arrival.protocol);
                served.statistics.answered(&prediction, took, application.max_age.is_some());
                if let Some(mut traced) = unheard.traced.take() {
                    traced.say("skysail.decision_id", prediction.decision_id.to_string());
                    traced.say("skysail.status", status_name(prediction.status));
                    traced.end(None);
                }
                Ok(prediction)
            }
            Err(error) => Err(unheard.refuse(status::of_predict(&error), reason(&error))),
        }
    }

    fn traced(&self, application: &str, arrival: Arrival) -> Option<Box<Traced>> {
        let mut traced = self.tracer.begin(arrival.parent, arrival.at)?;
        traced.say("skysail.application", application.to_owned());
        traced.say("skysail.protocol", arrival.protocol.name());
        Some(traced)
    }

    async fn answer(
        &self,
        served: &Served,
        read: impl FnOnce() -> Result<Asked, PredictError>,
        arrival: Arrival,
        trace: Option<Arc<Trace>>,
    ) -> Result<(Prediction, Arc<Stack>), PredictError> {
        let stack = self.applications.selector(served).await?;
        let application = stack.application();
        let mut asked = read()?;
        let outputs = std::mem::take(&mut asked.outputs);
        let (objective, slack) = (application.objective, application.slack);
        let deadline =
            admit::deadline(arrival.at, objective, slack, asked.timeout, arrival.timeout);
        let mut query = query(application, asked, deadline)?;
        query.trace = trace;
        known(application, &outputs)?;
        let _place = served.admission.admit(objective)?;
        let mut prediction = stack.predict(query).await?;
        if !outputs.is_empty() {
            prediction.outputs = picked(prediction.outputs, &outputs);
        }
        Ok((prediction, stack))
    }
}

fn status_name(status: PredictionStatus) -> &'static str {
    match status {
        PredictionStatus::Answered => "ANSWERED",
        PredictionStatus::Partial => "PARTIAL",
        PredictionStatus::Default => "DEFAULT",
    }
}

/// Who is told that a query is refused.
struct Told<'a> {
    metrics: &'a ApplicationMetrics,
    log: &'a RefusalLog,
    /// `None`: there is no such application.
    statistics: Option<&'a Statistics>,
    request_id: &'a str,
    arrival: Arrival,
}

/// A query without a reply so far. Dropped, it counts as cancelled by its caller.
struct Unheard<'a> {
    told: Told<'a>,
    traced: Option<Box<Traced>>,
    done: bool,
}

impl Unheard<'_> {
    /// Tells of it, and gives the refusal back.
    fn refuse(mut self, refused: Status, reason: &'static str) -> Status {
        self.end(&refused, reason);
        refused
    }

    fn end(&mut self, refused: &Status, reason: &'static str) {
        self.done = true;
        let told = &self.told;
        told.metrics.refused(refused.code(), reason, told.arrival.protocol);
        if let Some(statistics) = told.statistics {
            statistics.failed(told.arrival.at.elapsed());
        }
        let trace_id = self.traced.as_ref().map(|traced| traced.id()).unwrap_or_default();
        let code = status::code_name(refused.code());
        told.log.say(&Refusal {
            reason,
            code,
            message: refused.message(),
            request_id: told.request_id,
            trace_id: &trace_id,
        });
        if let Some(mut traced) = self.traced.take() {
            traced.say("skysail.status", code);
            traced.end(Some(refused.message().to_owned()));
        }
    }
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.end(&Status::cancelled("the caller has gone"), "cancelled");
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
        trace: None,
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
