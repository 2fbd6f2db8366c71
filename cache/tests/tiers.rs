//! What holds for every tier: in memory, in Redis, in a Redis Cluster, and tiered.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use common::{FrontEnd, call, call_to, cluster::RedisCluster, redis::*, version};
use skysail_cache::{EmbeddedCache, PredictionCache};
use skysail_proto::{ModelCall, ModelId};

/// The tiers differ in when an answer can be found, so each says how to wait for that.
trait Tier {
    async fn kept(&self, answers: u64);
}

impl Tier for FrontEnd<EmbeddedCache> {
    async fn kept(&self, _: u64) {}
}

impl Tier for FrontEnd {
    async fn kept(&self, answers: u64) {
        self.written(answers).await;
    }
}

async fn suite<P: PredictionCache>(front_end: FrontEnd<P>)
where
    FrontEnd<P>: Tier,
{
    // A hit is the first answer, byte for byte, and asks nobody.
    let first = front_end.ask(call(1)).await;
    assert!(!first.cached);
    front_end.kept(1).await;
    let again = front_end.ask(call(1)).await;
    assert!(again.cached);
    assert_eq!(again.outputs, first.outputs);
    assert_eq!(front_end.model.asked(), 1);

    // Another version, build, or input has none of it.
    assert!(!front_end.ask(call_to("2", 1)).await.cached);
    assert!(!front_end.ask(call(2)).await.cached);
    let rebuilt = common::call_with(version("m", "1", "e"), call(1).inputs.tensors().to_vec());
    assert!(!front_end.ask(rebuilt.clone()).await.cached);
    front_end.kept(4).await;

    // Who wants it younger than it is gets a new one, which the others get from then on.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let strict = ModelCall { max_age: Some(Duration::from_millis(20)), ..call(1) };
    assert!(!front_end.ask(strict).await.cached);
    front_end.kept(5).await;
    assert!(front_end.ask(call(1)).await.cached);

    // Who wants no cache neither gets nor leaves an answer.
    let none = || ModelCall { max_age: None, ..call(7) };
    assert!(!front_end.ask(none()).await.cached && !front_end.ask(none()).await.cached);
    assert!(!front_end.ask(call(7)).await.cached);
    front_end.kept(6).await;

    // Dropped: all of that version, whatever its build; and nothing else.
    front_end.model.build.store(1, Ordering::SeqCst);
    front_end.layer.drop_model(&ModelId::new("m", "1")).await;
    let fresh = front_end.ask(call(1)).await;
    assert!(!fresh.cached && fresh.outputs != first.outputs);
    assert!(!front_end.ask(call(2)).await.cached);
    assert!(!front_end.ask(rebuilt).await.cached);
    assert!(front_end.ask(call_to("2", 1)).await.cached);
    front_end.kept(9).await;
    assert_eq!(front_end.ask(call(1)).await.outputs, fresh.outputs);

    // Equal calls at the same time run once.
    let asked = front_end.model.asked();
    let many = (0..50).map(|_| front_end.ask(call(100)));
    let many = futures::future::join_all(many).await;
    assert!(many.iter().all(|reply| reply.outputs == many[0].outputs));
    assert_eq!(front_end.model.asked(), asked + 1);
}

/// What holds between front ends that share a Redis.
async fn sharing(url: &str) {
    let (one, other) = (FrontEnd::over(url).await, FrontEnd::over(url).await);
    let computed = Instant::now();
    let first = one.ask(call(1)).await;
    one.written(1).await;
    let hit = other.ask(call(1)).await;
    assert!(hit.cached && other.model.asked() == 0);
    assert_eq!(hit.outputs, first.outputs);
    assert_eq!((other.redis().hits, other.redis().writes), (1, 0));

    // It has come with its true age.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let strict = ModelCall { max_age: Some(computed.elapsed() / 2), ..call(1) };
    assert!(!other.ask(strict).await.cached);
    other.written(1).await;

    // A drop by one holds for the other, its memory and answers on their way included.
    for n in 0..20 {
        one.ask(call(1_000 + n)).await;
    }
    one.written(21).await;
    for n in 0..20 {
        assert!(other.ask(call(1_000 + n)).await.cached);
    }
    for front_end in [&one, &other] {
        front_end.model.build.store(1, Ordering::SeqCst);
    }
    one.layer.drop_model(&ModelId::new("m", "1")).await;
    assert_ne!(one.ask(call(1)).await.outputs, first.outputs);
    until("the other has heard of it", async || other.ask(call(1)).await.outputs != first.outputs)
        .await;
    for n in 0..20 {
        let got = other.ask(call(1_000 + n)).await.outputs;
        assert_eq!(got, other.model.answer(&call(1_000 + n)), "none from before");
    }

    // Drops of both at the same time: they agree on the last, whoever made it.
    let id = ModelId::new("m", "1");
    for _ in 0..20 {
        futures::join!(one.layer.drop_model(&id), other.layer.drop_model(&id));
    }
    let mut n = 2_000;
    until("they share again", async || {
        // The one before has been written by now, unless a drop was heard of in between.
        n += 1;
        one.ask(call(n)).await;
        other.ask(call(n - 1)).await.cached
    })
    .await;

    // And none of it is news to one that comes later.
    let late = FrontEnd::over(url).await;
    late.model.build.store(1, Ordering::SeqCst);
    for n in 0..20 {
        let got = late.ask(call(1_000 + n)).await.outputs;
        assert_eq!(got, late.model.answer(&call(1_000 + n)));
    }
}

