//! One suite over all stores of selection state: in memory, in the state file, in Redis, and in a
//! Redis Cluster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a failed test shows its seed")]

#[path = "../cache/tests/common/cluster.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod cluster;
#[path = "../cache/tests/common/redis.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redis;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use cluster::RedisCluster;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use redis::RedisServer;
use skysail::{
    record::{DecisionLogFile, Options},
    state::{EmbeddedStore, RedisState, StateFile},
};
use skysail_selection::{
    DecisionId, SelectionStore,
    store::{Commit, CommitOutcome, Mark, StateKey, Stored, Version, memory::MemoryStore},
};

type Store = Arc<dyn SelectionStore>;

/// A store, and what must outlive it.
struct Opened {
    store: Store,
    _kept: Box<dyn std::any::Any>,
}

fn memory() -> Opened {
    Opened { store: Arc::new(MemoryStore::new()), _kept: Box::new(()) }
}

fn embedded() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::open(folder.path()).unwrap();
    Opened { store: Arc::new(EmbeddedStore::new(file)), _kept: Box::new(folder) }
}

async fn connected(url: &str, kept: impl std::any::Any) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let log = DecisionLogFile::open(folder.path(), Options::default()).unwrap();
    let redis = RedisState::open(url.parse().unwrap(), Arc::new(log), [1; 3]).await.unwrap();
    Opened { store: Arc::new(redis.store(false)), _kept: Box::new((redis, folder, kept)) }
}

async fn in_redis() -> Opened {
    let server = RedisServer::start();
    connected(&server.url(), server).await
}

macro_rules! over_all_stores {
    ($($test:ident)*) => {
        mod in_memory {
            $(#[tokio::test] async fn $test() { super::$test(super::memory().store).await })*
        }
        mod in_the_file {
            $(#[tokio::test] async fn $test() {
                let opened = super::embedded();
                super::$test(Arc::clone(&opened.store)).await;
            })*
            use std::sync::Arc;
        }
        mod in_redis {
            $(#[tokio::test] async fn $test() {
                let opened = super::in_redis().await;
                super::$test(Arc::clone(&opened.store)).await;
            })*
            use std::sync::Arc;
        }
        #[tokio::test]
        #[ignore = "starts three servers; cargo xtask test --all runs it"]
        async fn in_redis_cluster() {
            let cluster = RedisCluster::start().await;
            let url = cluster.url();
            let opened = connected(&url, cluster).await;
            $(
                println!(stringify!($test));
                $test(Arc::clone(&opened.store)).await;
            )*
        }
    };
}

over_all_stores! {
    a_commit_needs_the_version_and_free_marks
    of_many_from_the_same_version_one_is_committed
    a_conflict_over_one_of_many_marks_sets_none
    contexts_have_marks_of_their_own
    versions_and_marks_survive_a_reset
    a_reset_of_the_application_spares_others
    no_names_run_together
    a_large_state_comes_back_as_it_was
    versions_are_as_loaded
    it_does_what_the_model_does
}

