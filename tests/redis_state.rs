//! Front ends that share selection state in a Redis: feedback counts once, whichever of them gets
//! it and whoever is killed meanwhile; and the loss of Redis stops no prediction.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a failed test shows its seed")]

#[path = "../cache/tests/common/cluster.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod cluster;
mod common;
#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;
#[path = "redis_state/soak.rs"]
mod soak;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{ROOT, Server, label, query};
use redis::{RedisServer, until};
use rustix::process::Signal;
use skysail_proto::pb::v1;

/// One arm per query, so that each decision scores one. What is late scores none, so nothing is.
const BANDIT: &str = r#"
[[application]]
name = "bandit"
objective = "60s"
task = "classification"
label_output = "label"
policy = { name = "exp3", parameters = { eta = 0.002 } }
links = [{ model = "a" }, { model = "b" }]
"#;

/// Without `appendfsync always` Redis acknowledges what it may lose.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn front_end(redis: &str, folder: &Path) -> Server {
    std::fs::create_dir_all(folder).unwrap();
    Server::start(&format!("[state]\nredis = \"{redis}\"\n{ROOT}{BANDIT}"), folder).await
}

async fn ask(server: &Server, application: &str, context: &str) -> v1::PredictResponse {
    let query =
        v1::PredictRequest { context_id: context.into(), ..query(application, "r", &[[1.0, 2.0]]) };
    server.prediction().predict(query).await.expect("no query fails").into_inner()
}

async fn observe(server: &Server, decision: &str, truth: i64) -> v1::FeedbackOutcome {
    let observed = server.feedback().observe(label("bandit", decision, &[truth])).await;
    observed.unwrap().into_inner().outcome()
}

async fn selection(server: &Server, context: &str) -> v1::GetSelectionResponse {
    let request =
        v1::GetSelectionRequest { application: "bandit".into(), context_id: context.into() };
    server.admin().get_selection(request).await.unwrap().into_inner()
}

fn observations(selection: &v1::GetSelectionResponse) -> u64 {
    selection.arms.iter().map(|arm| arm.observations).sum()
}

/// What the next query is drawn from: from memory, and not from Redis.
async fn weight(server: &Server) -> f64 {
    server.metric("skysail_selection_weight{application=\"bandit\",arm=\"a\"}").await
}

#[tokio::test]
async fn one_predicts_and_the_other_gets_the_feedback() {
    let (redis, folder) = (RedisServer::with(&DURABLE), tempfile::tempdir().unwrap());
    let one = front_end(&redis.url(), &folder.path().join("one")).await;
    let other = front_end(&redis.url(), &folder.path().join("other")).await;
    let mut seen_after = Vec::new();
    for context in ["", "user"] {
        // Read in time: it may still be on its way when its feedback comes.
        let answer = ask(&one, "bandit", context).await;
        let decision = &answer.decision_id;
        let before = weight(&one).await;
        let wrong = 9;
        assert_eq!(observe(&other, decision, wrong).await, v1::FeedbackOutcome::Applied);
        let applied = Instant::now();
        until("the one that predicted draws from it", async || weight(&one).await != before).await;
        seen_after.push(applied.elapsed());
        assert_eq!(weight(&one).await, weight(&other).await);
        for server in [&one, &other] {
            assert_eq!(observe(server, decision, wrong).await, v1::FeedbackOutcome::Duplicate);
            assert_eq!(observations(&selection(server, context).await), 1);
            let all = if context.is_empty() { 1 } else { 2 };
            assert_eq!(observations(&selection(server, "").await), all);
        }
    }
    // A busy machine may hold one of them up.
    assert!(seen_after.iter().any(|after| *after < Duration::from_secs(1)), "{seen_after:?}");
    // An id that nobody gave out, of a front end that nobody knows, and of now.
    let mut made_up = ask(&one, "bandit", "").await.decision_id;
    made_up.replace_range(12..18, "abcdef");
    assert_eq!(observe(&other, &made_up, 0).await, v1::FeedbackOutcome::Unknown);
    // And of one that is known.
    let mut made_up = ask(&one, "bandit", "").await.decision_id;
    made_up.replace_range(18..24, "ffffff");
    for server in [&one, &other] {
        assert_eq!(observe(server, &made_up, 0).await, v1::FeedbackOutcome::Unknown);
    }
    assert!(one.stop().await && other.stop().await);
}

