//! Compare-and-swap, marks, resets; and that kill -9 takes nothing that was acknowledged.

use std::collections::HashMap;

use skysail_selection::DecisionId;

use super::*;
use crate::state::child;

fn key(context: &str) -> StateKey {
    StateKey { application: "a".into(), context: context.into() }
}

fn mark(time_ms: u64, row: u32) -> Mark {
    Mark { decision: DecisionId::new(time_ms, [1; 3], 0, [2; 16]), row }
}

fn commit(context: &str, expected: u64, marks: Vec<Mark>, state: &[u8]) -> Commit {
    let state = Bytes::copy_from_slice(state);
    Commit {
        key: key(context),
        expected: one_history(expected),
        state,
        marks,
        commit_id: 7,
        time_ms: 1,
        window: std::time::Duration::from_secs(3600),
    }
}

fn open() -> (tempfile::TempDir, StateFile, EmbeddedStore) {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(directory.path()).unwrap();
    let store = EmbeddedStore::new(file.clone());
    (directory, file, store)
}

/// What all stores do is in tests/state_stores.rs; this is about the file.
#[tokio::test]
async fn what_was_committed_is_there_when_it_is_opened_again() {
    let (directory, file, store) = open();
    store.commit(commit("", 0, vec![mark(1, 0)], b"one")).await.unwrap();
    store.commit(commit("", 1, vec![mark(1, 1)], b"more")).await.unwrap();
    file.close().await.unwrap();
    let store = EmbeddedStore::new(StateFile::open(directory.path()).unwrap());
    let stored = Stored { version: one_history(2), state: Bytes::from_static(b"more") };
    assert_eq!(store.load(key("")).await.unwrap(), Some(stored));
    let marks = vec![mark(1, 0), mark(1, 1), mark(1, 5)];
    assert_eq!(store.marked(key(""), marks).await.unwrap(), [Some(7), Some(7), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_come_together_are_grouped() {
    let (_directory, file, store) = open();
    let commits = (0..32).map(|row| store.commit(commit("", 0, vec![mark(1, row)], b"s")));
    for outcome in futures::future::join_all(commits).await {
        outcome.unwrap();
    }
    assert!(file.stats().groups < 32, "{:?}", file.stats());
}

#[tokio::test]
async fn marks_are_trimmed_by_the_time_of_their_decision() {
    let (_directory, file, store) = open();
    let many: Vec<_> = (0..TRIM_AT_ONCE as u32 + 10).map(|row| mark(10, row)).collect();
    store.commit(commit("", 0, many, b"s")).await.unwrap();
    store.commit(commit("c", 0, vec![mark(10, 0), mark(20, 0)], b"s")).await.unwrap();
    let other = Commit {
        key: StateKey { application: "b".into(), context: "".into() },
        ..commit("", 0, vec![mark(10, 0)], b"s")
    };
    store.commit(other.clone()).await.unwrap();

    assert_eq!(file.trim_marks("a", 10).await.unwrap(), 0);
    assert_eq!(file.trim_marks("a", 11).await.unwrap(), TRIM_AT_ONCE as u64 + 11);
    let left = store.marked(key("c"), vec![mark(10, 0), mark(20, 0)]).await.unwrap();
    assert_eq!(left, [None, Some(7)]);
    assert_eq!(store.marked(other.key, vec![mark(10, 0)]).await.unwrap(), [Some(7)]);
    assert_eq!(file.trim_marks("a", u64::MAX).await.unwrap(), 1);
}

const CALLERS: u64 = 8;

fn count(stored: &Stored) -> u64 {
    u64::from_be_bytes(stored.state.as_ref().try_into().unwrap())
}

/// Not a test of its own: what `kill_nine_takes_nothing` runs and kills. Each caller counts in a
/// context of its own, one commit and one mark per step, and says how far it is.
#[tokio::test]
async fn counts_until_it_is_killed() {
    let Some((directory, _)) = child::task() else { return };
    let store = EmbeddedStore::new(StateFile::open(&directory).unwrap());
    let count = async |caller: u64| {
        let context = caller.to_string();
        loop {
            let stored = store.load(key(&context)).await.unwrap();
            let (version, counted) = stored.map_or((0, 0), |one| (one.version.number, count(&one)));
            let next = counted + 1;
            let step = commit(&context, version, vec![mark(next, 0)], &next.to_be_bytes());
            let outcome = store.commit(step).await.unwrap();
            assert_eq!(outcome, CommitOutcome::Committed(next));
            child::acknowledge(&format!("{caller} {next}"));
        }
    };
    futures::future::join_all((0..CALLERS).map(count)).await;
}

#[tokio::test]
async fn kill_nine_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..5 {
        let after = rand::random_range(1..150);
        println!("round {round}: killed after {after} acknowledged commits");
        let test = "state::selection::tests::counts_until_it_is_killed";
        for line in child::killed(test, directory.path(), round, after) {
            let (caller, step) = line.split_once(' ').unwrap();
            acknowledged.insert(caller.to_owned(), step.parse::<u64>().unwrap());
        }
        let file = StateFile::open(directory.path()).unwrap();
        let store = EmbeddedStore::new(file.clone());
        for caller in 0..CALLERS {
            let context = caller.to_string();
            let last = acknowledged.get(&context).copied().unwrap_or(0);
            let Some(stored) = store.load(key(&context)).await.unwrap() else {
                assert_eq!(last, 0);
                continue;
            };
            let counted = count(&stored);
            // One more may have been under way, or made and not acknowledged.
            assert!((last..=last + 1).contains(&counted), "{context}: {counted}, not {last}");
            assert_eq!(stored.version.number, counted, "a step was taken twice");
            let marks: Vec<_> = (1..=counted + 1).map(|step| mark(step, 0)).collect();
            let marks = store.marked(key(&context), marks).await.unwrap();
            let (beyond, set) = marks.split_last().unwrap();
            assert!(set.iter().all(Option::is_some), "{context}: a mark is lost");
            assert_eq!(*beyond, None, "{context}: a mark without its state");
            // What was seen to survive must survive the next one, too.
            acknowledged.insert(context, counted);
        }
        file.close().await.unwrap();
    }
}