/// Each test has applications of its own, since in a cluster they share their store.
fn key(application: &str, context: &str) -> StateKey {
    StateKey { application: application.into(), context: context.into() }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

/// Of a decision made when the tests began.
fn mark(row: u32) -> Mark {
    static BEGAN: LazyLock<u64> = LazyLock::new(now_ms);
    Mark { decision: DecisionId::new(*BEGAN, [1; 3], 0, [2; 16]), row }
}

fn commit(key: &StateKey, expected: Version, rows: &[u32], state: &[u8]) -> Commit {
    Commit {
        key: key.clone(),
        expected,
        state: Bytes::copy_from_slice(state),
        marks: rows.iter().map(|row| mark(*row)).collect(),
        commit_id: rand::random(),
        time_ms: now_ms(),
        window: Duration::from_secs(6 * 3600),
    }
}

/// Makes a commit that must hold, and hands its id back.
async fn committed(store: &Store, commit: Commit) -> u128 {
    let (id, number) = (commit.commit_id, commit.expected.number + 1);
    assert_eq!(store.commit(commit).await.unwrap(), CommitOutcome::Committed(number));
    id
}

async fn version(store: &Store, key: &StateKey) -> Version {
    store.load(key.clone()).await.unwrap().map_or(Version::NONE, |stored| stored.version)
}

async fn a_commit_needs_the_version_and_free_marks(store: Store) {
    let key = key("cas", "");
    assert_eq!(store.load(key.clone()).await.unwrap(), None);
    let one = committed(&store, commit(&key, Version::NONE, &[0], b"one")).await;
    let first = version(&store, &key).await;
    assert_eq!(first.number, 1);
    let conflict = CommitOutcome::Conflict;
    // Somebody was first; somebody applied it; nobody made so many commits.
    for (expected, row) in
        [(Version::NONE, 1), (first, 0), (Version { number: 7, commit_id: first.commit_id }, 1)]
    {
        let commit = commit(&key, expected, &[row], b"no");
        assert_eq!(store.commit(commit).await.unwrap(), conflict, "{expected:?} {row}");
    }
    let two = committed(&store, commit(&key, first, &[1], b"two")).await;
    let Stored { version, state } = store.load(key.clone()).await.unwrap().unwrap();
    assert_eq!((version.number, &*state), (2, &b"two"[..]));
    let marks = store.marked(key, vec![mark(1), mark(5), mark(0)]).await.unwrap();
    assert_eq!(marks, [Some(two), None, Some(one)]);
}

async fn of_many_from_the_same_version_one_is_committed(store: Store) {
    let key = key("many", "");
    let commits = (0..32).map(|row| store.commit(commit(&key, Version::NONE, &[row], b"s")));
    let outcomes: Vec<_> =
        futures::future::join_all(commits).await.into_iter().map(Result::unwrap).collect();
    let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
    assert_eq!((count(CommitOutcome::Committed(1)), count(CommitOutcome::Conflict)), (1, 31));
    let marks = store.marked(key, (0..32).map(mark).collect()).await.unwrap();
    let set = marks.iter().position(Option::is_some).unwrap();
    assert_eq!(outcomes[set], CommitOutcome::Committed(1));
    assert_eq!(marks.iter().flatten().count(), 1);
}

/// More marks than Lua takes arguments.
async fn a_conflict_over_one_of_many_marks_sets_none(store: Store) {
    let key = key("marks", "c");
    committed(&store, commit(&key, Version::NONE, &[4_321], b"s")).await;
    let first = version(&store, &key).await;
    let all: Vec<u32> = (0..10_000).collect();
    let outcome = store.commit(commit(&key, first, &all, b"no")).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Conflict);
    let set = store.marked(key.clone(), all.iter().copied().map(mark).collect()).await.unwrap();
    assert_eq!(set.iter().flatten().count(), 1);
    let others: Vec<u32> = all.into_iter().filter(|row| *row != 4_321).collect();
    let id = committed(&store, commit(&key, first, &others, b"yes")).await;
    let set = store.marked(key, others.iter().copied().map(mark).collect()).await.unwrap();
    assert!(set.iter().all(|set| *set == Some(id)));
}

async fn contexts_have_marks_of_their_own(store: Store) {
    for context in ["", "c", "d"] {
        committed(&store, commit(&key("own", context), Version::NONE, &[0], b"s")).await;
    }
    let marked = store.marked(key("own", "e"), vec![mark(0)]).await.unwrap();
    assert_eq!(marked, [None]);
    assert_eq!(store.marked(key("own", "d"), vec![]).await.unwrap(), []);
}

async fn versions_and_marks_survive_a_reset(store: Store) {
    let (own, one, other) = (key("reset", ""), key("reset", "c"), key("reset", "d"));
    for key in [&own, &one, &other] {
        committed(&store, commit(key, Version::NONE, &[0], b"s")).await;
    }
    let before = version(&store, &other).await;
    store.reset("reset".into(), Some("c".into())).await.unwrap();
    assert_eq!(store.load(one.clone()).await.unwrap(), None);
    assert!(store.load(own.clone()).await.unwrap().is_some());
    store.reset("reset".into(), None).await.unwrap();
    for key in [&own, &one, &other] {
        assert_eq!(store.load(key.clone()).await.unwrap(), None);
    }
    let marks = store.marked(other.clone(), vec![mark(0)]).await.unwrap();
    assert!(marks[0].is_some());
    // Computed before the reset; applied before the reset.
    for (expected, row) in [(before, 1), (Version::NONE, 0)] {
        let outcome = store.commit(commit(&other, expected, &[row], b"t")).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Conflict);
    }
    for key in [&own, &one, &other] {
        let outcome = store.commit(commit(key, Version::NONE, &[1], b"t")).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Committed(2), "{key:?}");
    }
    // The application alone, and not its contexts.
    store.reset("reset".into(), Some("".into())).await.unwrap();
    assert_eq!(version(&store, &own).await, Version::NONE);
    assert_eq!(version(&store, &one).await.number, 2);
}

async fn a_reset_of_the_application_spares_others(store: Store) {
    let others = [key("spar", "e"), key("spared", ""), key("", "spare"), key("spared", "x")];
    committed(&store, commit(&key("spare", "d"), Version::NONE, &[0], b"s")).await;
    for key in &others {
        committed(&store, commit(key, Version::NONE, &[0], b"s")).await;
    }
    store.reset("spare".into(), None).await.unwrap();
    assert_eq!(version(&store, &key("spare", "d")).await, Version::NONE);
    for key in &others {
        assert_eq!(version(&store, key).await.number, 1, "{key:?}");
    }
}

