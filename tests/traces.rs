//! Traces as a collector gets them: from the front end and from a container in its own process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "traces/collector.rs"]
mod collector;
mod common;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use collector::{Collector, Span};
use common::{Container, ROOT, Server, label, query};
use futures::StreamExt as _;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use skysail_proto::pb::v1;
use tonic::Request;

const FAR: &str = r#"
[[application]]
name = "far"
objective = "2s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{ model = "c" }]
"#;

const CALLER: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

async fn front_end(collector: &Collector, ratio: f64, folder: &Path) -> Server {
    front_end_of(&collector.url(), ratio, folder).await
}

async fn front_end_of(url: &str, ratio: f64, folder: &Path) -> Server {
    let folder = folder.join("server");
    std::fs::create_dir_all(&folder).unwrap();
    let traces = format!("[telemetry]\notlp_endpoint = \"{url}\"\ntrace_ratio = {ratio:?}\n");
    Server::start(&format!("{traces}{ROOT}{FAR}"), &folder).await
}

fn called_by<T>(request: T, flags: &str) -> Request<T> {
    let mut request = Request::new(request);
    let traceparent = format!("00-{}-{}-{flags}", CALLER.0, CALLER.1);
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'a>(spans: &'a [Span], name: &str, parent: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name && span.parent == parent);
    let span = found.next().unwrap_or_else(|| panic!("no {name} under {parent}: {spans:#?}"));
    assert!(found.next().is_none(), "more than one {name} under {parent}");
    span
}

/// Every part lies within what it is a part of. Between processes, whose clocks are read apart, a
/// few milliseconds are allowed.
fn nested(spans: &[Span]) {
    for span in spans {
        assert!(span.start <= span.end, "{span:?}");
        let Some(outer) = spans.iter().find(|outer| outer.id == span.parent) else { continue };
        let allowed = if outer.service == span.service { 0 } else { 10_000_000 };
        assert!(outer.start <= span.start + allowed, "{span:?} begins before {outer:?}");
        assert!(span.end <= outer.end + allowed, "{span:?} ends after {outer:?}");
        assert_eq!(outer.trace, span.trace);
    }
}

#[tokio::test]
async fn a_query_is_followed_through_its_arms() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = front_end(&collector, 1.0, folder.path()).await;
    let request = called_by(query("app", "r", &[[1.0, 2.0]]), "01");
    let first = server.prediction().predict(request).await.unwrap().into_inner();
    server.prediction().predict(query("app", "r", &[[1.0, 2.0]])).await.unwrap();
    server.feedback().observe(label("app", &first.decision_id, &[1])).await.unwrap();
    let mut wrong = query("app", "r", &[[1.0, 2.0]]);
    wrong.inputs.clear();
    assert!(server.prediction().predict(wrong).await.is_err());
    assert!(server.stop().await, "what waits is sent before it ends");
    let spans = collector.all();
    nested(&spans);
    let ids: BTreeSet<_> = spans.iter().map(|span| (&span.trace, &span.id)).collect();
    assert_eq!(ids.len(), spans.len(), "an id was given twice");
    assert!(spans.iter().all(|span| span.service == "skysail"));

    let root = one(&spans, "skysail.predict", CALLER.1);
    assert_eq!((root.trace.as_str(), root.kind), (CALLER.0, SpanKind::Server));
    assert_eq!(root.attributes["skysail.application"], "app");
    assert_eq!(root.attributes["skysail.protocol"], "grpc");
    assert_eq!(root.attributes["skysail.decision_id"], first.decision_id);
    assert_eq!(root.attributes["skysail.status"], "ANSWERED");
    let (select, combine) = (one(&spans, "select", &root.id), one(&spans, "combine", &root.id));
    for (arm, contribution) in ["arm a:1", "arm b:1"].iter().zip(&first.contributions) {
        let arm = one(&spans, arm, &root.id);
        assert_eq!(arm.attributes["skysail.cached"], "false");
        assert!(select.end <= arm.start && arm.end <= combine.start);
        assert_eq!(one(&spans, "cache", &arm.id).attributes["skysail.hit"], "false");
        let (queue, compute) = (one(&spans, "queue", &arm.id), one(&spans, "compute", &arm.id));
        assert_eq!(queue.end, compute.start);
        assert!((compute.end - compute.start).abs_diff(contribution.compute_us * 1_000) < 1_000);
        let batch = one(&spans, "batch", &arm.id);
        assert_eq!(batch.kind, SpanKind::Client);
        assert_eq!(batch.attributes["skysail.rows"], "1");
        assert!(batch.links.is_empty());
    }

    // The second draws an id of its own, and is answered by the cache.
    let roots = named(&spans, "skysail.predict");
    assert_eq!(roots.len(), 3);
    let again = roots.iter().find(|span| span.trace != CALLER.0 && span.failed.is_empty()).unwrap();
    assert!(again.parent.is_empty());
    let arm = one(&spans, "arm a:1", &again.id);
    assert_eq!(arm.attributes["skysail.cached"], "true");
    assert_eq!(one(&spans, "cache", &arm.id).attributes["skysail.hit"], "true");
    assert!(!spans.iter().any(|span| span.name == "compute" && span.parent == arm.id));
    let refused = roots.iter().find(|span| !span.failed.is_empty()).unwrap();
    assert!(refused.failed.contains("missing input"), "{}", refused.failed);
    assert_eq!(refused.attributes["skysail.status"], "INVALID_ARGUMENT");

    let observe = one(&spans, "skysail.observe", "");
    assert_eq!(observe.attributes["skysail.outcome"], "APPLIED");
    assert_eq!(observe.attributes["skysail.decision_id"], first.decision_id);
    assert!(one(&spans, "join", &observe.id).end <= one(&spans, "commit", &observe.id).start);
}

