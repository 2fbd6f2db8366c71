//! What the server counts is what its clients saw, and what docs/metrics.md says that it counts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;
#[path = "metrics/scrape.rs"]
mod scrape;

use std::{collections::BTreeMap, time::Duration};

use common::{Container, ROOT, Server, fp32, label, query};
use redis::{RedisServer, until};
use rustix::process::Signal;
use scrape::{Scrape, documented};
use skysail_proto::pb::{
    inference::{
        ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
    v1,
};
use tonic::{Code, Status};

/// What a client saw, by application, status and protocol.
#[derive(Debug, Default)]
struct Seen {
    replies: BTreeMap<(String, String, &'static str), f64>,
    hits: f64,
    rows: f64,
    decisions: Vec<String>,
}

impl Seen {
    fn reply(
        &mut self,
        application: &str,
        protocol: &'static str,
        reply: Result<v1::PredictResponse, Status>,
    ) {
        let status = match &reply {
            Err(refused) => code(refused.code()).to_owned(),
            Ok(answer) => answer.status().as_str_name().trim_start_matches("STATUS_").to_owned(),
        };
        *self.replies.entry((application.into(), status, protocol)).or_default() += 1.0;
        let Ok(answer) = reply else { return };
        let rows = answer.confidence.len() as f64;
        for arm in &answer.contributions {
            self.hits += f64::from(arm.cached);
            self.rows += if arm.cached { 0.0 } else { rows };
        }
        if application == "app" {
            self.decisions.push(answer.decision_id);
        }
    }
}

fn code(code: Code) -> &'static str {
    match code {
        Code::NotFound => "NOT_FOUND",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Cancelled => "CANCELLED",
        other => panic!("{other:?} was not expected"),
    }
}

/// Three queries of three rows that are new, and each again.
fn good(number: u32) -> v1::PredictRequest {
    let x = (number / 2) as f32;
    query("app", &number.to_string(), &[[x, 0.0], [x, 0.25], [x, 0.5]])
}

fn nonsense() -> Vec<(&'static str, v1::PredictRequest)> {
    let mut negative = query("app", "n", &[[1.0, 1.0]]);
    negative.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let mut empty = query("app", "e", &[[1.0, 1.0]]);
    empty.inputs.clear();
    vec![
        ("unknown", query("no such one", "u", &[[1.0, 1.0]])),
        ("unknown", query("", "u", &[[1.0, 1.0]])),
        ("app", negative),
        ("app", empty),
        ("nobody", query("nobody", "d", &[[1.0, 1.0]])),
    ]
}

async fn traffic(server: &Server, seen: &mut Seen) {
    let mut client = server.prediction();
    for number in 0..6 {
        let answer = client.predict(good(number)).await.map(tonic::Response::into_inner);
        seen.reply("app", "grpc", answer);
    }
    for (application, request) in nonsense() {
        let answer = client.predict(request).await.map(tonic::Response::into_inner);
        seen.reply(application, "grpc", answer);
    }
    // The same over a stream, with new inputs; its refusals leave it open.
    let mut sent: BTreeMap<String, &str> = BTreeMap::new();
    let mut requests = Vec::new();
    for number in 100..106 {
        let request = good(number);
        sent.insert(request.request_id.clone(), "app");
        requests.push(request);
    }
    for (number, (application, mut request)) in nonsense().into_iter().enumerate() {
        request.request_id = format!("wrong {number}");
        sent.insert(request.request_id.clone(), application);
        requests.push(request);
    }
    // One after the other, so that equal queries do not share a call that is under way.
    let paced = futures::StreamExt::then(futures::stream::iter(requests), async |request| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        request
    });
    let answers = client.predict_stream(Box::pin(paced)).await.unwrap();
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        let application = sent.remove(&answer.request_id).unwrap();
        let reply = match &answer.error {
            Some(error) => Err(Status::new(Code::from_i32(error.code), error.message.clone())),
            None => Ok(answer),
        };
        seen.reply(application, "grpc_stream", reply);
    }
    assert!(sent.is_empty(), "no answer: {sent:?}");
}

/// By the door of the Open Inference Protocol, whose answers say less.
async fn by_the_open_inference_protocol(server: &Server, seen: &mut Seen) {
    let mut client = GrpcInferenceServiceClient::new(server.channel.clone());
    let infer = |shape: Vec<i64>| ModelInferRequest {
        model_name: "app".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape,
            ..Default::default()
        }],
        raw_input_contents: vec![fp32(&[77.0, 7.0])],
        ..Default::default()
    };
    client.model_infer(infer(vec![1, 2])).await.unwrap();
    // Both arms were asked something new.
    seen.rows += 2.0;
    let refused = client.model_infer(infer(vec![1, 3])).await.unwrap_err();
    for status in ["ANSWERED", code(refused.code())] {
        *seen.replies.entry(("app".into(), status.into(), "oip_grpc")).or_default() += 1.0;
    }
}

