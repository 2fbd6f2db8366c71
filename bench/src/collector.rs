//! A collector of traces that counts spans and keeps none, so that a server under measurement
//! exports them in earnest.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// Listens in this process, on a thread of its own, until the process ends.
#[derive(Debug)]
pub struct Collector {
    /// `http://host:port`, an OTLP endpoint over gRPC.
    pub url: String,
    spans: Arc<AtomicU64>,
}

struct Counter(Arc<AtomicU64>);

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// # Errors
    ///
    /// The system gives no port or thread.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the collector")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let spans = Arc::<AtomicU64>::default();
        let service = TraceServiceServer::new(Counter(spans.clone()));
        let listener = {
            let _entered = runtime.enter();
            TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?)
        };
        thread::Builder::new().name("collector".into()).spawn(move || {
            let served = Server::builder().add_service(service).serve_with_incoming(listener);
            // If it ends, spans are missing from the result, which says how many came.
            drop(runtime.block_on(served));
        })?;
        Ok(Self { url, spans })
    }

    /// Spans that have arrived.
    pub fn spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }
}
