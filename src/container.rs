//! A container process: one ONNX model behind the Open Inference Protocol, registered with front
//! ends.
//!
//! It forms no batches: the front ends do, to what they find that it can do in time. It computes
//! what it is sent, one call after the other in order of deadlines, and drops what nobody waits for
//! any more.

use std::{future::IntoFuture, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use futures::future::join_all;
use skysail_containers::{BatchStrategy, Device, ModelConfig, Models, init_onnx_runtime};
use skysail_proto::{
    ModelId,
    pb::{self, inference::grpc_inference_service_server::GrpcInferenceServiceServer, v1},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    registrar::{self, Standing},
    telemetry::{Exporter, TraceConfig, Tracer},
};

mod service;

pub use service::ModelService;

/// The largest message taken, in bytes.
const MAX_MESSAGE: usize = 64 << 20;

/// What a container process is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name and version.
    pub id: ModelId,
    /// The ONNX file.
    pub path: PathBuf,
    /// Where it computes.
    pub device: Device,
    /// Threads that share one operation.
    pub threads: usize,
    /// The most rows of one call; 0: no limit.
    pub max_batch_rows: usize,
    /// Where it listens: `host:port`, or `unix:/path`.
    pub listen: String,
    /// Under which address front ends reach it; `None`: where it listens.
    pub advertise: Option<String>,
    /// The front ends.
    pub register: Vec<String>,
    /// How front ends find the largest batch.
    pub batch: BatchStrategy,
    /// How long front ends make it wait for a fuller batch.
    pub batch_wait: Duration,
    /// The latency that a query may take as long as no application says.
    pub objective: Option<Duration>,
    /// How long it may finish what it has when it is stopped.
    pub drain: Duration,
    /// The ONNX Runtime library; `None`: look for it.
    pub onnxruntime: Option<PathBuf>,
    /// What `ORT_DYLIB_PATH` says.
    pub ort_dylib_path: Option<PathBuf>,
    /// Where traces go.
    pub traces: TraceConfig,
}

/// A running container process.
#[derive(Debug)]
pub struct ContainerProcess {
    /// Where front ends reach it.
    pub address: String,
    models: Models,
    standings: Vec<(String, watch::Receiver<Standing>)>,
    registrars: Vec<JoinHandle<()>>,
    leave: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    drain: Duration,
    socket: Option<PathBuf>,
    exporter: Option<Exporter>,
}

impl ContainerProcess {
    /// Loads the model, tries it, listens, and begins to register.
    ///
    /// # Errors
    ///
    /// Something cannot be had; the message says what and how to mend it.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        init_onnx_runtime(options.onnxruntime.as_deref(), options.ort_dylib_path.as_deref())?;
        let models = Models::new();
        let mut config = ModelConfig::new(options.id.clone(), &options.path);
        (config.device, config.threads) = (options.device, options.threads);
        (config.batch, config.max_batch_rows) = (BatchStrategy::None, options.max_batch_rows);
        // Deadlines come with the calls; whether they can be met is for the front ends to say.
        config.objective = Some(Duration::from_secs(3600));
        let model = models.load(config).await?;
        tracing::info!(model = %model.id, signature = %model.signature, "loaded");

