//! Starts all of it, and ends it: what was accepted is finished, what was acknowledged is kept.

use std::{
    future::IntoFuture,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use axum::serve::ListenerExt;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use skysail_cache::{CacheLayer, RedisOptions, TieredCache};
use skysail_containers::{Models, init_onnx_runtime};
use skysail_proto::pb::{
    self,
    inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    v1::{
        admin_server::AdminServer, feedback_server::FeedbackServer,
        prediction_server::PredictionServer, registry_server::RegistryServer,
    },
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{codec::CompressionEncoding, transport::Server as GrpcServer};

use crate::{
    applications::{Applications, Parts},
    config::Config,
    default_rewards,
    grpc::{
        AdminService, FeedbackService, OpenInferenceService, PredictionService, RegistryService,
        Shared,
    },
    http,
    metrics::Metrics,
    open_inference,
    page::{self, Page},
    record::DecisionLogFile,
    refresh::{self, Refreshed},
    registrations, stack,
    state::StateFile,
    stores::Stores,
    telemetry::{Exporter, Observer, RefusalLogs, Tracer},
};

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    stop: watch::Sender<bool>,
    drain: Duration,
    grpc_task: JoinHandle<Result<(), tonic::transport::Error>>,
    http_task: JoinHandle<std::io::Result<()>>,
    trim_task: JoinHandle<()>,
    defaults_task: JoinHandle<()>,
    follow_task: JoinHandle<()>,
    refresh_task: Option<JoinHandle<()>>,
    page_task: JoinHandle<()>,
    refusals: RefusalLogs,
    refusals_task: JoinHandle<()>,
    exporter: Option<Exporter>,
    health: tonic_health::server::HealthReporter,
    models: Models,
    stores: Stores,
}

impl Server {
    /// Loads models, opens what survives, and listens. Ready when it returns.
    ///
    /// # Errors
    ///
    /// Something of the configuration cannot be had; the message says what and how to mend it.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        if !config.models.is_empty() {
            let library =
                init_onnx_runtime(config.onnxruntime.as_deref(), config.ort_dylib_path.as_deref())?;
            tracing::info!(library = %library.display(), "found ONNX Runtime");
        }
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry, config.metrics);
        if config.redis_state.is_some() {
            metrics.sampled.state.register(&mut registry);
        }
        let (tracer, exporter) = Tracer::start(&config.traces, "skysail")?;
        if exporter.is_some() {
            metrics.sampled.traces.register(&mut registry);
        }
        let refusals = RefusalLogs::default();
        let instance = rand::random();
        let stores = Stores::open(&config, instance).await?;
        let state = &stores.state;
        let models = Models::with_observer(Observer::shared(metrics.clone(), tracer.clone()));
        load_models(&models, &config).await?;
        for (model, version) in state.versions()? {
            models.pin(&model, &version);
        }
        registrations::restore(&models, state).await?;
        let cache = CacheLayer::new(open_cache(&config)?);
        let parts = Parts {
            stack: stack::models(&cache, &models),
            models: models.clone(),
            stores: stores.clone(),
            metrics: metrics.clone(),
            refusals: refusals.clone(),
            seed: config.seed.unwrap_or_else(rand::random),
            instance,
        };
        let applications = Applications::open(parts, &config.applications, &config.source).await?;
        applications.warm().await;
        let log = Arc::clone(&stores.log);
        let progress = Arc::new(default_rewards::Progress::default());
        let defaults_task = tokio::spawn(default_rewards::run(
            applications.clone(),
            state.clone(),
            Arc::clone(&log),
            Arc::clone(&progress),
            stores.defaults_until(),
        ));
        let trim_task =
            tokio::spawn(trim(applications.clone(), state.clone(), Arc::clone(&log), progress));
        let refreshed = Refreshed::default();
        let refresh_task = stores.redis.as_ref().map(|redis| {
            let changes = redis.changes();
            tokio::spawn(refresh::follow(applications.clone(), changes, refreshed.clone()))
        });
        let follow_task = tokio::spawn(registrations::follow(
            models.clone(),
            state.clone(),
            applications.clone(),
        ));

        let refusals_task = tokio::spawn(refusals.clone().run());

        let (stop, stopping) = watch::channel(false);
        let shared = Shared {
            applications: applications.clone(),
            models: models.clone(),
            cache: cache.clone(),
            state: state.clone(),
            log,
            metrics: metrics.clone(),
            tracer,
            unknown: refusals.application("unknown"),
            stream_in_flight: config.stream_in_flight,
            stopping: stopping.clone(),
        };
        let page = Page::new(page::Sources {
            applications: applications.clone(),
            models: models.clone(),
            cache: cache.clone(),
            redis_state: stores.redis.clone(),
            instance,
        });
        let page_task = tokio::spawn(page.clone().run());
        let face = http::Face {
            registry: Arc::new(Mutex::new(registry)),
            metrics,
            applications,
            models: models.clone(),
            cache,
            redis_state: stores.redis.clone(),
            spans: exporter.as_ref().map(Exporter::counter),
            refreshed,
            page,
            stopping: stopping.clone(),
            rest: http::rest::Rest {
                face: open_inference::Face(shared.clone()),
                max_message_bytes: config.max_message_bytes,
            },
        };
        let (grpc, grpc_task, health) = serve_grpc(&config, shared, stopping.clone()).await?;
        let (http, http_task) = serve_http(&config, face, stopping).await?;
        Ok(Self {
            grpc,
            http,
            stop,
            drain: config.drain,
            grpc_task,
            http_task,
            trim_task,
            defaults_task,
            follow_task,
            refresh_task,
            page_task,
            refusals,
            refusals_task,
            exporter,
            health,
            models,
            stores,
        })
    }

    /// Stops: takes nothing new, finishes what it accepted, writes what it holds.
    ///
    /// # Errors
    ///
    /// A listener failed, or what was accepted took longer than the drain time.
    pub async fn stop(self) -> anyhow::Result<()> {
        for service in SERVICES {
            self.health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
        }
        let _ = self.stop.send(true);
        let drained = tokio::time::timeout(self.drain, async {
            self.grpc_task.await??;
            self.http_task.await??;
            anyhow::Ok(())
        })
        .await;
        self.page_task.abort();
        self.trim_task.abort();
        self.defaults_task.abort();
        // Before the containers go: their registrations are to survive this.
        self.follow_task.abort();
        self.models.shutdown().await;
        if let Some(task) = self.refresh_task {
            task.abort();
        }
        self.refusals_task.abort();
        self.refusals.close();
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        self.stores.close().await?;
        drained.with_context(|| {
            format!("what was accepted was not finished within the drain time of {:?}", self.drain)
        })?
    }
}

