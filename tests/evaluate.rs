//! Judging a policy by the log before it is switched on, and then switching it on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, process::Output};

use common::{Server, label, labels, query};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use skysail_proto::pb::v1;
use tokio::process::Command;

/// How often argmax(x) is the truth. The arms say argmax(x), argmax(x) in 5 of 8, and 0.
const TRUE: f64 = 0.9;
const SEED: u64 = 40;

/// Three arms of unlike worth under a policy.
fn config(policy: &str) -> String {
    let model = |name: &str, file: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\nversion = \"1\"\npath = \"ROOT/tests/models/{file}.onnx\"\n\n"
        )
    };
    let models = [("good", "root"), ("fair", "shifted"), ("poor", "first")];
    let models: String = models.into_iter().map(|(name, file)| model(name, file)).collect();
    format!(
        r#"[state]
seed = 7

{models}
[[application]]
name = "app"
objective = "5s"
task = "classification"
label_output = "label"
outputs = [{{ name = "label", datatype = "INT64", shape = [-1] }}]
links = [{{ model = "good" }}, {{ model = "fair" }}, {{ model = "poor" }}]
cache = {{ enabled = false }}
policy = {policy}
"#
    )
}

/// Asks, tells the truth of each row, and says which share of the answers was right. In rounds, so
/// that a policy that learns has something to learn from.
async fn drive(server: &Server, rounds: u32, queries: u32, seed: u64) -> f64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut right = 0_u32;
    for _ in 0..rounds {
        let rows: Vec<[f32; 2]> = (0..queries).map(|_| rng.random()).collect();
        let truths: Vec<i64> =
            rows.iter().map(|[a, b]| i64::from((b > a) == rng.random_bool(TRUE))).collect();
        let requests: Vec<_> = rows
            .iter()
            .zip(0..)
            .map(|(row, i): (_, u32)| query("app", &i.to_string(), &[*row]))
            .collect();
        let stream = futures::stream::iter(requests);
        let mut answers = server.prediction().predict_stream(stream).await.unwrap().into_inner();
        let mut feedback = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            let truth = truths[answer.request_id.parse::<usize>().unwrap()];
            right += u32::from(labels(&answer) == [truth]);
            feedback.push(label("app", &answer.decision_id, &[truth]));
        }
        assert_eq!(feedback.len(), queries as usize);
        let stream = futures::stream::iter(feedback);
        let mut told = server.feedback().observe_stream(stream).await.unwrap().into_inner();
        while let Some(told) = told.message().await.unwrap() {
            assert_eq!(told.outcome(), v1::FeedbackOutcome::Applied, "{told:?}");
        }
    }
    f64::from(right) / f64::from(rounds * queries)
}

