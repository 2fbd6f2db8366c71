//! A server of the Open Inference Protocol that does as it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_containers::{
    Address, BatchStrategy, ContainerInfo, ContainerState, Models, Registration,
};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelVersion, Signature, Tensor, TensorSpec,
    call::ModelResult,
    open_inference::{self, Contents},
    pb::inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse,
        ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{Request, Response, Status};
use tower::Service as _;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What the server does with a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers each row's number.
    #[default]
    Echo,
    /// Answers zeros rightly, and fails on all else.
    FailReal,
    /// Fails.
    Fail,
    /// Answers one row too few.
    Short,
    /// Answers another datatype.
    WrongType,
    /// Answers nothing until the mood changes.
    Hang,
    /// Refuses for want of room, as Triton does.
    Busy,
}

/// What the server has seen, and does.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) mood: watch::Sender<Mood>,
    /// Rows of each batch that had more than zeros in it.
    pub(crate) batches: Arc<Mutex<Vec<usize>>>,
    /// Calls that are under way, and the most that ever were.
    pub(crate) under_way: Arc<AtomicUsize>,
    pub(crate) most: Arc<AtomicUsize>,
    /// What the last call carried.
    pub(crate) timeouts: Arc<Mutex<Vec<(String, i64)>>>,
    pub(crate) sleep: Arc<Mutex<Duration>>,
    pub(crate) contents: Contents,
    pub(crate) versions: bool,
    pub(crate) width: i64,
    /// One batch at a time.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mood: watch::Sender::new(Mood::Echo),
            batches: Arc::default(),
            under_way: Arc::default(),
            most: Arc::default(),
            timeouts: Arc::default(),
            sleep: Arc::default(),
            contents: Contents::Raw,
            versions: true,
            width: -1,
            turn: Arc::default(),
        }
    }
}

pub(crate) struct Server {
    pub(crate) state: State,
    pub(crate) address: String,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(state: State) -> Self {
        Self::on("127.0.0.1:0", state).await
    }