#[tokio::test]
async fn what_one_forgets_the_other_forgets() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let one = front_end(&redis.url(), &folder.path().join("one")).await;
    let other = front_end(&redis.url(), &folder.path().join("other")).await;
    for _ in 0..20 {
        let decision = ask(&one, "bandit", "user").await.decision_id;
        observe(&one, &decision, 9).await;
    }
    let learned = weight(&one).await;
    until("both know it", async || weight(&other).await == learned).await;
    ask(&other, "bandit", "user").await;
    let reset = v1::ResetSelectionRequest { application: "bandit".into(), ..Default::default() };
    one.admin().reset_selection(reset).await.unwrap();
    until("both have forgotten", async || weight(&one).await == 0.5 && weight(&other).await == 0.5)
        .await;
    for server in [&one, &other] {
        for context in ["", "user"] {
            let selection = selection(server, context).await;
            assert_eq!((observations(&selection), selection.state_version), (0, 0));
        }
    }
    for server in [&one, &other] {
        let decision = ask(server, "bandit", "user").await.decision_id;
        assert_eq!(observe(server, &decision, 0).await, v1::FeedbackOutcome::Applied);
    }
    assert_eq!(observations(&selection(&one, "user").await), 2);
}

/// As after a fail-over to a replica that had nothing yet.
#[tokio::test]
async fn what_redis_has_lost_is_not_in_memory_any_more() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let server = front_end(&redis.url(), folder.path()).await;
    for _ in 0..5 {
        let decision = ask(&server, "bandit", "user").await.decision_id;
        assert_eq!(observe(&server, &decision, 9).await, v1::FeedbackOutcome::Applied);
    }
    assert!(weight(&server).await != 0.5);
    redis.say(&["flushall"]);
    until("it is seen", async || weight(&server).await == 0.5).await;
    let decision = ask(&server, "bandit", "user").await.decision_id;
    assert_eq!(observe(&server, &decision, 9).await, v1::FeedbackOutcome::Applied);
    assert_eq!(selection(&server, "").await.state_version, 1);
    assert_eq!(observations(&selection(&server, "user").await), 1);
}

#[tokio::test]
#[ignore = "starts three servers; cargo xtask test --all runs it"]
async fn over_a_cluster() {
    let (cluster, folder) = (cluster::RedisCluster::start().await, tempfile::tempdir().unwrap());
    let one = front_end(&cluster.url(), &folder.path().join("one")).await;
    let other = front_end(&cluster.url(), &folder.path().join("other")).await;
    let contexts: Vec<_> = (0..20).map(|n| format!("user {n}")).collect();
    for context in &contexts {
        let decision = ask(&one, "bandit", context).await.decision_id;
        assert_eq!(observe(&other, &decision, 9).await, v1::FeedbackOutcome::Applied);
        assert_eq!(observe(&one, &decision, 9).await, v1::FeedbackOutcome::Duplicate);
        assert_eq!(observations(&selection(&one, context).await), 1);
    }
    let applied = Instant::now();
    let learned = weight(&other).await;
    until("both draw from it", async || weight(&one).await == learned).await;
    assert!(applied.elapsed() < Duration::from_secs(1), "{:?}", applied.elapsed());
    let reset = v1::ResetSelectionRequest { application: "bandit".into(), ..Default::default() };
    one.admin().reset_selection(reset).await.unwrap();
    for context in &contexts {
        assert_eq!(observations(&selection(&other, context).await), 0);
    }
    until("the other forgets", async || weight(&other).await == 0.5).await;
    assert!(one.stop().await && other.stop().await);
}

