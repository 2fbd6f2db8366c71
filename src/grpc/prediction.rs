//! `Prediction`: the door for queries.

use std::sync::Arc;

use skysail_proto::pb::v1::{self, prediction_server::Prediction};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, convert, stream};
use crate::{admit, metrics::Protocol, predict::Arrival, status};

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
        let mut arrival = Arrival::by(Protocol::Grpc);
        arrival.timeout = admit::grpc_timeout(request.metadata());
        arrival.parent = self.0.tracer.parent(request.metadata().as_ref());
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let response = answer(&self.0, request, &request_id, arrival).await?;
        Ok(Response::new(v1::PredictResponse { request_id, ..response }))
    }

    type PredictStreamStream = BoxStream<v1::PredictResponse>;

    async fn predict_stream(
        &self,
        request: Request<Streaming<v1::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        // Shared once for the stream: a clone for each message would count a dozen references.
        let shared = Arc::new(self.0.clone());
        let parent = self.0.tracer.stream_parent(request.metadata().as_ref());
        let answer = move |mut request: v1::PredictRequest| {
            let shared = Arc::clone(&shared);
            async move {
                // The id is needed on both ways out, and only one of them gets the request.
                let request_id = std::mem::take(&mut request.request_id);
                // The deadline of a stream's call bounds the stream, not each of its messages.
                let arrival = Arrival { parent, ..Arrival::by(Protocol::GrpcStream) };
                match answer(&shared, request, &request_id, arrival).await {
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

/// The answer lacks the request's id.
async fn answer(
    shared: &Shared,
    mut request: v1::PredictRequest,
    request_id: &str,
    arrival: Arrival,
) -> Result<v1::PredictResponse, Status> {
    let application = std::mem::take(&mut request.application);
    let read = || convert::asked(request);
    let prediction = shared.predict(&application, request_id, read, arrival).await?;
    Ok(convert::response(prediction, String::new()))
}
