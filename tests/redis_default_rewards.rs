//! Default rewards with state in Redis: each decision without feedback gets one, whichever front end
//! made it and got the feedback for others, and whoever is killed meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;

use std::{path::Path, time::Duration};

use common::{ROOT, Server, label, query};
use redis::{RedisServer, until};
use skysail_proto::pb::v1::{self, FeedbackOutcome, observe_request};

/// What no feedback is worth: a loss of 0.75.
const QUIET: &str = r#"
[[application]]
name = "quiet"
objective = "60s"
task = "classification"
label_output = "label"
policy = { name = "exp3" }
feedback_window = "5s"
default_reward = 0.25
links = [{ model = "a" }, { model = "b" }]
"#;

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn front_end(redis: &str, folder: &Path) -> Server {
    std::fs::create_dir_all(folder).unwrap();
    Server::start(&format!("[state]\nredis = \"{redis}\"\n{ROOT}{QUIET}"), folder).await
}

/// So many decisions.
async fn ask(server: &Server, decisions: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for i in 0..decisions {
        let request = query("quiet", "", &[[i as f32, 1.0]]);
        ids.push(server.prediction().predict(request).await.unwrap().into_inner().decision_id);
    }
    ids
}

async fn reward(server: &Server, decision: &str) -> FeedbackOutcome {
    let request = v1::ObserveRequest {
        value: Some(observe_request::Value::Reward(1.0)),
        ..label("quiet", decision, &[0])
    };
    server.feedback().observe(request).await.unwrap().into_inner().outcome()
}

/// How many rows the state has learned from, and the sum of their losses.
async fn learned(server: &Server) -> (u64, f64) {
    let request =
        v1::GetSelectionRequest { application: "quiet".into(), context_id: String::new() };
    let arms = server.admin().get_selection(request).await.unwrap().into_inner().arms;
    let rows = arms.iter().map(|arm| arm.observations).sum();
    (rows, arms.iter().map(|arm| arm.mean_loss * arm.observations as f64).sum())
}

/// Waits for so many rows, and sees that no more come: not in two rounds of each front end.
async fn settles(server: &Server, rows: u64, defaults: u32) {
    let what = format!("{rows} rows are learned from");
    until(&what, async || learned(server).await.0 >= rows).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (got, lost) = learned(server).await;
    assert_eq!(got, rows);
    assert!((lost - f64::from(defaults) * 0.75).abs() < 1e-6, "{lost}");
}

async fn given(server: &Server) -> f64 {
    server.metric(r#"skysail_feedback_total{application="quiet",outcome="DEFAULT"}"#).await
}

#[tokio::test]
async fn each_decision_gets_one_over_front_ends_and_kills() {
    let (redis, folder) = (RedisServer::with(&DURABLE), tempfile::tempdir().unwrap());
    let folders = [folder.path().join("one"), folder.path().join("other")];
    let one = front_end(&redis.url(), &folders[0]).await;
    let other = front_end(&redis.url(), &folders[1]).await;

    let (first, second) = (ask(&one, 20).await, ask(&other, 20).await);
    // Each of them is told of what the other decided.
    for (mine, theirs) in first.iter().zip(&second).take(5) {
        assert_eq!(reward(&other, mine).await, FeedbackOutcome::Applied);
        assert_eq!(reward(&one, theirs).await, FeedbackOutcome::Applied);
    }
    settles(&one, 40, 30).await;
    assert_eq!((given(&one).await, given(&other).await), (15.0, 15.0));
    // By then Redis has forgotten it, so only who decided knows what it was.
    assert_eq!(reward(&one, &first[10]).await, FeedbackOutcome::Expired);
    assert_eq!(reward(&other, &first[10]).await, FeedbackOutcome::Unknown);

    // The one that decided dies while the window is open; its feedback goes to the other.
    let third = ask(&one, 20).await;
    // Of what was logged in the last milliseconds a part may be missing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    one.kill().await;
    for decision in &third[..5] {
        assert_eq!(reward(&other, decision).await, FeedbackOutcome::Applied);
    }
    // Only who has its log knows the rest.
    settles(&other, 45, 30).await;
    // It comes back after the window has closed, and dies again as soon as it has begun to give.
    let one = front_end(&redis.url(), &folders[0]).await;
    until("it begins", async || learned(&other).await.0 > 45).await;
    one.kill().await;
    let one = front_end(&redis.url(), &folders[0]).await;
    settles(&other, 60, 45).await;
    assert!(given(&one).await <= 15.0);

    // Both die, and Redis too.
    ask(&one, 10).await;
    ask(&other, 10).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut redis = redis;
    redis.kill();
    one.kill().await;
    other.kill().await;
    redis.restart();
    let one = front_end(&redis.url(), &folders[0]).await;
    let other = front_end(&redis.url(), &folders[1]).await;
    settles(&one, 80, 65).await;
    assert!(one.stop().await && other.stop().await);
}
