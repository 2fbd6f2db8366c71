//! A bare tonic server that answers everything with the same bytes: what the transport costs
//! without a product in it.
//!
//! It speaks the same services with the same codec, and it has the same HTTP/2 windows as
//! `skysail serve`.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use skysail_proto::pb::{
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
        model_infer_response::InferOutputTensor,
    },
    v1::{
        self, PredictRequest, PredictResponse,
        prediction_server::{Prediction, PredictionServer},
    },
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

type Answers = Pin<Box<dyn Stream<Item = Result<PredictResponse, Status>> + Send>>;

/// Serves until the process ends or the future is dropped.
///
/// # Errors
///
/// The listener failed.
pub async fn serve(listener: TcpListener, canned: PredictResponse) -> anyhow::Result<()> {
    let echo = Echo { canned: Arc::new(canned) };
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(PredictionServer::new(echo.clone()).max_decoding_message_size(usize::MAX))
        .add_service(GrpcInferenceServiceServer::new(echo).max_decoding_message_size(usize::MAX))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// The answer that is given where none was captured from a real server: one row of ten classes
/// and one arm.
pub fn canned() -> PredictResponse {
    let scores: Vec<u8> = (0..10_u8).flat_map(|class| f32::from(class).to_le_bytes()).collect();
    PredictResponse {
        decision_id: "0123456789abcdef0123456789abcdef".into(),
        outputs: vec![
            v1::Tensor {
                name: "label".into(),
                datatype: "INT64".into(),
                shape: vec![1],
                data: 9_i64.to_le_bytes().to_vec().into(),
            },
            v1::Tensor {
                name: "scores".into(),
                datatype: "FP32".into(),
                shape: vec![1, 10],
                data: scores.into(),
            },
        ],
        status: v1::Status::Answered.into(),
        confidence: vec![0.9],
        row_status: vec![v1::RowStatus::Answered.into()],
        contributions: vec![v1::Contribution {
            arm: "cnn".into(),
            model: "cnn".into(),
            version: "1".into(),
            outcome: v1::Outcome::Used.into(),
            cached: true,
            weight: 1.0,
            propensity: 1.0,
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[derive(Clone, Debug)]
struct Echo {
    canned: Arc<PredictResponse>,
}

impl Echo {
    fn answer(&self, request: PredictRequest) -> PredictResponse {
        PredictResponse { request_id: request.request_id, ..(*self.canned).clone() }
    }
}

#[tonic::async_trait]
impl Prediction for Echo {
    type PredictStreamStream = Answers;

    async fn predict(
        &self,
        request: Request<PredictRequest>,
    ) -> Result<Response<PredictResponse>, Status> {
        Ok(Response::new(self.answer(request.into_inner())))
    }

    async fn predict_stream(
        &self,
        request: Request<Streaming<PredictRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let echo = self.clone();
        let answers =
            request.into_inner().map(move |request| request.map(|request| echo.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let outputs = self.canned.outputs.iter().map(|tensor| InferOutputTensor {
            name: tensor.name.clone(),
            datatype: tensor.datatype.clone(),
            shape: tensor.shape.clone(),
            ..Default::default()
        });
        Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            model_version: "1".into(),
            id: request.id,
            outputs: outputs.collect(),
            raw_output_contents: self.canned.outputs.iter().map(|t| t.data.clone()).collect(),
            ..Default::default()
        }))
    }

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: true }))
    }

    async fn model_ready(
        &self,
        _: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Ok(Response::new(ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse { name: "echo".into(), ..Default::default() }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let name = request.into_inner().name;
        Ok(Response::new(ModelMetadataResponse { name, ..Default::default() }))
    }
}