async fn evaluate(log: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skysail"));
    command.arg("evaluate").arg("--log").arg(log).args(args);
    command.output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn within(interval: &Value, value: f64) -> bool {
    let bound = |at: usize| interval["interval"][at].as_f64().unwrap();
    bound(0) <= value && value <= bound(1)
}

/// The whole way: log under one split, judge another, switch it on, and see that it earns that.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_promises_is_earned() {
    let folder = tempfile::tempdir().unwrap();
    let logging =
        config(r#"{ name = "static", parameters = { good = 50, fair = 30, poor = 20 } }"#);
    let server = Server::start(&logging, folder.path()).await;
    let earned = drive(&server, 6, 500, SEED).await;

    // The server still runs. One in ten thousand such tests may fail by chance.
    let json = folder.path().join("report.json");
    let other = "static,good=10,fair=10,poor=80";
    let data = folder.path().join("data");
    let args = ["--policy", other, "--policy", "static,good=50,fair=30,poor=20"];
    let args = [&args[..], &["--policy", "exp3,eta=0.1", "--confidence", "0.9999"]].concat();
    let args = [&args[..], &["--json", json.to_str().unwrap()]].concat();
    let done = evaluate(&data, &args).await;
    let (said, errors) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{said}{errors}");
    assert!(said.contains("(as logged)") && said.contains("audit PASS"), "{said}");
    assert!(!said.contains("FAIL"), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((report["decisions"].as_u64(), report["rows"].as_u64()), (Some(3000), Some(3000)));
    assert!((report["logged"]["value"].as_f64().unwrap() - earned).abs() < 1e-9, "{report:#}");
    // The log's own policy has no weight but 1, and earns what was earned.
    let own = &report["policies"][1];
    assert!((own["estimates"]["IPS"]["value"].as_f64().unwrap() - earned).abs() < 1e-9);
    let promised = report["policies"].clone();
    assert!(server.stop().await);

    for (at, policy, rounds) in [
        (0, r#"{ name = "static", parameters = { good = 10, fair = 10, poor = 80 } }"#, 16),
        (2, r#"{ name = "exp3", parameters = { eta = 0.1 } }"#, 6),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&config(policy), folder.path()).await;
        let live = drive(&server, rounds, 500, SEED + 1).await;
        assert!(server.stop().await);
        let estimates = &promised[at]["estimates"];
        for by in ["IPS", "SNIPS", "DR"] {
            assert!(within(&estimates[by], live), "{by}: {live} is not in {estimates:#}");
            assert!(!within(&estimates[by], earned), "{by} tells nothing: {estimates:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_wrong_usage_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let logging = config(r#"{ name = "static", parameters = { good = 1, fair = 1, poor = 0 } }"#);
    let server = Server::start(&logging, folder.path()).await;
    drive(&server, 1, 300, SEED).await;
    let data = folder.path().join("data");
    let done =
        evaluate(&data, &["--policy", "hedge", "--policy", "static", "--policy", "static,poor=0"])
            .await;
    let (said, errors) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(1), "{said}{errors}");
    assert!(said.contains("hedge: refused: it asks several arms"), "{said}");
    assert!(said.contains("static: refused: no overlap: 33.33 %"), "{said}");
    assert!(said.contains("first of all 'poor'"), "{said}");
    assert!(errors.contains("2 of 3 policies"), "{errors}");
    for (args, code, says) in [
        (&["--policy", "best"][..], 2, "unknown policy 'best'"),
        (&["--policy", "exp3,speed=1"], 2, "has no parameter 'speed'"),
        (&[], 2, "--policy"),
        (&["--policy", "exp3", "--application", "none"], 1, "it has: app"),
    ] {
        let done = evaluate(&data, args).await;
        let errors = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {errors}");
        assert!(errors.contains(says), "{args:?}: {errors}");
    }
    assert!(server.stop().await);
}

/// A log in which every arm was asked tells what any combination earns, and what each alone does.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_all_arms_judges_combinations() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&config(r#"{ name = "hedge" }"#), folder.path()).await;
    let earned = drive(&server, 4, 250, SEED).await;
    let json = folder.path().join("report.json");
    let policies = ["--policy", "hedge", "--policy", "static,fair=0,poor=0"];
    let args = [&policies[..], &["--json", json.to_str().unwrap()]].concat();
    let done = evaluate(&folder.path().join("data"), &args).await;
    let (said, errors) = (text(&done.stdout), text(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{said}{errors}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert!((report["logged"]["value"].as_f64().unwrap() - earned).abs() < 1e-9, "{report:#}");
    let alone = &report["policies"][1];
    assert!((alone["diagnostics"]["effective_decisions"].as_f64().unwrap() - 1000.0).abs() < 1e-6);
    let value = |at: usize| report["policies"][at]["estimates"]["IPS"]["value"].as_f64().unwrap();
    assert!((value(1) - TRUE).abs() < 0.04, "{report:#}");
    // Its own replay sees each state when the log says that the feedback came, which is some
    // milliseconds from when the server took it in.
    assert!((value(0) - earned).abs() < 0.02, "{earned}: {report:#}");
    assert!(server.stop().await);
}