#[tokio::test]
async fn embedded() {
    suite(FrontEnd::new(EmbeddedCache::new(64 << 20))).await;
}

#[tokio::test]
async fn redis_alone() {
    let redis = RedisServer::start();
    suite(FrontEnd::redis_alone(&redis.url()).await).await;
}

#[tokio::test]
async fn tiered() {
    let redis = RedisServer::start();
    suite(FrontEnd::over(&redis.url()).await).await;
}

#[tokio::test]
async fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let socket = socket.to_str().unwrap();
    let _redis = RedisServer::with(&["--unixsocket", socket]);
    suite(FrontEnd::over(&format!("unix://{socket}")).await).await;
}

#[tokio::test]
async fn with_user_and_password() {
    let redis = RedisServer::with(&["--requirepass", "se/cret"]);
    suite(FrontEnd::over(&format!("redis://:se%2Fcret@127.0.0.1:{}", redis.port)).await).await;
}

#[tokio::test]
async fn two_front_ends() {
    let redis = RedisServer::start();
    sharing(&redis.url()).await;
}

#[tokio::test]
#[ignore = "starts three servers; cargo xtask test --all runs it"]
async fn redis_cluster() {
    let cluster = RedisCluster::start().await;
    suite(FrontEnd::redis_alone(&cluster.url()).await).await;
}

#[tokio::test]
#[ignore = "starts three servers; cargo xtask test --all runs it"]
async fn redis_cluster_tiered_and_shared() {
    let cluster = RedisCluster::start().await;
    suite(FrontEnd::over(&cluster.url()).await).await;
    let cluster = RedisCluster::start().await;
    sharing(&cluster.url()).await;
}

/// The memory of dropped answers is given back long before their time to live is over.
async fn swept(url: &str, keys: impl AsyncFn() -> u64) {
    let front_end = FrontEnd::over(url).await;
    const ANSWERS: u64 = 3_000;
    for n in 0..ANSWERS {
        front_end.ask(call(n)).await;
    }
    front_end.ask(call_to("2", 1)).await;
    front_end.written(ANSWERS + 1).await;
    assert_eq!(keys().await, front_end.redis().writes);
    front_end.layer.drop_model(&ModelId::new("m", "1")).await;
    // What is left: the other version's, and what was dropped.
    until("they are gone", async || keys().await == 2).await;
    assert!(FrontEnd::over(url).await.ask(call_to("2", 1)).await.cached);
    let stays = front_end.ask(call(1)).await;
    front_end.written(ANSWERS + 2).await;
    let shared = FrontEnd::over(url).await.ask(call(1)).await;
    assert!(shared.cached && shared.outputs == stays.outputs);
}

#[tokio::test]
async fn a_drop_gives_memory_back() {
    let redis = RedisServer::start();
    swept(&redis.url(), async || redis.keys()).await;
}

#[tokio::test]
#[ignore = "starts three servers; cargo xtask test --all runs it"]
async fn redis_cluster_gives_memory_back() {
    let cluster = RedisCluster::start().await;
    let all = async || cluster.nodes.iter().map(|node| node.keys()).sum();
    swept(&cluster.url(), all).await;
}

#[tokio::test]
async fn every_key_has_a_time_to_live() {
    let redis = RedisServer::start();
    let front_end = FrontEnd::over(&redis.url()).await;
    front_end.ask(call(1)).await;
    front_end.written(1).await;
    front_end.layer.drop_model(&ModelId::new("m", "2")).await;
    until("the drop is told", async || redis.keys() == 2).await;
    let mut connection = redis.connection().await;
    let names: Vec<Vec<u8>> =
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    for name in names {
        let ttl: i64 = redis::cmd("PTTL").arg(&name).query_async(&mut connection).await.unwrap();
        assert!(ttl > 0, "{}", String::from_utf8_lossy(&name));
    }
}

/// What queues while a pipeline is out is the next pipeline, look-ups and writes alike.
#[tokio::test]
async fn what_waits_goes_together() {
    let redis = RedisServer::start();
    let front_end = FrontEnd::redis_alone(&redis.url()).await;
    let number = |name: &str| {
        let said = redis.say(&["info", "stats"]);
        let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().parse::<u64>().unwrap()
    };
    let before = (number("total_commands_processed"), number("total_reads_processed"));
    futures::future::join_all((0..500).map(|n| front_end.ask(call(n)))).await;
    front_end.written(500).await;
    let commands = number("total_commands_processed") - before.0;
    let reads = number("total_reads_processed") - before.1;
    assert!(commands >= 1_000, "{commands}");
    assert!(reads < commands / 10, "{commands} commands in {reads} reads");
}
