//! `Prediction`: the door for queries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{
    PredictError,
    pb::v1::{self, prediction_server::Prediction},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, convert, stream};
use crate::{admit, application, applications::Served, metrics::Protocol, status};

/// Serves `Prediction`.
#[derive(Clone, Debug)]
pub struct PredictionService(pub Shared);

type BoxStream<T> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Prediction for PredictionService {
    async fn predict(
        &self,
        request: Request<v1::PredictRequest>,
    ) -> Result<Response<v1::PredictResponse>, Status> {
        let arrived = Instant::now();
        let transport = admit::grpc_timeout(request.metadata());
        let request = request.into_inner();
        self.0.predict(request, arrived, transport, Protocol::Grpc).await.map(Response::new)
    }

    type PredictStreamStream = BoxStream<v1::PredictResponse>;

    async fn predict_stream(
        &self,
        request: Request<Streaming<v1::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        // Shared once for the stream: a clone for each message would count a dozen references.
        let shared = Arc::new(self.0.clone());
        let answer = move |mut request: v1::PredictRequest| {
            let shared = Arc::clone(&shared);
            async move {
                let arrived = Instant::now();
                // The id is needed on both ways out, and only one of them gets the request.
                let request_id = std::mem::take(&mut request.request_id);
                // The deadline of a stream's call bounds the stream, not each of its messages.
                match shared.predict(request, arrived, None, Protocol::GrpcStream).await {
                    Ok(response) => v1::PredictResponse { request_id, ..response },
                    Err(refused) => v1::PredictResponse {
                        request_id,
                        error: Some(status::in_stream(&refused)),
                        ..Default::default()
                    },
                }
            }
        };
        let (limit, stopping) = (self.0.stream_in_flight, self.0.stopping.clone());
        let answers = stream::answer_each(request.into_inner(), limit, stopping, answer);
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Shared {
    /// One query, by whichever door; its reply is counted here, once.
    async fn predict(
        &self,
        request: v1::PredictRequest,
        arrived: Instant,
        transport: Option<Duration>,
        protocol: Protocol,
    ) -> Result<v1::PredictResponse, Status> {
        let served = match self.applications.get(&request.application) {
            Ok(served) => served,
            Err(error) => {
                let refused = status::of_predict(&error);
                self.metrics.unknown_application(refused.code(), protocol);
                return Err(refused);
            }
        };
        let mut counted = Counted { served: &served, protocol, done: false };
        let result = self.answer(&served, request, arrived, transport).await;
        counted.done = true;
        match result {
            Ok((response, answered, objective)) => {
                let took = arrived.elapsed();
                served.metrics.answered(answered, took, took <= objective, protocol);
                Ok(response)
            }
            Err(error) => {
                let refused = status::of_predict(&error);
                served.metrics.refused(refused.code(), reason(&error), protocol);
                Err(refused)
            }
        }
    }

    async fn answer(
        &self,
        served: &Served,
        request: v1::PredictRequest,
        arrived: Instant,
        transport: Option<Duration>,
    ) -> Result<(v1::PredictResponse, skysail_selection::Status, Duration), PredictError> {
        let selector = self.applications.selector(served).await?;
        let application = selector.application();
        let timeout = application::duration("timeout", request.timeout.as_ref())?;
        let (objective, slack) = (application.objective, application.slack);
        let deadline = admit::deadline(arrived, objective, slack, timeout, transport);
        let (query, asked) = convert::query(application, request, deadline)?;
        let _place = served.admission.admit(objective)?;
        let prediction = selector.predict(query).await?;
        let status = prediction.status;
        Ok((convert::response(prediction, asked), status, objective))
    }
}

/// Counts a query whose call was cancelled, which no reply does.
struct Counted<'a> {
    served: &'a Served,
    protocol: Protocol,
    done: bool,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.served.metrics.refused(tonic::Code::Cancelled, "cancelled", self.protocol);
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