    pub(crate) async fn on(address: &str, state: State) -> Self {
        let router = tonic::transport::Server::builder()
            .add_service(GrpcInferenceServiceServer::new(state.clone()));
        if let Some(path) = address.strip_prefix("unix:") {
            let listener = tokio::net::UnixListener::bind(path).unwrap();
            let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
            let task = tokio::spawn(async move {
                router.serve_with_incoming(incoming).await.unwrap();
            });
            return Self { state, address: address.into(), task };
        }
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let task = tokio::spawn(async move {
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self { state, address, task }
    }

    pub(crate) fn registration(&self) -> Registration {
        Registration {
            id: ModelId::new("echo", "1"),
            address: self.address.parse::<Address>().unwrap(),
            remote_model: String::new(),
            remote_version: String::new(),
            max_batch_rows: 0,
            device: "cpu".into(),
            persistent: true,
            signature: Signature::default(),
            probe: None,
            digest: String::new(),
            cacheable: true,
            objective: Some(Duration::from_secs(2)),
            batch: BatchStrategy::Fixed(8),
            batch_wait: Duration::ZERO,
        }
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.state.mood.send_replace(mood);
    }
}

/// Tasks of its connections end with it only when the runtime does, so a test that wants a dead
/// server lets it end with a runtime of its own.
impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for State {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Reply<ServerLiveResponse> {
        panic!("a foreign server is asked for metadata and inferences, nothing else");
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Reply<ServerReadyResponse> {
        panic!("a foreign server is asked for metadata and inferences, nothing else");
    }

    async fn model_ready(&self, _: Request<ModelReadyRequest>) -> Reply<ModelReadyResponse> {
        panic!("a foreign server is asked for metadata and inferences, nothing else");
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Reply<ServerMetadataResponse> {
        panic!("a foreign server is asked for metadata and inferences, nothing else");
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Reply<ModelMetadataResponse> {
        let request = request.into_inner();
        if request.name != "echo" || (!self.versions && !request.version.is_empty()) {
            return Err(Status::not_found(format!("no model {}", request.name)));
        }
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DataType::Int32,
            shape: vec![-1, self.width],
        };
        Ok(Response::new(ModelMetadataResponse {
            name: "echo".into(),
            inputs: vec![open_inference::metadata(&spec("x"))],
            outputs: vec![open_inference::metadata(&spec("y"))],
            ..Default::default()
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Reply<ModelInferResponse> {
        let timeout =
            request.metadata().get("grpc-timeout").map(|t| t.to_str().unwrap().to_owned());
        let request = request.into_inner();
        if !self.versions && !request.model_version.is_empty() {
            return Err(Status::not_found(format!("no version {}", request.model_version)));
        }
        let parameter = request.parameters.get("timeout").and_then(|p| p.parameter_choice.clone());
        if let Some(skysail_proto::pb::inference::infer_parameter::ParameterChoice::Int64Param(
            us,
        )) = parameter
        {
            self.timeouts.lock().push((timeout.unwrap_or_default(), us));
        }
        let (tensors, contents) = open_inference::inputs(request).unwrap();
        assert_eq!(contents, Contents::Raw);
        let x = tensors.into_iter().next().unwrap();
        let real = x.data().iter().any(|byte| *byte != 0);
        let rows = x.rows().unwrap();
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let _left = Left(Arc::clone(&self.under_way));
        let _turn = self.turn.lock().await;
        if real {
            self.batches.lock().push(rows);
        }
        let sleep = *self.sleep.lock();
        tokio::time::sleep(sleep).await;
        let mut mood = self.mood.subscribe();
        mood.wait_for(|mood| *mood != Mood::Hang).await.unwrap();
        let mood = *mood.borrow();
        let mut answer = x.renamed("y");
        match mood {
            Mood::Fail => return Err(Status::internal("told to fail")),
            Mood::FailReal if real => return Err(Status::internal("told to fail")),
            Mood::Busy => return Err(Status::unavailable("the queue is full")),
            Mood::Short => answer = answer.slice_rows(0, rows - 1).unwrap(),
            Mood::WrongType => {
                answer = Tensor::new("y", DataType::Uint32, answer.shape(), answer.data().clone())
                    .unwrap();
            }
            Mood::Echo | Mood::FailReal | Mood::Hang => {}
        }
        let (outputs, raw_output_contents) = open_inference::reply(&[answer], self.contents);
        Ok(Response::new(ModelInferResponse { outputs, raw_output_contents, ..Default::default() }))
    }
}

struct Left(Arc<AtomicUsize>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn call_within(model: &Arc<ModelVersion>, rows: &[i32], within: Duration) -> ModelCall {
    let data: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
    let shape = [i64::try_from(rows.len()).unwrap(), 1];
    let tensor = Tensor::new("x", DataType::Int32, shape, data).unwrap();
    ModelCall {
        model: Arc::clone(model),
        inputs: Arc::new(Inputs::new(vec![tensor]).unwrap()),
        outputs: ["y".into()].into(),
        identity: [0; 32],
        deadline: Instant::now() + within,
        max_age: None,
        waiters: None,
        trace: None,
    }
}

pub(crate) async fn ask(models: &Models, model: &Arc<ModelVersion>, rows: &[i32]) -> ModelResult {
    models.clone().call(call_within(model, rows, LONG)).await
}

pub(crate) fn numbers(result: ModelResult) -> Vec<i32> {
    let reply = result.unwrap();
    let data = reply.outputs[0].data();
    data.chunks_exact(4).map(|chunk| i32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

pub(crate) fn states(models: &Models) -> HashMap<String, ContainerState> {
    let all = models.containers().into_iter();
    all.map(|container| (container.address.to_string(), container.state)).collect()
}

pub(crate) fn container(models: &Models, address: &str) -> ContainerInfo {
    models.containers().into_iter().find(|c| &*c.address == address).unwrap()
}

pub(crate) async fn until(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < LONG, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