#[tokio::test]
async fn a_lost_redis_stops_no_prediction_and_comes_back() {
    let (mut redis, folder) = (RedisServer::with(&DURABLE), tempfile::tempdir().unwrap());
    let server = front_end(&redis.url(), folder.path()).await;
    let known = ask(&server, "bandit", "user").await.decision_id;
    assert_eq!(observe(&server, &known, 0).await, v1::FeedbackOutcome::Applied);
    let refused = async |decision: &str| {
        let began = Instant::now();
        let refused = server.feedback().observe(label("bandit", decision, &[0])).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    };
    let quick = async |context: &str| {
        let began = Instant::now();
        let answer = ask(&server, "bandit", context).await;
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(answer.status(), v1::Status::Answered);
        answer.decision_id
    };
    // Silent, then gone.
    redis.signal(Signal::STOP);
    let silent = quick("new").await;
    let (_, ()) = tokio::join!(refused(&silent), async {
        for n in 0..50 {
            quick(&format!("user {n}")).await;
        }
    });
    assert!(server.get("/metrics").await.contains("skysail_state_refresh_lag_seconds"));
    redis.signal(Signal::CONT);
    redis.kill();
    let gone = quick("user").await;
    refused(&gone).await;
    until("it is known", async || server.metric("skysail_state_connected").await == 0.0).await;
    for n in 0..50 {
        quick(&format!("user {n}")).await;
    }
    redis.restart();
    until("feedback is taken again", async || {
        server.feedback().observe(label("bandit", &gone, &[0])).await.is_ok()
    })
    .await;
    // What was refused may have been done, and is done once.
    let outcome = observe(&server, &silent, 0).await;
    assert!(
        matches!(outcome, v1::FeedbackOutcome::Applied | v1::FeedbackOutcome::Duplicate),
        "{outcome:?}"
    );
    assert_eq!(observations(&selection(&server, "").await), 3);
    let lag = async || server.metric("skysail_state_refresh_lag_seconds").await;
    until("it is up to date", async || lag().await < 1.0).await;
    assert!(server.metric("skysail_state_errors_total").await > 0.0);
    assert!(server.stop().await);
}

/// More than wait as they are, so that the rest is read back from the file.
#[tokio::test]
async fn decisions_made_while_redis_was_lost_are_known_to_others_later() {
    let (mut redis, folder) = (RedisServer::with(&DURABLE), tempfile::tempdir().unwrap());
    let one = front_end(&redis.url(), &folder.path().join("one")).await;
    let other = front_end(&redis.url(), &folder.path().join("other")).await;
    redis.kill();
    let decisions = soak::decide(&one, (0..3_000).map(|_| (1, String::new()))).await;
    let waiting = async || one.metric("skysail_state_records_waiting").await;
    assert_eq!(waiting().await, 3_000.0);
    redis.restart();
    // It is not called unknown while it waits to be written.
    let last = &decisions[2_999].id;
    let mut outcome = None;
    until("the last one is known", async || {
        let observed = other.feedback().observe(label("bandit", last, &[0])).await;
        outcome = observed.ok().map(|observed| observed.into_inner().outcome());
        outcome.is_some()
    })
    .await;
    assert_eq!(outcome, Some(v1::FeedbackOutcome::Applied));
    until("all are written", async || waiting().await == 0.0).await;
    assert_eq!(one.metric("skysail_state_records_total").await, 3_000.0);
    for decision in decisions.iter().step_by(100) {
        assert_eq!(observe(&other, &decision.id, 0).await, v1::FeedbackOutcome::Applied);
    }
    // All that has no end of its own is the state.
    let mut connection = redis.connection().await;
    let names: Vec<String> =
        ::redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let mut endless = Vec::new();
    for name in &names {
        let end: i64 = ::redis::cmd("PTTL").arg(name).query_async(&mut connection).await.unwrap();
        if end == -1 {
            endless.push(name);
        }
    }
    // Besides: a set of marks, and the beats of two front ends.
    assert_eq!((names.len(), endless.len()), (3_000 + 1 + 1 + 2, 1), "{endless:?}");
    assert!(endless[0].ends_with("}:s"));
    assert!(one.stop().await && other.stop().await);
}

/// What a start in vain says, and how it ends.
fn refused(redis: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_skysail"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env("SKYSAIL_REDIS_STATE", redis)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).unwrap()
}

#[test]
fn a_redis_that_may_evict_is_refused() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let redis = RedisServer::with(&["--maxmemory", "100mb", "--maxmemory-policy", policy]);
        let error = refused(&redis.url());
        for part in [policy, "104857600", "expected noeviction", "--redis-state"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn a_redis_that_is_not_there_is_named() {
    let error = refused("redis://:secret@127.0.0.1:1");
    assert!(error.contains("cannot reach the Redis at 127.0.0.1:1"), "{error}");
    assert!(error.contains("--redis-state") && !error.contains("secret"), "{error}");
}