        let (stop, stopping) = watch::channel(false);
        let (tracer, exporter) = Tracer::start(&options.traces, "skysail-container")?;
        let service = ModelService::new(models.clone(), model.clone(), tracer);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .build_v1()?;
        let router = tonic::transport::Server::builder()
            // Batches are large and few.
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20)
            .add_service(
                GrpcInferenceServiceServer::new(service)
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .add_service(health_service)
            .add_service(reflection);
        let (listening, server, socket) = match options.listen.strip_prefix("unix:") {
            Some(path) => {
                let listener = listen_unix(path)?;
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                let serve = router.serve_with_incoming_shutdown(incoming, until(stopping));
                (options.listen.clone(), tokio::spawn(serve), Some(path.into()))
            }
            None => {
                let listener = listen_tcp(&options.listen).await?;
                let address = listener.local_addr()?;
                let incoming = tonic::transport::server::TcpIncoming::from(listener);
                let incoming = incoming.with_nodelay(Some(true));
                let serve = router.serve_with_incoming_shutdown(incoming, until(stopping));
                (address.to_string(), tokio::spawn(serve.into_future()), None)
            }
        };
        let address = match options.advertise {
            Some(address) => address,
            None => reachable(&listening, options.register.first()).await?,
        };
        let specs = |specs: &[skysail_proto::TensorSpec]| {
            specs.iter().cloned().map(Into::into).collect::<Vec<v1::TensorSpec>>()
        };
        let request = v1::RegisterRequest {
            model: options.id.name.as_ref().to_owned(),
            version: options.id.version.as_ref().to_owned(),
            address: address.clone(),
            max_batch_rows: u32::try_from(options.max_batch_rows).unwrap_or(u32::MAX),
            device: options.device.to_string(),
            inputs: specs(&model.signature.inputs),
            outputs: specs(&model.signature.outputs),
            digest: model.digest.as_ref().to_owned(),
            objective: options.objective.and_then(|objective| objective.try_into().ok()),
            batch: options.batch.to_string(),
            batch_wait: options.batch_wait.try_into().ok(),
            ..Default::default()
        };
        let (leave, leaving) = watch::channel(false);
        let (mut standings, mut registrars) = (Vec::new(), Vec::new());
        for front_end in options.register {
            let (standing, seen) = watch::channel(Standing::Trying);
            let (request, leaving) = (request.clone(), leaving.clone());
            standings.push((front_end.clone(), seen));
            let registrar = registrar::run(front_end, request, options.drain, standing, leaving);
            registrars.push(tokio::spawn(registrar));
        }
        let drain = options.drain;
        Ok(Self {
            address,
            models,
            standings,
            registrars,
            leave,
            stop,
            server,
            drain,
            socket,
            exporter,
        })
    }

    /// Waits until the first front end has taken it. Without any front end: at once.
    ///
    /// # Errors
    ///
    /// Every front end has refused; the message says why.
    pub async fn registered(&mut self) -> anyhow::Result<()> {
        loop {
            let now: Vec<_> =
                self.standings.iter().map(|(of, seen)| (of, seen.borrow().clone())).collect();
            if now.is_empty() || now.iter().any(|(_, s)| matches!(s, Standing::Registered(_))) {
                return Ok(());
            }
            let refusals = now.iter().filter_map(|(front_end, standing)| match standing {
                Standing::Refused(why) => Some(format!("{front_end}: {why}")),
                _ => None,
            });
            let refusals: Vec<_> = refusals.collect();
            if refusals.len() == now.len() {
                bail!("no front end takes this container: {}", refusals.join("; "));
            }
            let changes = self.standings.iter_mut().map(|(_, seen)| Box::pin(seen.changed()));
            let _ = futures::future::select_all(changes).await;
        }
    }

    /// Deregisters, so that nothing more is sent; finishes what it has; ends.
    ///
    /// # Errors
    ///
    /// The listener failed, or what it had took longer than the drain time.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.leave.send_replace(true);
        join_all(self.registrars).await;
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(self.drain, self.server).await;
        self.models.shutdown().await;
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        if let Some(socket) = self.socket {
            let _ = std::fs::remove_file(socket);
        }
        let ended = drained.with_context(|| {
            format!("what it had was not finished within the drain time of {:?}", self.drain)
        })?;
        Ok(ended??)
    }
}

async fn until(mut stopping: watch::Receiver<bool>) {
    // An error means that the process is gone, which is a stop, too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn listen_tcp(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; give another address with --listen (port 0 picks a free \
             one)"
        )
    })
}

fn listen_unix(path: &str) -> anyhow::Result<tokio::net::UnixListener> {
    // What a killed process left behind; one that is served must not be taken away.
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
    tokio::net::UnixListener::bind(path)
        .with_context(|| format!("cannot listen on unix:{path}; give another --listen"))
}

/// The address by which a front end reaches a listener: its own, or, where it listens on all, that
/// of the way to the front end.
async fn reachable(listening: &str, front_end: Option<&String>) -> anyhow::Result<String> {
    let Ok(address) = listening.parse::<SocketAddr>() else { return Ok(listening.into()) };
    if !address.ip().is_unspecified() {
        return Ok(listening.into());
    }
    let Some(front_end) = front_end else { return Ok(listening.into()) };
    let local = async {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = tokio::net::UdpSocket::bind(any).await?;
        // Sends nothing; it only chooses the way.
        socket.connect(front_end).await?;
        socket.local_addr()
    };
    let local = local.await.with_context(|| {
        format!("cannot tell by which address {front_end} reaches this; give it with --advertise")
    })?;
    Ok(SocketAddr::new(local.ip(), address.port()).to_string())
}
