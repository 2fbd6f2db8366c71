//! A real Redis that dies, hangs, is full, restarted, closed or damaged, under load: no query
//! fails, none is answered wrongly, and the counters tell what happened.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{FrontEnd, call, cluster::RedisCluster, options, redis::*};
use rustix::process::Signal;
use skysail_cache::{RedisOptions, TieredCache};
use skysail_proto::ModelId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

/// Callers who ask without a pause, of which each answer is checked.
struct Load {
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Load {
    const CALLERS: u64 = 16;

    /// Over 500 queries, so that there are hits as well as misses.
    fn start(front_end: &Arc<FrontEnd>) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..Self::CALLERS {
            let (front_end, stop) = (Arc::clone(front_end), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            callers.spawn(async move {
                for n in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let call = call((n * 7 + caller * 31) % 500);
                    let right = front_end.model.answer(&call);
                    assert_eq!(front_end.ask(call).await.outputs, right);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { callers, stop, answered }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Waits until every caller can have had some more answers.
    async fn goes_on(&self) {
        let more = self.answered() + 50 * Self::CALLERS;
        until("queries are answered", async || self.answered() >= more).await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(caller) = self.callers.join_next().await {
            caller.unwrap();
        }
    }
}

/// All goes to Redis, within the product's own budget.
fn front_end(url: &str) -> Arc<FrontEnd> {
    let options = RedisOptions::new(url.parse().unwrap());
    Arc::new(FrontEnd::new(TieredCache::with_redis(0, &options).unwrap()))
}

async fn hits_again(front_end: &FrontEnd) {
    let before = front_end.redis().hits;
    until("there are hits again", async || front_end.redis().hits > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted_empty() {
    let mut redis = RedisServer::start();
    let front_end = front_end(&redis.url());
    front_end.is_connected().await;
    let load = Load::start(&front_end);
    hits_again(&front_end).await;

    redis.kill();
    until("the circuit is open", async || front_end.redis().circuit_open).await;
    load.goes_on().await;
    let lost = front_end.redis();
    assert!(lost.circuit_open && lost.circuit_opened >= 1, "{lost:?}");
    assert!(lost.errors + lost.timeouts > 0 && lost.skipped > 0, "{lost:?}");
    assert!(lost.writes_dropped > 0, "{lost:?}");

    redis.restart();
    until("it is used again", async || !front_end.redis().circuit_open).await;
    hits_again(&front_end).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_for_five_seconds() {
    let redis = RedisServer::start();
    let front_end = front_end(&redis.url());
    front_end.is_connected().await;
    let load = Load::start(&front_end);
    hits_again(&front_end).await;

    redis.signal(Signal::STOP);
    until("the circuit is open", async || front_end.redis().circuit_open).await;
    // A connection in the kernel's backlog must not pass for an answer.
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(front_end.redis().circuit_open);
    }
    load.goes_on().await;
    let hung = front_end.redis();
    assert!(hung.timeouts > 0 && hung.skipped > 0, "{hung:?}");

    redis.signal(Signal::CONT);
    until("it is used again", async || !front_end.redis().circuit_open).await;
    hits_again(&front_end).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full() {
    let redis = RedisServer::start();
    let front_end = Arc::new(FrontEnd::redis_alone(&redis.url()).await);
    let kept = front_end.ask(call(10_000)).await;
    front_end.written(1).await;
    redis.say(&["config", "set", "maxmemory-policy", "noeviction"]);
    redis.say(&["config", "set", "maxmemory", "1"]);

    let load = Load::start(&front_end);
    until("writes are refused", async || front_end.redis().write_errors > 100).await;
    load.goes_on().await;
    // What is in it can still be read.
    until("it is a hit", async || {
        let got = front_end.ask(call(10_000)).await;
        assert_eq!(got.outputs, kept.outputs);
        got.cached
    })
    .await;
    // A drop holds, and frees what would not be told otherwise.
    front_end.layer.drop_model(&ModelId::new("m", "1")).await;
    assert!(!front_end.ask(call(10_000)).await.cached);
    until("the dropped answers are gone", async || redis.keys() <= 1).await;
    load.end().await;

    redis.say(&["config", "set", "maxmemory", "0"]);
    let load = Load::start(&front_end);
    hits_again(&front_end).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_until_it_is_right() {
    let redis = RedisServer::with(&["--requirepass", "right"]);
    let front_end = front_end(&format!("redis://:wrong@127.0.0.1:{}", redis.port));
    let load = Load::start(&front_end);
    until("the refusal is counted", async || front_end.redis().circuit_opened == 1).await;
    load.goes_on().await;
    let refused = front_end.redis();
    assert!(refused.circuit_open && refused.skipped > 0, "{refused:?}");
    assert_eq!((refused.hits, refused.writes), (0, 0));

    redis.say(&["-a", "right", "config", "set", "requirepass", "wrong"]);
    until("it is used", async || !front_end.redis().circuit_open).await;
    hits_again(&front_end).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_damaged_by_hand() {
    let redis = RedisServer::start();
    let writer = FrontEnd::redis_alone(&redis.url()).await;
    for n in 0..20 {
        writer.ask(call(n)).await;
    }
    writer.written(20).await;
    let mut connection = redis.connection().await;
    let names: Vec<Vec<u8>> =
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert_eq!(names.len(), 20);
    for (index, name) in names.iter().enumerate() {
        let damage = match index % 4 {
            // A bit of an answer, the format's version, all of it, and another kind of value.
            0 => redis::cmd("SETRANGE").arg(name).arg(40).arg("!").to_owned(),
            1 => redis::cmd("SETRANGE").arg(name).arg(0).arg("\u{7f}").to_owned(),
            2 => redis::cmd("SET").arg(name).arg("").to_owned(),
            _ => {
                let unlink = redis::cmd("UNLINK").arg(name).to_owned();
                unlink.query_async::<()>(&mut connection).await.unwrap();
                redis::cmd("LPUSH").arg(name).arg("list").to_owned()
            }
        };
        damage.query_async::<()>(&mut connection).await.unwrap();
    }

    let reader = FrontEnd::redis_alone(&redis.url()).await;
    for n in 0..20 {
        let got = reader.ask(call(n)).await;
        assert!(!got.cached);
        assert_eq!(got.outputs, reader.model.answer(&call(n)));
    }
    let damaged = reader.redis();
    assert_eq!((damaged.corrupt, damaged.errors, damaged.hits), (15, 5, 0), "{damaged:?}");
    // Each was written over by the answer to the query that found it.
    reader.written(20).await;
    let next = FrontEnd::redis_alone(&redis.url()).await;
    for n in 0..20 {
        assert!(next.ask(call(n)).await.cached);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_there_at_the_start() {
    let mut redis = RedisServer::start();
    redis.kill();
    let front_end = front_end(&redis.url());
    let load = Load::start(&front_end);
    load.goes_on().await;
    // A drop that nobody can be told of holds here, and for all once Redis is there.
    front_end.layer.drop_model(&ModelId::new("m", "1")).await;
    redis.restart();
    until("it is used", async || !front_end.redis().circuit_open).await;
    hits_again(&front_end).await;
    load.end().await;
    let told: Vec<(String, u64)> = redis::cmd("HGETALL")
        .arg("skc1:drops")
        .query_async(&mut redis.connection().await)
        .await
        .unwrap();
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn one_slower_than_the_budget_is_not_used() {
    let redis = RedisServer::start();
    let budget = Duration::from_millis(3);
    let options = RedisOptions { budget, ..options(&delayed(redis.port, 10 * budget).await) };
    let front_end = FrontEnd::new(TieredCache::with_redis(0, &options).unwrap());
    until("that is known", async || front_end.redis().circuit_opened == 1).await;
    for n in 0..10 {
        front_end.ask(call(n)).await;
    }
    let slow = front_end.redis();
    assert!(slow.circuit_open);
    assert_eq!((slow.skipped, slow.timeouts, slow.writes_dropped), (10, 0, 10));
}

/// The address of a Redis whose every answer comes late.
async fn delayed(port: u16, by: Duration) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(bytes @ 1..) = from_server.read(&mut buffer).await {
                    tokio::time::sleep(by).await;
                    to_client.write_all(&buffer[..bytes]).await.unwrap();
                }
            });
        }
    });
    url
}

/// Redis may lose the epochs with all else, or be given an older state: whoever knows them tells
/// it again.
#[tokio::test]
async fn a_drop_outlives_the_loss_of_what_redis_knew() {
    let redis = RedisServer::start();
    let front_end = FrontEnd::over(&redis.url()).await;
    front_end.ask(call(1)).await;
    front_end.written(1).await;
    let mut connection = redis.connection().await;
    let names: Vec<Vec<u8>> =
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let dump: Vec<u8> =
        redis::cmd("DUMP").arg(&names[0]).query_async(&mut connection).await.unwrap();
    front_end.layer.drop_model(&ModelId::new("m", "1")).await;
    let told = async || redis.say(&["exists", "skc1:drops"]) == "1";
    until("it is told and swept", async || told().await && redis.keys() == 1).await;
    redis.say(&["flushall"]);
    redis::cmd("RESTORE")
        .arg(&names[0])
        .arg(0)
        .arg(dump)
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    until("it is told again", async || told().await).await;
    assert_eq!(redis.keys(), 2);
    assert!(!FrontEnd::over(&redis.url()).await.ask(call(1)).await.cached);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "starts three servers; cargo xtask test --all runs it"]
async fn redis_cluster_loses_its_masters_one_by_one() {
    let mut cluster = RedisCluster::start().await;
    let front_end = front_end(&cluster.url());
    front_end.is_connected().await;
    let load = Load::start(&front_end);
    hits_again(&front_end).await;

    // What the others hold is still found, as long as drops can be heard of.
    let last = cluster.owner("skc1:drops");
    cluster.nodes[(last + 1) % 3].kill();
    load.goes_on().await;
    hits_again(&front_end).await;
    cluster.nodes[(last + 2) % 3].kill();
    load.goes_on().await;
    cluster.nodes[last].kill();
    until("the circuit is open", async || front_end.redis().circuit_open).await;
    load.goes_on().await;

    for node in &mut cluster.nodes {
        node.restart();
    }
    until("it is used again", async || !front_end.redis().circuit_open).await;
    hits_again(&front_end).await;
    load.end().await;
}
