//! Which queries are sampled, and what is told of them.
//!
//! A query that is not sampled costs a look for its caller's `traceparent` and a draw; without a
//! collector it costs neither. Spans are made by hand, out of what the layers noted in the query's
//! [`Trace`]: no thread-local context, and nothing global.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use opentelemetry::trace::SpanKind;
use rand::RngExt as _;
use skysail_containers::BatchReport;
use skysail_proto::trace::{SpanRef, Step, TRACEPARENT, Trace, Value};

use super::{
    TraceConfig,
    export::{Exporter, Outlet},
    span::Span,
};

/// Samples, and hands over what was noted. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    outlet: Outlet,
    ratio: f64,
}

/// What the caller of a query says of its own trace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parent {
    span: Option<(SpanRef, bool)>,
    /// Of a stream: it speaks for the stream and not for each of its messages.
    of_stream: bool,
}

impl Tracer {
    /// Starts to export to the collector of `config`; without one, it is off. `service`: what it is
    /// called where the configuration does not say.
    ///
    /// # Errors
    ///
    /// The endpoint is no URL. One that nobody listens at is no error.
    pub fn start(config: &TraceConfig, service: &str) -> anyhow::Result<(Self, Option<Exporter>)> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok((Self(None), None)) };
        let service = config.service_name.as_deref().unwrap_or(service);
        let (outlet, exporter) = super::export::start(endpoint, service)?;
        let inner = Inner { outlet, ratio: config.ratio };
        Ok((Self(Some(Arc::new(inner))), Some(exporter)))
    }

    /// What the headers of a call say.
    pub fn parent(&self, headers: &HeaderMap) -> Parent {
        let span = self.0.as_ref().and_then(|_| read(headers));
        Parent { span, of_stream: false }
    }

    /// What the headers of a stream say. Who samples a stream does not mean each of a million
    /// messages: those are drawn by the ratio, and only become a part of that trace. One that is
    /// not sampled has none.
    pub fn stream_parent(&self, headers: &HeaderMap) -> Parent {
        Parent { of_stream: true, ..self.parent(headers) }
    }

    /// The trace of a query that arrived `begun`, where it is sampled.
    #[inline]
    pub fn begin(&self, parent: Parent, begun: Instant) -> Option<Box<Traced>> {
        let inner = self.0.as_ref()?;
        let sampled = match parent.span {
            Some((_, sampled)) if !sampled || !parent.of_stream => sampled,
            _ => inner.draw(),
        };
        sampled.then(|| Box::new(Traced::new(inner, parent.span.map(|(span, _)| span), begun)))
    }

    /// Goes on with a trace whose caller samples; draws none of its own.
    pub fn go_on(&self, headers: &HeaderMap, begun: Instant) -> Option<Box<Traced>> {
        let inner = self.0.as_ref()?;
        let (span, sampled) = read(headers)?;
        sampled.then(|| Box::new(Traced::new(inner, Some(span), begun)))
    }

    /// Tells of a batch in which a query is sampled.
    pub fn batch(&self, report: &BatchReport<'_>) {
        let (Some(inner), Some(trace)) = (&self.0, report.trace) else { return };
        let step = Step {
            name: "batch".into(),
            span: trace.span.span,
            parent: trace.parent.span,
            begun: trace.dispatched,
            ended: Instant::now(),
            attributes: vec![
                ("skysail.model", report.model.to_string().into()),
                ("skysail.container", report.container.to_owned().into()),
                ("skysail.queries", report.queries.into()),
                ("skysail.rows", report.rows.into()),
                ("skysail.limit", report.limit.into()),
                ("skysail.release", report.release.name().into()),
            ],
            failed: report.failed.then(|| "the container failed on it".to_owned()),
        };
        inner.outlet.send(vec![Span {
            trace: trace.span.trace,
            step,
            kind: SpanKind::Client,
            links: trace.links.clone(),
            far_parent: false,
        }]);
    }
}

impl Inner {
    fn draw(&self) -> bool {
        // Not below 0 and not above 1: neither needs a draw, and tests rely on it.
        self.ratio > 0.0 && (self.ratio >= 1.0 || rand::rng().random_bool(self.ratio))
    }
}

fn read(headers: &HeaderMap) -> Option<(SpanRef, bool)> {
    SpanRef::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// A query that is sampled. Its spans are handed over by [`end`](Self::end); one that is dropped
/// was given up by its caller.
#[derive(Debug)]
pub struct Traced {
    inner: Arc<Inner>,
    trace: Arc<Trace>,
    parent: Option<SpanRef>,
    begun: Instant,
    name: &'static str,
    attributes: Vec<(&'static str, Value)>,
    ended: bool,
}

impl Traced {
    fn new(inner: &Arc<Inner>, parent: Option<SpanRef>, begun: Instant) -> Self {
        let mut rng = rand::rng();
        let trace = parent.map_or_else(|| rng.random_range(1..=u128::MAX), |span| span.trace);
        let root = SpanRef { trace, span: rng.random_range(1..=u64::MAX) };
        Self {
            inner: Arc::clone(inner),
            trace: Arc::new(Trace::new(root)),
            parent,
            begun,
            name: "skysail.predict",
            attributes: Vec::new(),
            ended: false,
        }
    }

    /// Gives it another name than `skysail.predict`.
    pub fn rename(&mut self, name: &'static str) {
        self.name = name;
    }

    /// Where the layers note what they do.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// The trace's id, as logs and headers write it.
    pub fn id(&self) -> String {
        format!("{:032x}", self.trace.root().trace)
    }

    /// Says something of the query.
    pub fn say(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push((name, value.into()));
    }

    /// Notes a part that ended `ago` and took so long.
    pub fn stage(&self, name: &'static str, ended: Instant, took: Duration) -> Instant {
        let begun = ended.checked_sub(took).map_or(self.begun, |at| at.max(self.begun));
        self.trace.note(Step {
            name: name.into(),
            span: self.trace.next(),
            parent: self.trace.root().span,
            begun,
            ended,
            attributes: Vec::new(),
            failed: None,
        });
        begun
    }

    /// Hands the spans over. `failed`: why there was no answer.
    pub fn end(mut self, failed: Option<String>) {
        self.hand_over(failed);
    }

    fn hand_over(&mut self, failed: Option<String>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let SpanRef { trace, span } = self.trace.root();
        let root = Span {
            trace,
            step: Step {
                name: self.name.into(),
                span,
                parent: self.parent.map_or(0, |parent| parent.span),
                begun: self.begun,
                ended: Instant::now(),
                attributes: std::mem::take(&mut self.attributes),
                failed,
            },
            kind: SpanKind::Server,
            links: Vec::new(),
            far_parent: self.parent.is_some(),
        };
        let parts = self.trace.take().into_iter().map(|step| Span::part(trace, step));
        self.inner.outlet.send(std::iter::once(root).chain(parts).collect());
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.hand_over(Some("the caller has gone".to_owned()));
    }
}
