//! What people reach a server by: health, reflection, metrics, and the command line.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::process::Output;

use common::{ROOT, Server, label, query};
use tokio::process::Command;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const SERVICES: [&str; 5] = [
    "skysail.v1.Prediction",
    "skysail.v1.Feedback",
    "skysail.v1.Admin",
    "skysail.v1.Registry",
    "inference.GRPCInferenceService",
];

#[tokio::test]
async fn health_and_reflection_tell_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut health = HealthClient::new(server.channel.clone());
    for service in [""].into_iter().chain(SERVICES) {
        let check = HealthCheckRequest { service: service.into() };
        let status = health.check(check).await.unwrap().into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(server.channel.clone());
    let answers =
        reflection.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES {
        assert!(names.iter().any(|name| name == service), "{service}: {names:?}");
    }
}

#[tokio::test]
async fn every_reply_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let mut id = String::new();
    for _ in 0..3 {
        let answer = server.prediction().predict(query("app", "", &[[1.0, 2.0]])).await.unwrap();
        id = answer.into_inner().decision_id;
    }
    let _ = server.prediction().predict(query("nobody", "", &[[1.0, 2.0]])).await.unwrap_err();
    let stream = futures::stream::iter((0..5).map(|i| query("app", "", &[[1.0, i as f32]])));
    let mut answers = server.prediction().predict_stream(stream).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    server.feedback().observe(label("app", &id, &[1])).await.unwrap();
    for (line, expected) in [
        (r#"skysail_requests_total{application="app",status="ANSWERED",protocol="grpc"}"#, 3.0),
        (
            r#"skysail_requests_total{application="app",status="ANSWERED",protocol="grpc_stream"}"#,
            5.0,
        ),
        (
            r#"skysail_requests_total{application="unknown",status="NOT_FOUND",protocol="grpc"}"#,
            1.0,
        ),
        (r#"skysail_feedback_total{application="app",outcome="APPLIED"}"#, 1.0),
        (r#"skysail_goodput_total{application="app"}"#, 8.0),
        // Two arms; the third and the second of the same query were known, and so was [1, 2].
        (r#"skysail_cache_hits_total{tier="embedded"}"#, 6.0),
        (r#"skysail_cache_misses_total{tier="embedded"}"#, 10.0),
        (r#"skysail_batch_rows_sum{model="a",version="1",replica="0"}"#, 5.0),
        (r#"skysail_live_replicas{model="a",version="1"}"#, 1.0),
    ] {
        assert_eq!(server.metric(line).await, expected, "{line}");
    }
}

async fn skysail(server: &Server, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skysail"));
    command.args(args).args(["--server", &server.grpc]).output().await.unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An array of FP32 as numpy saves it.
fn npy(shape: &str, values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(common::fp32(values));
    file
}

#[tokio::test]
async fn the_command_line_predicts_learns_and_shows() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT, folder.path()).await;
    let input = folder.path().join("x.npy");
    std::fs::write(&input, npy("(2, 2)", &[1.0, 2.0, 4.0, 3.0])).unwrap();
    let input = input.to_str().unwrap();

    let answer = said(&skysail(&server, &["predict", "app", "--input", input]).await);
    assert!(
        answer.contains("status ANSWERED") && answer.contains("label INT64 [2]: 1 0"),
        "{answer}"
    );
    let id = answer.lines().find_map(|line| line.strip_prefix("decision ")).unwrap();
    let feedback = ["feedback", "app", "--decision", id, "--label", "1,0"];
    assert!(said(&skysail(&server, &feedback).await).starts_with("APPLIED"));
    assert!(said(&skysail(&server, &feedback).await).starts_with("DUPLICATE"));
    let shown = said(&skysail(&server, &["app", "get", "app"]).await);
    assert!(shown.contains("policy hedge") && shown.contains("observations 2"), "{shown}");
    let listed = said(&skysail(&server, &["model", "list"]).await);
    assert!(listed.contains("a:1 (current) (x FP32 [any, 2])"), "{listed}");

    let put = folder.path().join("app.toml");
    let application =
        "[[application]]\nname = \"put\"\nobjective = \"1s\"\nlinks = [{ model = \"a\" }]\n";
    std::fs::write(&put, application).unwrap();
    said(&skysail(&server, &["app", "put", put.to_str().unwrap()]).await);
    assert!(said(&skysail(&server, &["app", "list"]).await).contains("put objective 1s"));
    said(&skysail(&server, &["app", "delete", "put"]).await);

    // Refusals are words on standard error and exit code 1; wrong usage is 2.
    let refused = skysail(&server, &["predict", "nobody", "--input", input]).await;
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("NOT_FOUND") && words.contains("'nobody'"), "{words}");
    let wrong = skysail(&server, &["feedback", "app", "--decision", id]).await;
    assert_eq!(wrong.status.code(), Some(2));
}

#[tokio::test]
async fn a_missing_library_is_said_with_the_way_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("skysail.toml");
    std::fs::write(&config, ROOT.replace("ROOT", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_skysail"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config"])
        .arg(&config)
        .args(["--onnxruntime", "nowhere/libonnxruntime.so", "--data-dir"])
        .arg(folder.path())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    for word in ["nowhere/libonnxruntime.so", "cargo xtask setup", "--onnxruntime"] {
        assert!(words.contains(word), "{words}");
    }
}
