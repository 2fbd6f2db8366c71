//! The Open Inference Protocol in front of one model.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_containers::{ContainerState, Models};
use skysail_proto::{
    Inputs, ModelCall, ModelVersion, PredictError,
    call::call_identity,
    open_inference,
    pb::inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::GrpcInferenceService,
    },
};
use tonic::{Request, Response, Status};
use tower::Service as _;

use crate::{admit, open_inference::parameters, status, telemetry::Tracer};

/// How long a call without a deadline may take.
const UNLIMITED: Duration = Duration::from_secs(600);

/// Serves one model.
#[derive(Clone, Debug)]
pub struct ModelService {
    models: Models,
    model: Arc<ModelVersion>,
    /// All outputs, sorted by name.
    outputs: Arc<[Arc<str>]>,
    tracer: Tracer,
}

type Reply<T> = Result<Response<T>, Status>;

impl ModelService {
    /// Serves `model`, which `models` has. Batches that a front end samples are told to `tracer`.
    pub fn new(models: Models, model: Arc<ModelVersion>, tracer: Tracer) -> Self {
        let mut outputs: Vec<Arc<str>> =
            model.signature.outputs.iter().map(|spec| spec.name.as_str().into()).collect();
        outputs.sort();
        Self { models, model, outputs: outputs.into(), tracer }
    }

    fn check_name(&self, name: &str, version: &str) -> Result<(), Status> {
        let id = &self.model.id;
        if *name == *id.name && (version.is_empty() || *version == *id.version) {
            return Ok(());
        }
        let asked = if version.is_empty() { name.to_owned() } else { format!("{name}:{version}") };
        Err(Status::not_found(format!("model '{asked}' is not served here; this is {id}")))
    }

    fn is_ready(&self) -> bool {
        self.models.containers().iter().any(|one| one.state == ContainerState::Ready)
    }

    fn outputs_of(&self, request: &ModelInferRequest) -> Result<Arc<[Arc<str>]>, Status> {
        if request.outputs.is_empty() {
            return Ok(Arc::clone(&self.outputs));
        }
        let known = |name: &str| self.outputs.iter().find(|known| &***known == name).cloned();
        let asked = request.outputs.iter().map(|output| {
            known(&output.name).ok_or_else(|| {
                let (id, signature) = (&self.model.id, &self.model.signature);
                Status::invalid_argument(format!(
                    "{id}: there is no output '{}'; its signature is {signature}",
                    output.name
                ))
            })
        });
        asked.collect()
    }

    async fn infer(&self, request: Request<ModelInferRequest>) -> Reply<ModelInferResponse> {
        let now = Instant::now();
        let Some(mut traced) = self.tracer.go_on(request.metadata().as_ref(), now) else {
            return Ok(Response::new(self.compute(request, now).await?.0));
        };
        traced.rename("skysail.container");
        traced.say("skysail.model", self.model.id.to_string());
        match self.compute(request, now).await {
            Ok((response, stages)) => {
                traced.say("skysail.rows", stages.batch_rows as usize);
                let begun = traced.stage("compute", stages.ended, stages.compute);
                traced.stage("queue", begun, stages.queue);
                traced.end(None);
                Ok(Response::new(response))
            }
            Err(refused) => {
                traced.end(Some(refused.message().to_owned()));
                Err(refused)
            }
        }
    }

    async fn compute(
        &self,
        request: Request<ModelInferRequest>,
        now: Instant,
    ) -> Result<(ModelInferResponse, Stages), Status> {
        let of_call = admit::grpc_timeout(request.metadata());
        let request = request.into_inner();
        self.check_name(&request.model_name, &request.model_version)?;
        let of_request =
            parameters::timeout(&request.parameters).map_err(|error| status::of_predict(&error))?;
        let outputs = self.outputs_of(&request)?;
        let id = request.id.clone();
        let left = [of_call, of_request, Some(UNLIMITED)].into_iter().flatten().min();
        let deadline = now + left.unwrap_or(UNLIMITED);
        let wrong = |error| status::of_predict(&PredictError::from(error));
        let (tensors, contents) = open_inference::inputs(request).map_err(wrong)?;
        for tensor in &tensors {
            if self.model.signature.input(tensor.name()).is_none() {
                return Err(Status::invalid_argument(format!(
                    "{}: there is no input '{}'; its signature is {}",
                    self.model.id,
                    tensor.name(),
                    self.model.signature
                )));
            }
        }
        let call = ModelCall {
            model: Arc::clone(&self.model),
            inputs: Arc::new(Inputs::new(tensors).map_err(wrong)?),
            identity: call_identity(&self.model, &outputs),
            outputs,
            deadline,
            max_age: None,
            waiters: None,
            trace: None,
        };
        let reply = self.models.clone().call(call).await;
        let reply = reply.map_err(|error| match error {
            // The front end says which model it was.
            PredictError::Container { why, .. } => Status::internal(why.as_ref()),
            error => status::of_predict(&error),
        })?;
        let stages = Stages {
            ended: Instant::now(),
            queue: reply.queue,
            compute: reply.compute,
            batch_rows: reply.batch_rows,
        };
        let (outputs, raw_output_contents) = open_inference::reply(&reply.outputs, contents);
        let response = ModelInferResponse {
            model_name: self.model.id.name.as_ref().to_owned(),
            model_version: self.model.id.version.as_ref().to_owned(),
            id,
            outputs,
            raw_output_contents,
            ..Default::default()
        };
        Ok((response, stages))
    }
}

/// How a call went.
struct Stages {
    ended: Instant,
    queue: Duration,
    compute: Duration,
    batch_rows: u32,
}

#[tonic::async_trait]
impl GrpcInferenceService for ModelService {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Reply<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Reply<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Reply<ModelReadyResponse> {
        let request = request.get_ref();
        self.check_name(&request.name, &request.version)?;
        Ok(Response::new(ModelReadyResponse { ready: self.is_ready() }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Reply<ServerMetadataResponse> {
        Ok(Response::new(ServerMetadataResponse {
            name: "skysail container".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Reply<ModelMetadataResponse> {
        let request = request.get_ref();
        self.check_name(&request.name, &request.version)?;
        let signature = &self.model.signature;
        Ok(Response::new(ModelMetadataResponse {
            name: self.model.id.name.as_ref().to_owned(),
            versions: vec![self.model.id.version.as_ref().to_owned()],
            platform: "onnxruntime_onnx".into(),
            inputs: signature.inputs.iter().map(open_inference::metadata).collect(),
            outputs: signature.outputs.iter().map(open_inference::metadata).collect(),
            properties: [("digest".to_owned(), self.model.digest.as_ref().to_owned())].into(),
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Reply<ModelInferResponse> {
        self.infer(request).await
    }
}