#[tokio::test]
async fn a_container_in_another_process_goes_on_with_the_trace() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = front_end(&collector, 1.0, folder.path()).await;
    let more = ["--otlp-endpoint", &collector.url()];
    let container = Container::with("c", "1", &[&server.grpc], &more).await;
    server.prediction().predict(query("far", "r", &[[1.0, 2.0]])).await.unwrap();
    let has_both = |spans: &[Span]| {
        ["skysail.container", "skysail.predict"].iter().all(|name| !named(spans, name).is_empty())
    };
    let spans = collector.until("both processes tell", has_both).await;
    nested(&spans);
    let root = one(&spans, "skysail.predict", "");
    let batch = one(&spans, "batch", &one(&spans, "arm c:1", &root.id).id);
    // Probes are not sampled, and the container samples nothing of its own.
    assert_eq!(named(&spans, "skysail.container").len(), 1);
    let inside = one(&spans, "skysail.container", &batch.id);
    assert_eq!((&inside.service[..], inside.kind), ("skysail-container", SpanKind::Server));
    assert_eq!(inside.trace, root.trace);
    assert_eq!(inside.attributes["skysail.model"], "c:1");
    let compute = one(&spans, "compute", &inside.id);
    assert!(one(&spans, "queue", &inside.id).end <= compute.start);

    // Several queries in one batch: one is its parent, the others are linked.
    container.signal(Signal::STOP);
    let mut client = server.prediction();
    let requests = (0..12).map(|n| query("far", &n.to_string(), &[[3.0, n as f32]]));
    let requests: Vec<v1::PredictRequest> = requests.collect();
    let stream = client.predict_stream(futures::stream::iter(requests)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    container.signal(Signal::CONT);
    let answers: Vec<_> = stream.into_inner().collect().await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().error.is_none()));
    let all = |spans: &[Span]| named(spans, "skysail.predict").len() == 13;
    let spans = collector.until("the stream's spans", all).await;
    let linked = |spans: &[Span]| spans.iter().any(|span| !span.links.is_empty());
    assert!(linked(&spans), "no batch of several: {:#?}", named(&spans, "batch"));
    let arms: BTreeSet<_> = named(&spans, "arm c:1")
        .into_iter()
        .map(|span| (span.trace.clone(), span.id.clone()))
        .collect();
    let mut followed = 0;
    for batch in named(&spans, "batch") {
        followed += 1 + batch.links.len();
        assert!(arms.contains(&(batch.trace.clone(), batch.parent.clone())));
        assert!(batch.links.iter().all(|link| arms.contains(link) && link.0 != batch.trace));
        let queries: usize = batch.attributes["skysail.queries"].parse().unwrap();
        assert_eq!(queries, 1 + batch.links.len());
    }
    assert_eq!(followed, 13, "each query is in one batch");
    assert!(container.stop().await && server.stop().await);
}

