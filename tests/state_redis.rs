//! Selection state in a Redis that is stopped, killed, and loses what it had.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a failed test shows what it drew")]

#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{RedisServer, until};
use rustix::process::Signal;
use skysail::{
    record::{DecisionLogFile, Options},
    state::RedisState,
};
use skysail_selection::{
    DecisionId, SelectionStore,
    store::{Commit, CommitOutcome, Mark, StateKey, Stored, Version},
};

const WINDOW: Duration = Duration::from_secs(3600);

async fn open(server: &RedisServer) -> (Arc<dyn SelectionStore>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let log = DecisionLogFile::open(folder.path(), Options::default()).unwrap();
    let redis =
        RedisState::open(server.url().parse().unwrap(), Arc::new(log), [1; 3]).await.unwrap();
    (Arc::new(redis.store(false)), folder)
}

fn durable() -> RedisServer {
    RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"])
}

fn key(context: &str) -> StateKey {
    StateKey { application: "a".into(), context: context.into() }
}

fn mark(time_ms: u64, row: u32) -> Mark {
    Mark { decision: DecisionId::new(time_ms, [1; 3], 0, [2; 16]), row }
}

fn commit(context: &str, expected: Version, marks: Vec<Mark>, time_ms: u64) -> Commit {
    let state = (expected.number + 1).to_be_bytes();
    Commit {
        key: key(context),
        expected,
        state: Bytes::copy_from_slice(&state),
        marks,
        commit_id: rand::random(),
        time_ms,
        window: WINDOW,
    }
}

fn count(stored: &Stored) -> u64 {
    u64::from_be_bytes(stored.state.as_ref().try_into().unwrap())
}

async fn latest(store: &Arc<dyn SelectionStore>, context: &str) -> (Version, u64) {
    let stored = store.load(key(context)).await.unwrap();
    stored.map_or((Version::NONE, 0), |stored| (stored.version, count(&stored)))
}

#[tokio::test]
async fn marks_go_when_feedback_for_their_decisions_no_longer_counts() {
    let server = RedisServer::start();
    let (store, _folder) = open(&server).await;
    let old: Vec<_> = (0..5_000).map(|row| mark(1_000_000, row)).collect();
    store.commit(commit("", Version::NONE, old.clone(), 1_000_000)).await.unwrap();
    let marks = format!("sk:{{{}}}:m", hex(&key("").place()));
    let ttl: u64 = server.say(&["pttl", &marks]).parse().unwrap();
    let window = WINDOW.as_millis() as u64;
    assert!((window..window + 120_000).contains(&ttl), "{ttl}");
    // Kept for a minute longer, since clocks differ.
    let later = 1_000_000 + window + 59_000;
    let (version, _) = latest(&store, "").await;
    store.commit(commit("", version, vec![mark(later, 0)], later)).await.unwrap();
    let set = store.marked(key(""), old.clone()).await.unwrap();
    assert!(set.iter().all(Option::is_some));
    // Little by little: no commit waits for all of it.
    for step in 1..=3 {
        let (version, _) = latest(&store, "").await;
        let now = later + 1_001 + step;
        store.commit(commit("", version, vec![mark(now, 0)], now)).await.unwrap();
        let left: u64 = server.say(&["zcard", &marks]).parse().unwrap();
        assert_eq!(left, 5_000_u64.saturating_sub(2_000 * step) + 1 + step);
    }
    let set = store.marked(key(""), old).await.unwrap();
    assert!(set.iter().all(Option::is_none));
    assert!(store.marked(key(""), vec![mark(later, 0)]).await.unwrap()[0].is_some());

    // Feedback by input marks times that are to come; what comes after does not shorten their life.
    for (ahead, row) in [(2 * window, 1), (0, 2)] {
        let (version, _) = latest(&store, "").await;
        let marks_of = vec![mark(later + 2_000 + ahead, row)];
        store.commit(commit("", version, marks_of, later + 2_000)).await.unwrap();
        let ttl: u64 = server.say(&["pttl", &marks]).parse().unwrap();
        assert!((3 * window..3 * window + 120_000).contains(&ttl), "{ttl}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A version's number comes again in another history; what was computed from the first must not
/// take the place of the second.
#[tokio::test]
async fn a_commit_of_a_history_that_is_lost_is_a_conflict() {
    let server = RedisServer::start();
    let (store, _folder) = open(&server).await;
    for context in ["", "c"] {
        let mut known = Vec::new();
        for _ in 0..2 {
            for row in 0..3 {
                let (version, _) = latest(&store, context).await;
                let commit = commit(context, version, vec![mark(1, row)], 1);
                let outcome = store.commit(commit).await.unwrap();
                assert_eq!(outcome, CommitOutcome::Committed(version.number + 1));
            }
            known.push(latest(&store, context).await.0);
            if known.len() == 1 {
                server.say(&["flushall"]);
            }
        }
        assert_eq!(known[0].number, known[1].number);
        for (version, outcome) in
            [(known[0], CommitOutcome::Conflict), (known[1], CommitOutcome::Committed(4))]
        {
            let commit = commit(context, version, vec![mark(1, 9)], 1);
            assert_eq!(store.commit(commit).await.unwrap(), outcome);
        }
    }
}

/// As where the network breaks while Redis has the commit already.
#[tokio::test]
async fn a_commit_that_was_given_up_is_known_by_its_id() {
    let server = RedisServer::start();
    let (store, _folder) = open(&server).await;
    let lost = commit("", Version::NONE, vec![mark(1, 0)], 1);
    let id = lost.commit_id;
    server.signal(Signal::STOP);
    let error = store.commit(lost).await.unwrap_err();
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port)), "{error}");
    server.signal(Signal::CONT);
    until("it is done", async || {
        let marked = store.marked(key(""), vec![mark(1, 0), mark(1, 1)]).await;
        marked.is_ok_and(|marked| marked == [Some(id), None])
    })
    .await;
    let version = Version { number: 1, commit_id: id };
    assert_eq!(latest(&store, "").await, (version, 1));
}