const SERVICES: [&str; 6] = [
    "",
    "skysail.v1.Prediction",
    "skysail.v1.Feedback",
    "skysail.v1.Admin",
    "skysail.v1.Registry",
    "inference.GRPCInferenceService",
];

/// Does not wait for Redis: where it is not there, predictions go on without it.
fn open_cache(config: &Config) -> anyhow::Result<TieredCache> {
    let Some(addresses) = config.redis_cache.clone() else {
        return Ok(TieredCache::embedded(config.cache_bytes));
    };
    let options = RedisOptions { addresses, ttl: config.redis_ttl, budget: config.redis_budget };
    Ok(TieredCache::with_redis(config.cache_bytes, &options)?)
}

async fn load_models(models: &Models, config: &Config) -> anyhow::Result<()> {
    for model in &config.models {
        let id = model.id.clone();
        let version = models.load(model.clone()).await?;
        tracing::info!(model = %id, signature = %version.signature, "loaded");
    }
    Ok(())
}

async fn serve_grpc(
    config: &Config,
    shared: Shared,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<(
    SocketAddr,
    JoinHandle<Result<(), tonic::transport::Error>>,
    tonic_health::server::HealthReporter,
)> {
    let listener = listen(&config.listen, "--listen").await?;
    let address = listener.local_addr()?;
    let limit = config.max_message_bytes;
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(pb::health::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let router = GrpcServer::builder()
        // Enough for a stream of images; the defaults make a sender wait for window updates.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(
            PredictionServer::new(PredictionService(shared.clone()))
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            FeedbackServer::new(FeedbackService(shared.clone())).max_decoding_message_size(limit),
        )
        .add_service(
            RegistryServer::new(RegistryService(shared.clone())).max_decoding_message_size(limit),
        )
        .add_service(
            GrpcInferenceServiceServer::new(OpenInferenceService(open_inference::Face(
                shared.clone(),
            )))
            // Answers are not compressed: whoever accepts it would get it, and wait for it.
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit),
        )
        .add_service(AdminServer::new(AdminService(shared)).max_decoding_message_size(limit))
        .add_service(health_service)
        .add_service(reflection);
    // Answers are small and somebody waits for each.
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, until_stopped(stopping)));
    Ok((address, task, health))
}

async fn serve_http(
    config: &Config,
    face: http::Face,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let listener = listen(&config.http, "--http").await?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| {
        // As for gRPC: answers are small and somebody waits for each.
        let _ = stream.set_nodelay(true);
    });
    let serve =
        axum::serve(listener, http::router(face)).with_graceful_shutdown(until_stopped(stopping));
    Ok((address, tokio::spawn(serve.into_future())))
}

async fn listen(address: &str, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}; give another address with {flag} (port 0 picks a free one)"
        )
    })
}

async fn until_stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the server is gone, which is a stop, too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Gives back what the feedback windows do not need any more. Ends when the server stops.
async fn trim(
    applications: Applications,
    state: StateFile,
    log: Arc<DecisionLogFile>,
    progress: Arc<default_rewards::Progress>,
) {
    let mut every = tokio::time::interval(Duration::from_secs(60));
    loop {
        every.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut longest = Duration::ZERO;
        for served in applications.list() {
            let window = served.feedback_window();
            let mut before = now.saturating_sub(window);
            if let Some(needed) = progress.needed_from_ms(&served.wire.name) {
                before = before.min(Duration::from_millis(needed));
            }
            longest = longest.max(now.saturating_sub(before));
            let before = u64::try_from(before.as_millis()).unwrap_or_default();
            if let Err(error) = state.trim_marks(&served.wire.name, before).await {
                tracing::warn!(application = served.wire.name, %error, "marks are not trimmed");
            }
        }
        log.set_retention(longest);
    }
}
