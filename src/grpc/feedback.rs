//! `Feedback`: the door for what is known later.

use std::{sync::Arc, time::Instant};

use skysail_proto::{
    Tensor, Trace,
    pb::v1::{self, feedback_server::Feedback as Service, observe_request},
};
use skysail_selection::{
    DecisionId, Feedback, InputFeedback, Label,
    combine::Combiner,
    query::{Acknowledgement, FeedbackValue},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, convert, stream};
use crate::{
    admit,
    applications::Served,
    metrics,
    predict::{self, Asked},
    record::FeedbackLine,
    stack::Stack,
    status,
    telemetry::{
        Parent,
        refusals::{FEEDBACK, Refusal},
    },
};

/// Serves `Feedback`.
#[derive(Clone, Debug)]
pub struct FeedbackService(pub Shared);

type BoxStream<T> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Service for FeedbackService {
    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<v1::ObserveResponse>, Status> {
        let parent = self.0.tracer.parent(request.metadata().as_ref());
        self.0.observe(request.into_inner(), parent).await.map(Response::new)
    }

    type ObserveStreamStream = BoxStream<v1::ObserveResponse>;

    async fn observe_stream(
        &self,
        request: Request<Streaming<v1::ObserveRequest>>,
    ) -> Result<Response<Self::ObserveStreamStream>, Status> {
        let shared = self.0.clone();
        let parent = self.0.tracer.stream_parent(request.metadata().as_ref());
        let answer = move |request: v1::ObserveRequest| {
            let shared = shared.clone();
            async move {
                let request_id = request.request_id.clone();
                shared.observe(request, parent).await.unwrap_or_else(|refused| {
                    v1::ObserveResponse {
                        request_id,
                        error: Some(status::in_stream(&refused)),
                        ..Default::default()
                    }
                })
            }
        };
        let (limit, stopping) = (self.0.stream_in_flight, self.0.stopping.clone());
        let answers = stream::answer_each(request.into_inner(), limit, stopping, answer);
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Shared {
    /// One message of feedback, by whichever door; what became of it is counted here, once.
    pub(crate) async fn observe(
        &self,
        request: v1::ObserveRequest,
        parent: Parent,
    ) -> Result<v1::ObserveResponse, Status> {
        let mut traced = self.tracer.begin(parent, Instant::now());
        if let Some(traced) = &mut traced {
            traced.rename("skysail.observe");
            traced.say("skysail.application", request.application.clone());
            if let Some(observe_request::Target::DecisionId(id)) = &request.target {
                traced.say("skysail.decision_id", id.clone());
            }
        }
        let trace = traced.as_ref().map(|traced| traced.trace());
        let (metrics, log, result) = match self.applications.get(&request.application) {
            Ok(served) => {
                let result = self.apply(&served, request, trace).await;
                (served.metrics.clone(), Arc::clone(&served.refusals), result)
            }
            Err(error) => {
                let refused = (status::of_predict(&error), request.request_id);
                (self.metrics.unknown().clone(), Arc::clone(&self.unknown), Err(refused))
            }
        };
        let outcome = result.as_ref().map_or("REFUSED", |(_, outcome)| *outcome);
        metrics.feedback(outcome);
        if let Err((refused, request_id)) = &result {
            let trace_id = traced.as_ref().map(|traced| traced.id()).unwrap_or_default();
            log.say(&Refusal {
                reason: FEEDBACK,
                code: status::code_name(refused.code()),
                message: refused.message(),
                request_id,
                trace_id: &trace_id,
            });
        }
        if let Some(mut traced) = traced {
            traced.say("skysail.outcome", outcome);
            traced.end(result.as_ref().err().map(|(refused, _)| refused.message().to_owned()));
        }
        result.map(|(response, _)| response).map_err(|(refused, _)| refused)
    }

    /// A refusal comes with the request's id, for the log.
    async fn apply(
        &self,
        served: &Served,
        request: v1::ObserveRequest,
        trace: Option<&Arc<Trace>>,
    ) -> Result<(v1::ObserveResponse, &'static str), (Status, String)> {
        let request_id = request.request_id.clone();
        match self.acknowledge(served, request, trace).await {
            Ok(acknowledgement) => {
                let outcome = metrics::outcome_name(&acknowledgement);
                Ok((response(request_id, acknowledgement), outcome))
            }
            Err(refused) => Err((refused, request_id)),
        }
    }

    async fn acknowledge(
        &self,
        served: &Served,
        request: v1::ObserveRequest,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Acknowledgement, Status> {
        let selector =
            self.applications.selector(served).await.map_err(|error| status::of_predict(&error))?;
        let target = request.target.ok_or_else(|| {
            Status::invalid_argument("no target; expected the decision_id of a prediction")
        })?;
        let value = request
            .value
            .ok_or_else(|| Status::invalid_argument("no value; expected a label or a reward"))?;
        let value = self::value(selector.combiner(), value)?;
        match target {
            observe_request::Target::DecisionId(id) => {
                self.by_decision(&selector, &id, request.row, value, trace).await
            }
            observe_request::Target::Input(target) => {
                let FeedbackValue::Labels(labels) = value else {
                    return Err(Status::invalid_argument(
                        "a reward is of an answer that was given: send it with the decision_id; \
                         feedback by input takes a label",
                    ));
                };
                let (row, id) = (request.row, request.feedback_id);
                self.by_input(served, &selector, target, row, labels, id).await
            }
        }
    }
}

impl Shared {
    async fn by_decision(
        &self,
        selector: &Stack,
        id: &str,
        row: Option<u32>,
        value: FeedbackValue,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Acknowledgement, Status> {
        // An id that is none is one that nobody gave out.
        let Ok(decision_id) = id.parse::<DecisionId>() else {
            return Ok(Acknowledgement::Unknown);
        };
        let feedback = Feedback { decision_id, row, value };
        let line = FeedbackLine::new(&feedback);
        let acknowledgement = selector.observe_traced(feedback, trace).await;
        let acknowledgement = acknowledgement.map_err(|error| status::of_observe(&error))?;
        if matches!(acknowledgement, Acknowledgement::Applied { .. }) {
            self.log.append_feedback(line);
        }
        Ok(acknowledgement)
    }

    /// The models are asked as for a query: within the objective, and in its place of admission.
    async fn by_input(
        &self,
        served: &Served,
        selector: &Stack,
        target: v1::InputTarget,
        row: Option<u32>,
        labels: Vec<Label>,
        feedback_id: String,
    ) -> Result<Acknowledgement, Status> {
        let application = selector.application();
        let (objective, slack) = (application.objective, application.slack);
        let deadline = admit::deadline(Instant::now(), objective, slack, None, None);
        let query = convert::tensors(target.inputs).and_then(|inputs| {
            let asked = Asked {
                inputs,
                context_id: target.context_id,
                context_features: vec![0.0; application.context_features_dim],
                ..Default::default()
            };
            predict::query(application, asked, deadline)
        });
        let query = query.map_err(|error| status::of_predict(&error))?;
        let _place =
            served.admission.admit(objective).map_err(|error| status::of_predict(&error))?;
        let feedback = InputFeedback { query, row, labels: labels.clone(), feedback_id };
        let (acknowledgement, asked) =
            selector.observe_input(feedback).await.map_err(|error| status::of_observe(&error))?;
        if matches!(acknowledgement, Acknowledgement::Applied { .. }) {
            self.log.append_feedback(FeedbackLine::by_input(row, labels, &asked));
        }
        Ok(acknowledgement)
    }
}

fn value(combiner: &Combiner, value: observe_request::Value) -> Result<FeedbackValue, Status> {
    match value {
        observe_request::Value::Reward(reward) if (0.0..=1.0).contains(&reward) => {
            Ok(FeedbackValue::Reward(reward))
        }
        observe_request::Value::Reward(reward) => Err(Status::invalid_argument(format!(
            "reward: expected a number in [0, 1], got {reward}"
        ))),
        observe_request::Value::Label(mut label) => {
            if label.name.is_empty() {
                // There is only one label; nobody has to name it.
                label.name = "label".into();
            }
            let tensor = Tensor::try_from(label)
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            // How many the decision has is checked when it is found.
            let rows =
                tensor.rows().map_err(|error| Status::invalid_argument(error.to_string()))?;
            combiner
                .labels_from_tensor(&tensor, rows)
                .map(FeedbackValue::Labels)
                .map_err(Status::invalid_argument)
        }
    }
}

fn response(request_id: String, acknowledgement: Acknowledgement) -> v1::ObserveResponse {
    let (outcome, detail) = match acknowledgement {
        Acknowledgement::Applied { detail, .. } => (v1::FeedbackOutcome::Applied, detail),
        Acknowledgement::Duplicate => (
            v1::FeedbackOutcome::Duplicate,
            "every row had feedback before; the first one holds".to_owned(),
        ),
        Acknowledgement::Unknown => (
            v1::FeedbackOutcome::Unknown,
            "no such decision of this application is known".to_owned(),
        ),
        Acknowledgement::Expired => {
            (v1::FeedbackOutcome::Expired, "the feedback window has passed".to_owned())
        }
    };
    v1::ObserveResponse { request_id, outcome: outcome.into(), detail, error: None }
}