/// A container that hangs: callers who go, queries that are late or dropped.
async fn hang(server: &Server, container: &Container, seen: &mut Seen) {
    container.signal(Signal::STOP);
    let mut gone = server.prediction();
    let under_way = gone.predict(query("slow", "c", &[[9.0, 9.0]]));
    assert!(tokio::time::timeout(Duration::from_millis(200), under_way).await.is_err());
    *seen.replies.entry(("slow".into(), "CANCELLED".into(), "grpc")).or_default() += 1.0;
    let late = (0..6).map(|number| {
        let mut request = query("slow", "l", &[[9.0, number as f32]]);
        request.timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
        let mut client = server.prediction();
        async move { client.predict(request).await.map(tonic::Response::into_inner) }
    });
    for answer in futures::future::join_all(late).await {
        assert!(answer.is_err());
        seen.reply("slow", "grpc", answer);
    }
    container.signal(Signal::CONT);
}

async fn feedback(server: &Server, decisions: &[String]) -> BTreeMap<String, f64> {
    let mut seen: BTreeMap<String, f64> = BTreeMap::new();
    let mut client = server.feedback();
    for (id, labels) in [
        (decisions[0].as_str(), &[1, 1, 1][..]),
        (decisions[1].as_str(), &[0, 0, 1]),
        (decisions[0].as_str(), &[1, 1, 1]),
        ("no decision", &[1]),
        (decisions[2].as_str(), &[1]),
    ] {
        let outcome = match client.observe(label("app", id, labels)).await {
            Ok(told) => told.into_inner().outcome().as_str_name().to_owned(),
            Err(_) => "FEEDBACK_OUTCOME_REFUSED".into(),
        };
        let outcome = outcome.trim_start_matches("FEEDBACK_OUTCOME_").to_owned();
        *seen.entry(outcome).or_default() += 1.0;
    }
    assert!(client.observe(label("no such one", "d", &[1])).await.is_err());
    seen
}

fn configured(redis: &RedisServer) -> String {
    let url = redis.url();
    // Nobody listens at port 9; spans are counted all the same.
    format!(
        r#"
[cache]
redis = "{url}"

[state]
redis = "{url}"

[telemetry]
otlp_endpoint = "http://127.0.0.1:9"
trace_ratio = 1.0

[[application]]
name = "slow"
objective = "2s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{{ model = "slow" }}]

[[application]]
name = "nobody"
objective = "2s"
label_output = "label"
inputs = [{{ name = "x", datatype = "FP32", shape = [-1, 2] }}]
outputs = [{{ name = "label", datatype = "INT64", shape = [-1] }}]
links = [{{ model = "never registered" }}]
{ROOT}"#
    )
}

#[tokio::test]
async fn sums_are_those_that_clients_saw_and_every_name_is_documented() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let server = Server::start(&configured(&redis), folder.path()).await;
    let container = Container::start("slow", "1", &[&server.grpc]).await;
    let mut seen = Seen::default();
    let warm = server.prediction().predict(query("slow", "w", &[[1.0, 1.0]])).await;
    seen.reply("slow", "grpc", warm.map(tonic::Response::into_inner));
    traffic(&server, &mut seen).await;
    by_the_open_inference_protocol(&server, &mut seen).await;
    let outcomes = feedback(&server, &seen.decisions).await;
    hang(&server, &container, &mut seen).await;
    until("all have a reply", async || {
        server.metric("skysail_in_flight_queries").await == 0.0
            && server.metric("skysail_requests_total{application=\"slow\",status=\"CANC").await
                >= 1.0
    })
    .await;

    for open_metrics in [false, true] {
        let scrape = Scrape::of(&server, open_metrics).await;
        reconcile(&scrape, &seen, &outcomes);
        compare(&scrape);
        dashboard::check(&scrape);
    }
    assert!(container.stop().await);
    assert!(server.stop().await);
}