const CALLERS: u64 = 8;

/// Each caller counts in a context of its own, one commit and one mark per step, while Redis is
/// killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_again_and_again_loses_and_doubles_nothing() {
    let mut server = durable();
    let (store, _folder) = open(&server).await;
    let acknowledged = Arc::new([const { AtomicU64::new(0) }; CALLERS as usize]);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let context = caller.to_string();
                let mut version = Version::NONE;
                loop {
                    let next = version.number + 1;
                    let step = commit(&context, version, vec![mark(next, 0)], next);
                    let id = step.commit_id;
                    let made = match store.commit(step).await {
                        Ok(outcome) => {
                            assert_eq!(outcome, CommitOutcome::Committed(next));
                            true
                        }
                        // Done or not: the mark knows.
                        Err(_) => loop {
                            let marked = store.marked(key(&context), vec![mark(next, 0)]).await;
                            match marked {
                                Ok(marked) => {
                                    assert!(marked[0].is_none_or(|set| set == id));
                                    break marked[0].is_some();
                                }
                                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                            }
                        },
                    };
                    if made {
                        version = Version { number: next, commit_id: id };
                        acknowledged[caller as usize].store(next, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let all = || acknowledged.iter().map(|one| one.load(Ordering::SeqCst)).sum::<u64>();
    for round in 0..5 {
        let after = rand::random_range(1..150);
        println!("round {round}: killed after {after} acknowledged commits");
        let until_then = all() + after;
        until("commits are acknowledged", async || all() >= until_then).await;
        server.kill();
        // None was acknowledged by a Redis that was not there.
        let before: Vec<_> = acknowledged.iter().map(|one| one.load(Ordering::SeqCst)).collect();
        server.restart();
        for (context, before) in before.into_iter().enumerate() {
            let mut stored = None;
            until("it is loaded", async || {
                stored = store.load(key(&context.to_string())).await.ok();
                stored.is_some()
            })
            .await;
            let counted = stored.flatten().map_or(0, |stored| count(&stored));
            assert!(counted >= before, "{context}: {counted} of {before}");
        }
    }
    for caller in callers {
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled(), "a caller found what must not be");
    }
    for caller in 0..CALLERS {
        let context = caller.to_string();
        let (version, counted) = latest(&store, &context).await;
        let last = acknowledged[caller as usize].load(Ordering::SeqCst);
        // One more may have been under way.
        assert!((last..=last + 1).contains(&counted), "{context}: {counted}, not {last}");
        assert_eq!(version.number, counted, "a step was taken twice");
        let marks = (1..=counted + 1).map(|step| mark(step, 0)).collect();
        let marks = store.marked(key(&context), marks).await.unwrap();
        let (beyond, set) = marks.split_last().unwrap();
        assert!(set.iter().all(Option::is_some), "{context}: a mark is lost");
        assert_eq!(*beyond, None, "{context}: a mark without its state");
    }
}
