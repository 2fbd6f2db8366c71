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
    Commit { key: key(context), expected, state, marks, commit_id: 7, time_ms: 1 }
}

fn open() -> (tempfile::TempDir, StateFile, EmbeddedStore) {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(directory.path()).unwrap();
    let store = EmbeddedStore::new(file.clone());
    (directory, file, store)
}

#[tokio::test]
async fn a_commit_needs_the_version_and_free_marks() {
    let (directory, file, store) = open();
    assert_eq!(store.load(key("")).await.unwrap(), None);
    let first = store.commit(commit("", 0, vec![mark(1, 0)], b"one")).await.unwrap();
    assert_eq!(first, CommitOutcome::Committed(1));
    // Somebody was first; somebody applied it; another context is another state.
    for (context, expected, row, outcome) in [
        ("", 0, 1, CommitOutcome::Conflict),
        ("", 1, 0, CommitOutcome::Conflict),
        ("c", 0, 0, CommitOutcome::Committed(1)),
        ("", 1, 1, CommitOutcome::Committed(2)),
    ] {
        let commit = commit(context, expected, vec![mark(1, row)], b"more");
        assert_eq!(store.commit(commit).await.unwrap(), outcome, "{context} {expected} {row}");
    }
    // A conflict over one mark sets none of the others.
    let both = commit("", 2, vec![mark(1, 5), mark(1, 1)], b"no");
    assert_eq!(store.commit(both).await.unwrap(), CommitOutcome::Conflict);

    file.close().await.unwrap();
    let file = StateFile::open(directory.path()).unwrap();
    let store = EmbeddedStore::new(file);
    let stored = Stored { version: 2, state: Bytes::from_static(b"more") };
    assert_eq!(store.load(key("")).await.unwrap(), Some(stored));
    let marks = vec![mark(1, 0), mark(1, 1), mark(1, 5)];
    assert_eq!(store.marked(key(""), marks).await.unwrap(), [Some(7), Some(7), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_from_the_same_version_one_is_committed() {
    let (_directory, file, store) = open();
    let commits = (0..32).map(|row| store.commit(commit("", 0, vec![mark(1, row)], b"s")));
    let outcomes: Vec<_> =
        futures::future::join_all(commits).await.into_iter().map(Result::unwrap).collect();
    let committed = outcomes.iter().filter(|outcome| **outcome == CommitOutcome::Committed(1));
    assert_eq!(committed.count(), 1);
    let conflicts = outcomes.iter().filter(|outcome| **outcome == CommitOutcome::Conflict);
    assert_eq!(conflicts.count(), 31);
    assert!(file.stats().groups < 32, "{:?}", file.stats());
}

#[tokio::test]
async fn versions_and_marks_survive_a_reset() {
    let (_directory, _file, store) = open();
    for context in ["", "c", "d"] {
        store.commit(commit(context, 0, vec![mark(1, 0)], b"s")).await.unwrap();
    }
    let other = Commit {
        key: StateKey { application: "ab".into(), context: "".into() },
        ..commit("", 0, vec![], b"other")
    };
    store.commit(other.clone()).await.unwrap();

    store.reset("a".into(), Some("c".into())).await.unwrap();
    assert_eq!(store.load(key("c")).await.unwrap(), None);
    assert!(store.load(key("d")).await.unwrap().is_some());
    store.reset("a".into(), None).await.unwrap();
    for context in ["", "c", "d"] {
        assert_eq!(store.load(key(context)).await.unwrap(), None);
    }
    assert!(store.load(other.key).await.unwrap().is_some());

    // Computed before the reset; applied before the reset; computed after it.
    for (expected, row, outcome) in [
        (1, 1, CommitOutcome::Conflict),
        (0, 0, CommitOutcome::Conflict),
        (0, 1, CommitOutcome::Committed(2)),
    ] {
        let commit = commit("d", expected, vec![mark(1, row)], b"t");
        assert_eq!(store.commit(commit).await.unwrap(), outcome);
    }
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
            let (version, counted) = stored.map_or((0, 0), |one| (one.version, count(&one)));
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
            assert_eq!(stored.version, counted, "a step was taken twice");
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
