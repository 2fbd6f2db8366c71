//! A collector of traces, on the generated server of the protocol's own crate.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::span::SpanKind,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{Request, Response, Status, codec::CompressionEncoding};

/// A span as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty: it has none.
    pub(crate) parent: String,
    pub(crate) kind: SpanKind,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span of each.
    pub(crate) links: Vec<(String, String)>,
    /// The status' message; empty: it did not fail.
    pub(crate) failed: String,
}

pub(crate) type Spans = Arc<Mutex<Vec<Span>>>;

pub(crate) struct Collector {
    port: u16,
    spans: Spans,
    /// Its own, so that its connections end with it. `None`: it is dead.
    runtime: Option<Runtime>,
}

struct Service(Spans);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock();
        for of_process in request.into_inner().resource_spans {
            let resource = attributes(&of_process.resource.unwrap().attributes);
            let scopes = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(scopes.map(|span| Span {
                service: resource["service.name"].clone(),
                kind: span.kind(),
                attributes: attributes(&span.attributes),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                links: span.links.iter().map(|to| (hex(&to.trace_id), hex(&to.span_id))).collect(),
                failed: span.status.map(|status| status.message).unwrap_or_default(),
                name: span.name,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::at(0, Spans::default()).await
    }

    /// Where one was that is dead; its port may take a moment to be free.
    pub(crate) async fn at(port: u16, spans: Spans) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let listener = loop {
            let bound = runtime.spawn(TcpListener::bind(("127.0.0.1", port))).await.unwrap();
            match bound {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let port = listener.local_addr().unwrap().port();
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        let service = service.accept_compressed(CompressionEncoding::Gzip);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serve = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(serve.serve_with_incoming(incoming));
        Self { port, spans, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends at once, with its connections; tells where it was, and what it had taken.
    pub(crate) fn kill(self) -> (u16, Spans) {
        (self.port, Arc::clone(&self.spans))
    }

    pub(crate) fn all(&self) -> Vec<Span> {
        self.spans.lock().clone()
    }

    /// Waits until spans are there as they should be.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        for _ in 0..600 {
            let all = self.all();
            if reached(&all) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let names: Vec<_> = self.all().into_iter().map(|span| span.name).collect();
        panic!("waited in vain: {what}: {names:?}");
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match value.value.as_ref().unwrap() {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref().unwrap()))).collect()
}