#[tokio::test]
async fn the_caller_decides_and_else_the_ratio() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = front_end(&collector, 0.0, folder.path()).await;
    let mut client = server.prediction();
    for number in 0..50 {
        client.predict(query("app", "none", &[[number as f32, 0.0]])).await.unwrap();
        let not = called_by(query("app", "none", &[[number as f32, 1.0]]), "00");
        client.predict(not).await.unwrap();
    }
    client.predict(called_by(query("app", "one", &[[1.0, 2.0]]), "01")).await.unwrap();
    // A stream's caller does not mean each message.
    let requests = (0..50).map(|n| query("app", "m", &[[7.0, n as f32]])).collect::<Vec<_>>();
    let stream = client.predict_stream(called_by(futures::stream::iter(requests), "01")).await;
    assert_eq!(stream.unwrap().into_inner().count().await, 50);
    assert!(server.stop().await);
    let spans = collector.all();
    let roots = named(&spans, "skysail.predict");
    assert_eq!(roots.len(), 1);
    assert_eq!((roots[0].trace.as_str(), roots[0].parent.as_str()), CALLER);
}

#[tokio::test]
async fn a_share_of_queries_is_drawn() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = front_end(&collector, 0.1, folder.path()).await;
    let requests = (0..2_000).map(|_| query("app", "m", &[[7.0, 7.0]])).collect::<Vec<_>>();
    let mut client = server.prediction();
    // A stream that is not sampled: none of it is.
    let not = called_by(futures::stream::iter(requests.clone()), "00");
    let stream = client.predict_stream(not).await.unwrap();
    assert_eq!(stream.into_inner().count().await, 2_000);
    let stream = client.predict_stream(futures::stream::iter(requests)).await.unwrap();
    assert_eq!(stream.into_inner().count().await, 2_000);
    assert!(server.stop().await);
    // 200 are expected, with a standard deviation of 13.4.
    let drawn = named(&collector.all(), "skysail.predict").len();
    assert!((120..=280).contains(&drawn), "{drawn}");
}

#[tokio::test]
async fn a_collector_that_dies_and_comes_back_costs_no_query() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let server = front_end(&collector, 1.0, folder.path()).await;
    let ask = async |from: u32, to: u32| {
        for number in from..to {
            let request = query("app", "r", &[[number as f32, 5.0]]);
            let answer = server.prediction().predict(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), v1::Status::Answered, "{number}");
        }
    };
    ask(0, 20).await;
    collector.until("the first are told of", |all| !named(all, "skysail.predict").is_empty()).await;
    let (port, spans) = collector.kill();
    let mut number = 20;
    let lost = "skysail_spans_dropped_total{reason=\"export_failed\"}";
    while server.metric(lost).await == 0.0 {
        ask(number, number + 20).await;
        number += 20;
        assert!(number < 20_000, "the loss is not noticed");
    }
    spans.lock().clear();
    let collector = Collector::at(port, spans).await;
    while collector.all().is_empty() {
        ask(number, number + 20).await;
        number += 20;
        assert!(number < 40_000, "it does not come back");
    }
    assert!(server.metric("skysail_spans_exported_total").await > 0.0);
    assert!(server.stop().await);
}

/// Rotel passes on to our receiver what it has understood.
#[tokio::test]
#[ignore = "needs Rotel: cargo xtask test --all"]
async fn a_collector_that_we_did_not_write_understands_it() {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("setup/collector/rotel/rotel-agent");
    assert!(program.exists(), "no {}: run `cargo xtask setup --all`", program.display());
    let (receiver, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (grpc, http) = (free(), free());
    let _rotel = tokio::process::Command::new(program)
        .args(["start", "--exporter", "otlp", "--otlp-exporter-protocol", "grpc"])
        .args(["--otlp-exporter-endpoint", &receiver.url()])
        .args(["--otlp-grpc-endpoint", &grpc.to_string()])
        .args(["--otlp-http-endpoint", &http.to_string()])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for attempt in 0.. {
        match tokio::net::TcpStream::connect(grpc).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 500, "Rotel does not listen: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let server = front_end_of(&format!("http://{grpc}"), 1.0, folder.path()).await;
    for number in 0..20 {
        let request = called_by(query("app", "r", &[[number as f32, 2.0]]), "01");
        server.prediction().predict(request).await.unwrap();
    }
    assert!(server.stop().await);
    let all = |spans: &[Span]| named(spans, "skysail.predict").len() == 20;
    let spans = receiver.until("all that was sent comes through", all).await;
    nested(&spans);
    assert!(spans.iter().all(|span| span.trace == CALLER.0 && span.service == "skysail"));
    for name in ["select", "combine", "arm a:1", "arm b:1"] {
        assert_eq!(named(&spans, name).len(), 20, "{name}");
    }
}
