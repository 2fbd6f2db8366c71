//! The Open Inference Protocol around containers that measurements need.

use skysail_proto::pb::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// Models behind the protocol; every name is one.
pub trait Models: Send + Sync + 'static {
    /// Input: its name, datatype and shape.
    const INPUT: (&'static str, &'static str, &'static [i64]);

    /// The same of the output.
    fn output(&self) -> (&'static str, &'static str, Vec<i64>);

    /// The output's bytes, for a model, the input's bytes and its rows.
    fn infer(
        &self,
        model: &str,
        input: &[u8],
        rows: usize,
    ) -> impl Future<Output = Result<Vec<u8>, Status>> + Send;
}

/// Serves until the process ends.
///
/// # Errors
///
/// The listener failed.
pub async fn serve(listener: TcpListener, models: impl Models) -> anyhow::Result<()> {
    let service =
        GrpcInferenceServiceServer::new(Service(models)).max_decoding_message_size(usize::MAX);
    Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Debug)]
struct Service<M>(M);

#[tonic::async_trait]
impl<M: Models> GrpcInferenceService for Service<M> {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let rows = request.inputs.first().and_then(|input| input.shape.first().copied());
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let rows = rows.ok_or_else(|| Status::invalid_argument("expected an input with rows"))?;
        let input = request.raw_input_contents.first();
        let input = input.ok_or_else(|| Status::invalid_argument("expected raw contents"))?;
        let bytes = self.0.infer(&request.model_name, input, rows).await?;
        let (name, datatype, mut shape) = self.0.output();
        if let Some(first) = shape.first_mut() {
            *first = rows as i64;
        }
        Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            model_version: request.model_version,
            id: request.id,
            outputs: vec![InferOutputTensor {
                name: name.into(),
                datatype: datatype.into(),
                shape,
                ..Default::default()
            }],
            raw_output_contents: vec![bytes.into()],
            ..Default::default()
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let tensor = |name: &str, datatype: &str, shape: Vec<i64>| TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape,
        };
        let (name, datatype, shape) = M::INPUT;
        let output = self.0.output();
        Ok(Response::new(ModelMetadataResponse {
            name: request.name,
            versions: vec!["1".into()],
            platform: "skysail-bench".into(),
            inputs: vec![tensor(name, datatype, shape.to_vec())],
            outputs: vec![tensor(output.0, output.1, output.2)],
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
        let name = "skysail-bench".into();
        Ok(Response::new(ServerMetadataResponse { name, ..Default::default() }))
    }
}
