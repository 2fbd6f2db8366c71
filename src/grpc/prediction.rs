//! `Prediction`: the door for queries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::pb::v1::{self, prediction_server::Prediction};
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, convert, stream};
use crate::{admit, metrics::Protocol, status};

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
        let transport = admit::grpc_timeout(request.metadata());
        let request = request.into_inner();
        answer(&self.0, request, transport, Protocol::Grpc).await.map(Response::new)
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
                // The id is needed on both ways out, and only one of them gets the request.
                let request_id = std::mem::take(&mut request.request_id);
                // The deadline of a stream's call bounds the stream, not each of its messages.
                match answer(&shared, request, None, Protocol::GrpcStream).await {
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

async fn answer(
    shared: &Shared,
    mut request: v1::PredictRequest,
    transport: Option<Duration>,
    protocol: Protocol,
) -> Result<v1::PredictResponse, Status> {
    let arrived = Instant::now();
    let application = std::mem::take(&mut request.application);
    let request_id = std::mem::take(&mut request.request_id);
    let read = || convert::asked(request);
    let prediction = shared.predict(&application, read, arrived, transport, protocol).await?;
    Ok(convert::response(prediction, request_id))
}