fn reconcile(scrape: &Scrape, seen: &Seen, outcomes: &BTreeMap<String, f64>) {
    let mut counted = BTreeMap::new();
    for ((application, status, protocol), count) in &seen.replies {
        let with = [("application", application.as_str()), ("protocol", *protocol)];
        let by_status = scrape.by("skysail_requests_total", "status", &with);
        assert_eq!(by_status.get(status), Some(count), "{application} {status} {protocol}");
        counted.insert((application.clone(), status.clone(), *protocol), *count);
    }
    let all: f64 = seen.replies.values().sum();
    assert_eq!(scrape.sum("skysail_requests_total", &[]), all, "{:?}", seen.replies);

    let answered = |application: &str| -> f64 {
        let of = |(name, status, _): &(String, String, &str)| {
            name == application && ["ANSWERED", "PARTIAL", "DEFAULT"].contains(&status.as_str())
        };
        seen.replies.iter().filter(|(key, _)| of(key)).map(|(_, count)| count).sum()
    };
    for application in ["app", "slow"] {
        let with = [("application", application)];
        let replies = scrape.sum("skysail_requests_total", &with);
        let count = scrape.sum("skysail_request_latency_seconds_count", &with);
        assert_eq!(count, answered(application), "{application}");
        assert_eq!(scrape.sum("skysail_goodput_total", &with), count);
        assert_eq!(scrape.sum("skysail_refusals_total", &with), replies - count);
        assert_eq!(scrape.sum("skysail_objective_seconds", &with), 2.0);
        assert!((scrape.sum("skysail_selection_weight", &with) - 1.0).abs() < 1e-9);
    }
    let reasons = scrape.by("skysail_refusals_total", "reason", &[("application", "unknown")]);
    assert_eq!(reasons, [("unknown_application".to_owned(), 4.0)].into());
    let reasons = scrape.by("skysail_refusals_total", "reason", &[("application", "app")]);
    assert_eq!(reasons, [("invalid_argument".to_owned(), 5.0)].into());

    let shown = scrape.by("skysail_feedback_total", "outcome", &[("application", "app")]);
    assert_eq!(&shown, outcomes);
    assert_eq!(outcomes["APPLIED"], 2.0);
    let unknown = scrape.by("skysail_feedback_total", "outcome", &[("application", "unknown")]);
    assert_eq!(unknown, [("REFUSED".to_owned(), 1.0)].into());
    // Both arms are one build, so they are wrong about the same rows; some of the labels are wrong.
    let losses = scrape.by("skysail_arm_mean_loss", "arm", &[("application", "app")]);
    assert!(losses.len() == 2 && losses.values().all(|loss| 0.0 < *loss && *loss <= 1.0));

    assert_eq!(scrape.sum("skysail_cache_hits_total", &[("tier", "embedded")]), seen.hits);
    assert!(seen.hits >= 12.0);
    let rows = |model| scrape.sum("skysail_batch_rows_sum", &[("model", model)]);
    // What the hung container computed after all is in no answer.
    let answered = rows("a") + rows("b") + 1.0;
    assert_eq!(answered, seen.rows, "{:?}", scrape.0["skysail_batch_rows"]);
    let batches = scrape.sum("skysail_batch_rows_count", &[]);
    assert_eq!(scrape.sum("skysail_batch_releases_total", &[]), batches);
    for stage in ["queue", "compute"] {
        let with = [("stage", stage)];
        assert_eq!(scrape.sum("skysail_stage_latency_seconds_count", &with), batches, "{stage}");
    }
    assert!(scrape.sum("skysail_drops_total", &[("model", "slow")]) >= 1.0);
    assert!(scrape.sum("process_resident_memory_bytes", &[]) > 1e6);
}

/// Every name of docs/metrics.md is shown, as it says, and no other is.
fn compare(scrape: &Scrape) {
    let documented = documented();
    let shown: Vec<_> = scrape.0.keys().collect();
    assert_eq!(shown, documented.keys().collect::<Vec<_>>());
    for (name, family) in &scrape.0 {
        let documented = &documented[name];
        assert_eq!(family.kind, documented.kind, "{name}");
        assert!(!family.help.is_empty(), "{name}");
        assert!(!family.samples.is_empty(), "{name} has no value");
        assert_eq!(Scrape::labels(family), documented.labels, "{name}");
    }
}

#[tokio::test]
async fn a_deleted_application_is_shown_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let application = v1::Application {
        name: "short-lived".into(),
        objective: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        label_output: "label".into(),
        scores_output: "scores".into(),
        links: vec![v1::Link { model: "a".into(), ..Default::default() }],
        ..Default::default()
    };
    let put = v1::PutApplicationRequest { application: Some(application) };
    server.admin().put_application(put).await.unwrap();
    server.prediction().predict(query("short-lived", "r", &[[1.0, 2.0]])).await.unwrap();
    let mut wrong = query("short-lived", "r", &[[1.0, 2.0]]);
    wrong.inputs.clear();
    assert!(server.prediction().predict(wrong).await.is_err());
    let shown = async || server.get("/metrics").await.matches("short-lived").count();
    assert!(shown().await > 10);
    let delete = v1::DeleteApplicationRequest { name: "short-lived".into() };
    server.admin().delete_application(delete).await.unwrap();
    assert_eq!(shown().await, 0);
    assert!(server.stop().await);
}

#[tokio::test]
async fn metrics_can_be_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[telemetry]\nmetrics = false\n{ROOT}");
    let server = Server::start(&config, folder.path()).await;
    server.prediction().predict(query("app", "r", &[[1.0, 2.0]])).await.unwrap();
    let answer = server.get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("metrics = false"), "{answer}");
    assert!(server.stop().await);
}