async fn no_names_run_together(store: Store) {
    let names = ["", "}", "{", "a", "ab", "b", "}{", "a\0", "\u{1f600}", "{user}:s"];
    let keys = names.iter().flat_map(|one| names.iter().map(|other| key(one, other)));
    let keys: Vec<_> = keys.collect();
    for (number, key) in keys.iter().enumerate() {
        let state = number.to_string();
        committed(&store, commit(key, Version::NONE, &[0], state.as_bytes())).await;
    }
    for (number, key) in keys.iter().enumerate() {
        let stored = store.load(key.clone()).await.unwrap().unwrap();
        assert_eq!(stored.state, number.to_string().as_bytes(), "{key:?}");
    }
}

async fn a_large_state_comes_back_as_it_was(store: Store) {
    let mut state = vec![0_u8; 1 << 20];
    SmallRng::seed_from_u64(1).fill_bytes(&mut state);
    let key = key("large", "");
    committed(&store, commit(&key, Version::NONE, &[0], &state)).await;
    assert!(store.load(key).await.unwrap().unwrap().state == state);
}

async fn versions_are_as_loaded(store: Store) {
    let contexts: Vec<Arc<str>> = ["", "c", "unknown", "reset", "d"].map(Arc::from).to_vec();
    for context in ["", "c", "reset", "d"] {
        committed(&store, commit(&key("seen", context), Version::NONE, &[0], b"s")).await;
    }
    let own = version(&store, &key("seen", "")).await;
    committed(&store, commit(&key("seen", ""), own, &[1], b"t")).await;
    store.reset("seen".into(), Some("reset".into())).await.unwrap();
    let loaded = async |context: &Arc<str>| version(&store, &key("seen", context)).await;
    for again in 0..2 {
        let versions = store.versions("seen".into(), contexts.clone()).await.unwrap();
        for (context, version) in contexts.iter().zip(&versions) {
            assert_eq!(loaded(context).await, *version, "{context}");
        }
        let numbers: Vec<_> = versions.iter().map(|version| version.number).collect();
        assert_eq!(numbers, [[2, 1, 0, 0, 1], [0; 5]][again]);
        store.reset("seen".into(), None).await.unwrap();
    }
    assert_eq!(store.versions("seen".into(), vec![]).await.unwrap(), []);
}

/// Random calls, beside those to a store in memory: outcomes, numbers and states are the same.
async fn it_does_what_the_model_does(store: Store) {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let model: Store = Arc::new(MemoryStore::new());
    let pick = |rng: &mut SmallRng| {
        key(["p", "q"][rng.random_range(0..2)], ["", "c", "d"][rng.random_range(0..3)])
    };
    // By key: versions as each of the two had them.
    let mut seen = std::collections::HashMap::<StateKey, Vec<(Version, Version)>>::new();
    for step in 0..600_u32 {
        let key = pick(&mut rng);
        match rng.random_range(0..10) {
            0 => {
                let context = Some(Arc::clone(&key.context)).filter(|_| rng.random());
                for store in [&store, &model] {
                    store.reset(Arc::clone(&key.application), context.clone()).await.unwrap();
                }
            }
            1..3 => {
                let marks: Vec<_> = (0..40).map(mark).collect();
                let (ours, theirs) = (
                    store.marked(key.clone(), marks.clone()).await.unwrap(),
                    model.marked(key.clone(), marks).await.unwrap(),
                );
                assert_eq!(ours, theirs, "step {step}");
            }
            _ => {
                let mut known = seen.get(&key).cloned().unwrap_or_default();
                let latest = (version(&store, &key).await, version(&model, &key).await);
                known.push(latest);
                // Mostly the latest one, so that most commits hold.
                let chosen = match rng.random_range(0..4) {
                    0 => known[rng.random_range(0..known.len())],
                    _ => latest,
                };
                let rows: Vec<_> = (0..rng.random_range(0..3))
                    .map(|_| if rng.random() { rng.random_range(0..40) } else { step + 100 })
                    .collect::<std::collections::BTreeSet<u32>>()
                    .into_iter()
                    .collect();
                let ours = commit(&key, chosen.0, &rows, &step.to_le_bytes());
                let theirs = Commit { expected: chosen.1, ..ours.clone() };
                let outcome = store.commit(ours).await.unwrap();
                assert_eq!(outcome, model.commit(theirs).await.unwrap(), "step {step}: {chosen:?}");
                seen.insert(key.clone(), known);
            }
        }
        let state = |stored: Option<Stored>| stored.map(|one| (one.version.number, one.state));
        let ours = state(store.load(key.clone()).await.unwrap());
        assert_eq!(ours, state(model.load(key).await.unwrap()), "step {step}");
    }
}
