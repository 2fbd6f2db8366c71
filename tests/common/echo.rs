//! A server of the Open Inference Protocol whose models give back what they take.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::time::Duration;

use skysail_proto::{
    DataType, Tensor,
    open_inference::{self, Contents},
    pb::{
        inference::{
            ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
            ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
            ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
            grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
        },
        v1::{self, RegisterRequest},
    },
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// How long the model `slow` takes for all but zeros.
pub(crate) const SLOW: Duration = Duration::from_secs(1);

/// Where it listens; it ends with the runtime.
pub(crate) async fn start() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router =
        tonic::transport::Server::builder().add_service(GrpcInferenceServiceServer::new(Echo));
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// The registration of a model that takes and gives these tensors.
pub(crate) fn registration(
    model: &str,
    address: &str,
    inputs: Vec<v1::TensorSpec>,
    outputs: Vec<v1::TensorSpec>,
) -> RegisterRequest {
    RegisterRequest {
        model: model.into(),
        version: "1".into(),
        address: address.into(),
        persistent: true,
        inputs,
        outputs,
        ..Default::default()
    }
}

pub(crate) fn spec(name: &str, datatype: &str, shape: &[i64]) -> v1::TensorSpec {
    v1::TensorSpec { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
}

struct Echo;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Echo {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Reply<ServerLiveResponse> {
        Err(Status::unimplemented("not asked by a front end"))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Reply<ServerReadyResponse> {
        Err(Status::unimplemented("not asked by a front end"))
    }

    async fn model_ready(&self, _: Request<ModelReadyRequest>) -> Reply<ModelReadyResponse> {
        Err(Status::unimplemented("not asked by a front end"))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Reply<ServerMetadataResponse> {
        Err(Status::unimplemented("not asked by a front end"))
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Reply<ModelMetadataResponse> {
        Err(Status::unimplemented("registrations bring their signature"))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Reply<ModelInferResponse> {
        let request = request.into_inner();
        let model = request.model_name.clone();
        let (tensors, _) = open_inference::inputs(request).unwrap();
        // Not with zeros, which it is probed with: the front end must not know beforehand.
        if model == "slow" && tensors[0].data().iter().any(|byte| *byte != 0) {
            tokio::time::sleep(SLOW).await;
        }
        // The model `half` gives the upper halves of its FP32 numbers, which are BF16.
        let tensors = if model == "half" {
            let x = &tensors[0];
            let upper = x.data().chunks_exact(4).flat_map(|four| [four[2], four[3]]);
            let data = upper.collect::<Vec<u8>>();
            vec![Tensor::new("half", DataType::Bf16, x.shape(), data).unwrap()]
        } else {
            tensors
        };
        let (outputs, raw_output_contents) = open_inference::reply(&tensors, Contents::Raw);
        Ok(Response::new(ModelInferResponse { outputs, raw_output_contents, ..Default::default() }))
    }
}
