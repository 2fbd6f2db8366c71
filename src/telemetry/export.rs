//! Sends spans to a collector, and never waits for one.
//!
//! It has a thread of its own: wording some hundred spans takes milliseconds, for which a query on the
//! same thread would wait.
//!
//! What waits to be sent is bounded; beyond that, spans are given up and counted. A collector that
//! is slow or gone costs spans and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
};

use super::span::{Clock, Span};

/// Spans that may wait to be sent: a few megabytes.
const WAITING: usize = 8_192;
/// Spans of one message to the collector, at most.
const MESSAGE: usize = 512;
/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How often it is looked for others.
const LOOK: Duration = Duration::from_millis(20);
/// How long the collector may take for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last ones may take when the process stops.
const LAST: Duration = Duration::from_secs(3);
/// The log says at most so often that spans are lost.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanStats {
    /// The collector took them.
    pub exported: u64,
    /// Too many waited already.
    pub full: u64,
    /// The collector refused them or did not answer.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    full: AtomicU64,
    failed: AtomicU64,
    waiting: AtomicUsize,
}

/// Where finished spans go. Cloning it shares it.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    spans: mpsc::UnboundedSender<Vec<Span>>,
    counts: Arc<Counts>,
}

impl Outlet {
    /// Takes the spans, or gives all of them up; it never waits.
    pub(super) fn send(&self, spans: Vec<Span>) {
        let count = spans.len();
        // The bound is on spans: a message holds those of one query, however many arms it asked.
        let before = self.counts.waiting.fetch_add(count, Ordering::Relaxed);
        if before + count > WAITING || self.spans.send(spans).is_err() {
            self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
            self.counts.full.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// The thread that sends. It ends, once it has sent what waits, when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    counts: Arc<Counts>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// For who asks what became of spans while the exporter runs.
#[derive(Clone, Debug)]
pub struct SpanCounter(Arc<Counts>);

impl SpanCounter {
    /// The counts as they are now.
    pub fn stats(&self) -> SpanStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { exported, full, failed, .. } = &*self.0;
        SpanStats { exported: load(exported), full: load(full), failed: load(failed) }
    }
}

impl Exporter {
    /// Tells what becomes of spans.
    pub fn counter(&self) -> SpanCounter {
        SpanCounter(Arc::clone(&self.counts))
    }

    /// Sends what waits, within three seconds, and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        // Whatever takes longer ends with the process.
        let _ = tokio::time::timeout(LAST, self.ended).await;
    }
}

/// Connects when there is something to send.
///
/// # Errors
///
/// `endpoint` is no URL, or the system gives no thread.
pub(super) fn start(endpoint: &str, service: &str) -> anyhow::Result<(Outlet, Exporter)> {
    let counts = Arc::new(Counts::default());
    let (spans, waiting) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    let (begin, begun) = std::sync::mpsc::sync_channel(1);
    let run = {
        let (endpoint, service) = (endpoint.to_owned(), service.to_owned());
        let counts = Arc::clone(&counts);
        move || {
            // Made and ended here: a runtime must not be dropped inside another one.
            let make = || -> anyhow::Result<_> {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let entered = runtime.enter();
                let sender = Sender::new(endpoint, service, counts)?;
                drop(entered);
                Ok((runtime, sender))
            };
            // Whoever is told waits for it.
            match make() {
                Err(error) => drop(begin.send(Err(error))),
                Ok((runtime, sender)) => {
                    drop(begin.send(Ok(())));
                    runtime.block_on(sender.run(waiting, stopped));
                    // Nobody waits where the exporter was dropped.
                    let _ = end.send(());
                }
            }
        }
    };
    thread::Builder::new().name("skysail-spans".into()).spawn(run).context("a thread for spans")?;
    begun.recv().context("the thread for spans has ended")??;
    Ok((Outlet { spans, counts: Arc::clone(&counts) }, Exporter { counts, stop, ended }))
}

/// Until a message is full or its first span has waited long enough; `false` once no more can come.
///
/// Whoever hands spans over wakes this only while it waits for the first: a wake-up per query that is
/// sampled would cost more than its spans do.
async fn gather(waiting: &mut Waiting, spans: &mut Vec<Span>) -> bool {
    let Some(first) = waiting.recv().await else { return false };
    spans.extend(first);
    let since = Instant::now();
    while spans.len() < MESSAGE && since.elapsed() < GATHER {
        tokio::time::sleep(LOOK).await;
        loop {
            match waiting.try_recv() {
                Ok(more) => spans.extend(more),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }
    true
}

struct Sender {
    otlp: OtlpExporter,
    endpoint: String,
    counts: Arc<Counts>,
    clock: Clock,
    /// When the log said last that spans are lost.
    said: Option<Instant>,
    /// Spans lost since.
    unsaid: usize,
}

type Waiting = mpsc::UnboundedReceiver<Vec<Span>>;

impl Sender {
    fn new(endpoint: String, service: String, counts: Arc<Counts>) -> anyhow::Result<Self> {
        let otlp = OtlpExporter::builder().with_tonic().with_endpoint(&endpoint);
        let mut otlp = otlp.with_timeout(PATIENCE).build().with_context(|| {
            format!(
                "--otlp-endpoint: expected the URL of a collector that speaks OTLP over gRPC, like \
                 http://localhost:4317, got '{endpoint}'"
            )
        })?;
        // What OTEL_RESOURCE_ATTRIBUTES says is in it, too.
        otlp.set_resource(&Resource::builder().with_service_name(service).build());
        Ok(Self { otlp, endpoint, counts, clock: Clock::new(), said: None, unsaid: 0 })
    }

    async fn run(mut self, mut waiting: Waiting, mut stopped: oneshot::Receiver<()>) {
        loop {
            let mut spans = Vec::new();
            let gathered = gather(&mut waiting, &mut spans);
            let goes_on = tokio::select! {
                goes_on = gathered => goes_on,
                _ = &mut stopped => break self.rest(spans, waiting).await,
            };
            self.send(spans).await;
            if !goes_on {
                break;
            }
        }
    }

    /// The last ones.
    async fn rest(&mut self, mut spans: Vec<Span>, mut waiting: Waiting) {
        while let Ok(more) = waiting.try_recv() {
            spans.extend(more);
        }
        self.send(spans).await;
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let mut spans = spans.into_iter();
        while spans.len() > 0 {
            self.send_some(spans.by_ref().take(MESSAGE)).await;
        }
    }

    async fn send_some(&mut self, spans: impl Iterator<Item = Span>) {
        self.clock.check();
        let batch: Vec<_> = spans.map(|span| span.export(&self.clock)).collect();
        let count = batch.len();
        // With a limit of our own: a collector that takes connections and answers nothing must not
        // hold up the spans behind.
        let sent = tokio::time::timeout(PATIENCE, self.otlp.export(batch)).await;
        self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
        let why = match sent {
            Ok(Ok(())) => {
                self.counts.exported.fetch_add(count as u64, Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        self.counts.failed.fetch_add(count as u64, Ordering::Relaxed);
        self.unsaid += count;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!(
                endpoint = self.endpoint,
                spans = self.unsaid,
                why,
                "spans are lost: the collector does not take them"
            );
            (self.said, self.unsaid) = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::trace::Step;

    use super::*;

    fn span() -> Span {
        let now = Instant::now();
        let step = Step {
            name: "select".into(),
            span: 2,
            parent: 1,
            begun: now,
            ended: now,
            attributes: Vec::new(),
            failed: None,
        };
        Span::part(1, step)
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_and_a_silent_collector_keeps_nobody() {
        // It takes connections and answers nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        let (outlet, exporter) = start(&endpoint, "test").unwrap();
        let counter = exporter.counter();
        for _ in 0..WAITING + 100 {
            outlet.send(vec![span()]);
        }
        assert_eq!(counter.stats(), SpanStats { full: 100, ..Default::default() });
        let begun = Instant::now();
        exporter.stop().await;
        assert!(begun.elapsed() < LAST * 2);
        outlet.send(vec![span()]);
        assert_eq!(counter.stats().exported, 0);
        assert_eq!(counter.stats().full, 101, "nobody sends any more");
    }

    #[tokio::test]
    async fn what_is_no_url_is_refused_with_words() {
        let error = start("no url", "test").unwrap_err().to_string();
        assert!(error.contains("http://localhost:4317") && error.contains("'no url'"), "{error}");
    }
}
