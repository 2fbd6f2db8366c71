//! A container that only waits: a batch of n rows takes α·n + β, to some microseconds. It shows
//! what batching and queues do, undisturbed by a model that fights for the processor.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_containers::{Container, ContainerError};
use skysail_proto::{
    DataType, Inputs, Signature, Tensor, TensorSpec,
    pb::inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
        model_infer_response::InferOutputTensor,
        model_metadata_response::TensorMetadata,
    },
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// What a batch takes.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Per row (α).
    pub row: Duration,
    /// Per batch (β).
    pub batch: Duration,
}

impl Speed {
    /// Of a batch of `rows`.
    pub fn of(&self, rows: usize) -> Duration {
        self.batch + self.row.mul_f64(rows as f64)
    }
}

/// Name of the input, FP32 `[rows, FEATURES]`.
pub const INPUT: &str = "input";
/// Elements of a row.
pub const FEATURES: usize = 16;
/// Name of the output, INT64 `[rows]`, all zero.
pub const OUTPUT: &str = "label";

/// A sleeper may wake late by as much; the rest is spun.
const SPIN: Duration = Duration::from_micros(120);

fn wait_until(end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    if left > SPIN {
        thread::sleep(left - SPIN);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// The container at the model seam.
#[derive(Clone, Copy, Debug)]
pub struct Sleeper {
    /// What a batch takes; zero: it does not even look at the clock.
    pub speed: Speed,
}

impl Container for Sleeper {
    fn signature(&self) -> Signature {
        let spec = |name: &str, datatype, shape| TensorSpec { name: name.into(), datatype, shape };
        Signature {
            inputs: vec![spec(INPUT, DataType::Fp32, vec![-1, FEATURES as i64])],
            outputs: vec![spec(OUTPUT, DataType::Int64, vec![-1])],
        }
    }

    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError> {
        let begun = Instant::now();
        let answers = batch
            .iter()
            .map(|query| {
                let rows = query.rows();
                let answer = |name: &Arc<str>| {
                    Tensor::new(&**name, DataType::Int64, [rows as i64], vec![0; rows * 8])
                };
                outputs.iter().map(answer).collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let took = self.speed.of(batch.iter().map(|query| query.rows()).sum());
        if !took.is_zero() {
            wait_until(begun + took);
        }
        Ok(answers)
    }
}

/// Serves the Open Inference Protocol until the process ends. Each model name is a container of
/// its own: one batch after the other.
///
/// # Errors
///
/// The listener failed.
pub async fn serve(listener: TcpListener, speed: Speed) -> anyhow::Result<()> {
    let service = Service { speed, free: Arc::default() };
    Server::builder()
        .add_service(GrpcInferenceServiceServer::new(service).max_decoding_message_size(usize::MAX))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Debug)]
struct Service {
    speed: Speed,
    /// By model: when its container is free.
    free: Arc<Mutex<std::collections::HashMap<String, Instant>>>,
}

impl Service {
    /// Takes the container's next free time.
    fn end(&self, model: &str, rows: usize) -> Instant {
        let mut free = self.free.lock();
        let at = free.entry(model.to_owned()).or_insert_with(Instant::now);
        *at = (*at).max(Instant::now()) + self.speed.of(rows);
        *at
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let rows = request.inputs.first().and_then(|input| input.shape.first().copied());
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let rows = rows.ok_or_else(|| Status::invalid_argument("expected an input with rows"))?;
        let end = self.end(&request.model_name, rows);
        // The runtime's timer counts milliseconds.
        let waited = tokio::task::spawn_blocking(move || wait_until(end)).await;
        waited.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ModelInferResponse {
            model_name: request.model_name,
            model_version: request.model_version,
            id: request.id,
            outputs: vec![InferOutputTensor {
                name: OUTPUT.into(),
                datatype: "INT64".into(),
                shape: vec![rows as i64],
                ..Default::default()
            }],
            raw_output_contents: vec![vec![0; rows * 8].into()],
            ..Default::default()
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let tensor = |name: &str, datatype: &str, shape| TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            name: request.name,
            versions: vec!["1".into()],
            platform: "sleeper".into(),
            inputs: vec![tensor(INPUT, "FP32", vec![-1, FEATURES as i64])],
            outputs: vec![tensor(OUTPUT, "INT64", vec![-1])],
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
        Ok(Response::new(ServerMetadataResponse { name: "sleeper".into(), ..Default::default() }))
    }
}
