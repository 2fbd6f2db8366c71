//! The log of a real process: as JSON, and a few lines for many refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{ROOT, Server, query};
use serde_json::Value;

async fn refuse(server: &Server, application: &str, times: u32) {
    let mut client = server.prediction();
    for number in 0..times {
        let mut wrong = query(application, &format!("{application} {number}"), &[[1.0, 2.0]]);
        wrong.inputs.clear();
        assert!(client.predict(wrong).await.is_err());
    }
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(line).collect()
}

#[tokio::test]
async fn a_thousand_refusals_are_a_few_lines_that_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let config = format!("[telemetry]\nlog_format = \"json\"\n{ROOT}");
    let server = Server::logging(&config, folder.path(), &log).await;
    refuse(&server, "app", 600).await;
    refuse(&server, "no such one", 400).await;
    assert!(server.stop().await);

    let lines = lines(&log);
    let of = |application: &str, reason: &str| -> Vec<&Value> {
        let fits = |line: &&Value| line["application"] == application && line["reason"] == reason;
        lines.iter().filter(fits).collect()
    };
    for (application, reason, count) in
        [("app", "invalid_argument", 600), ("unknown", "unknown_application", 400)]
    {
        let told = of(application, reason);
        assert!((2..=8).contains(&told.len()), "{told:#?}");
        let mut sum = 0;
        for line in &told {
            let itself = u64::from(line["message"] == "refused");
            sum += itself + line["suppressed"].as_u64().unwrap();
        }
        assert_eq!(sum, count, "{told:#?}");
        let first = told[0];
        assert_eq!((first["level"].as_str(), &first["message"]), (Some("WARN"), &"refused".into()));
        assert_eq!(first["suppressed"], 0);
        assert!(first["timestamp"].is_string());
    }
    let first = of("app", "invalid_argument")[0];
    assert_eq!(first["request_id"], "app 0");
    assert_eq!(first["code"], "INVALID_ARGUMENT");
    assert!(first["error"].as_str().unwrap().contains("missing input"), "{first}");
}

#[tokio::test]
async fn a_sampled_query_is_named_by_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // Nobody listens there.
    let telemetry = "otlp_endpoint = \"http://127.0.0.1:9\"\nlog_format = \"json\"";
    let config = format!("[telemetry]\n{telemetry}\ntrace_ratio = 1.0\n{ROOT}");
    let server = Server::logging(&config, folder.path(), &log).await;
    refuse(&server, "app", 1).await;
    assert!(server.stop().await, "an unreachable collector keeps nobody");
    let lines = lines(&log);
    let refused = lines.iter().find(|line| line["message"] == "refused").unwrap();
    let trace = refused["trace_id"].as_str().unwrap();
    assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");
    let lost =
        lines.iter().filter(|line| line["message"].as_str().unwrap().contains("spans are lost"));
    assert!(lost.count() <= 1);
}

#[tokio::test]
async fn without_a_format_it_is_text() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let server = Server::logging(ROOT, folder.path(), &log).await;
    refuse(&server, "app", 1).await;
    assert!(server.stop().await);
    let text = std::fs::read_to_string(&log).unwrap();
    let line = text.lines().find(|line| line.contains("refused")).unwrap();
    assert!(line.contains("application=\"app\"") && !line.starts_with('{'), "{line}");
}
