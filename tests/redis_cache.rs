//! Front ends that share a Redis: what one has computed is a hit in the other, and the loss of
//! Redis is nobody's failure.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::{ROOT, Server, query};
use redis::{RedisServer, until};
use skysail_proto::pb::v1;

/// One arm, so that all of an answer is cached or none of it.
async fn front_end(redis: &RedisServer, folder: &std::path::Path) -> Server {
    let config = format!("[cache]\nredis = \"{}\"\nredis_budget = \"100ms\"\n{ROOT}", redis.url());
    std::fs::create_dir_all(folder).unwrap();
    Server::start(&config, folder).await
}

async fn is_connected(server: &Server) {
    until("Redis is used", async || {
        // Both lines are there from the first time on.
        let text = server.get("/metrics").await;
        text.contains("skysail_cache_circuit_state{tier=\"redis\"} 0")
    })
    .await;
}

async fn counted(server: &Server, name: &str) -> f64 {
    server.metric(&format!("skysail_cache_{name}_total{{tier=\"redis\"}}")).await
}

async fn ask(server: &Server, row: [f32; 2]) -> v1::PredictResponse {
    let answered = server.prediction().predict(query("one", "r", &[row])).await;
    let answered = answered.expect("no query fails").into_inner();
    assert_eq!(answered.status(), v1::Status::Answered);
    answered
}

fn cached(answer: &v1::PredictResponse) -> bool {
    answer.contributions.iter().all(|contribution| contribution.cached)
}

#[tokio::test]
async fn what_one_has_computed_is_a_hit_in_the_other() {
    let (redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let one = front_end(&redis, &folder.path().join("one")).await;
    let other = front_end(&redis, &folder.path().join("other")).await;
    for server in [&one, &other] {
        is_connected(server).await;
    }
    let first = ask(&one, [1.0, 2.0]).await;
    assert!(!cached(&first));
    until("it is written", async || counted(&one, "writes").await >= 1.0).await;
    let hit = ask(&other, [1.0, 2.0]).await;
    assert!(cached(&hit));
    assert_eq!(hit.outputs, first.outputs);
    assert_eq!((counted(&other, "hits").await, counted(&other, "writes").await), (1.0, 0.0));

    let drop = v1::DropCacheRequest { model: "a".into(), version: "1".into() };
    one.admin().drop_cache(drop).await.unwrap();
    assert!(!cached(&ask(&one, [1.0, 2.0]).await));
    until("the other hears of the drop, and of the answer since", async || {
        let hits = counted(&other, "hits").await;
        cached(&ask(&other, [1.0, 2.0]).await) && counted(&other, "hits").await > hits
    })
    .await;
    assert!(one.stop().await && other.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_fails_no_query() {
    let (mut redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let server = Arc::new(front_end(&redis, folder.path()).await);
    is_connected(&server).await;
    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4_u8)
        .map(|caller| {
            let (server, stop, answers) =
                (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&answers));
            tokio::spawn(async move {
                for n in 0_u32.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // Inputs of its own each time: none can come from memory.
                    ask(&server, [f32::from(caller), n as f32]).await;
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let goes_on = async || {
        let more = answers.load(Ordering::SeqCst) + 100;
        until("queries are answered", async || answers.load(Ordering::SeqCst) >= more).await;
    };
    goes_on().await;
    until("answers are written", async || counted(&server, "writes").await > 0.0).await;
    redis.kill();
    until("the loss is counted", async || counted(&server, "circuit_opened").await >= 1.0).await;
    goes_on().await;
    assert!(counted(&server, "skipped").await > 0.0);
    redis.restart();
    is_connected(&server).await;
    let written = counted(&server, "writes").await;
    until("answers are written again", async || counted(&server, "writes").await > written).await;
    goes_on().await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(server.metric("skysail_refusals_total").await, 0.0);
}

/// A Redis that is not there does not keep a server from starting.
#[tokio::test]
async fn redis_that_is_not_there_is_no_reason_not_to_start() {
    let (mut redis, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    redis.kill();
    let server = front_end(&redis, folder.path()).await;
    ask(&server, [1.0, 2.0]).await;
    redis.restart();
    is_connected(&server).await;
    assert!(server.stop().await);
}

#[tokio::test]
async fn over_tls_with_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _redis = RedisServer::with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        cert.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "secret",
    ]);
    let config = {
        let url = format!("rediss://:secret@localhost:{port}");
        format!("[cache]\nredis = \"{url}\"\nredis_budget = \"100ms\"\n{ROOT}")
    };
    let trusting = [("SSL_CERT_FILE", cert.as_path())];
    for name in ["one", "other"] {
        std::fs::create_dir(file(name)).unwrap();
    }
    let one = Server::start_with(&config, &folder.path().join("one"), &trusting).await;
    is_connected(&one).await;
    ask(&one, [1.0, 2.0]).await;
    until("it is written", async || counted(&one, "writes").await >= 1.0).await;
    // Who does not trust its certificate does without.
    let other = Server::start_with(&config, &folder.path().join("other"), &[]).await;
    until("that is known", async || counted(&other, "circuit_opened").await == 1.0).await;
    assert!(!cached(&ask(&other, [1.0, 2.0]).await));
}
