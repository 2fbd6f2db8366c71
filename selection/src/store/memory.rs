//! A store and a log in memory: for tests, and for whoever wants to keep nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    BoxFuture, Commit, CommitOutcome, DecisionLog, Mark, SelectionStore, StateKey, StoreError,
    Stored,
};
use crate::{DecisionId, DecisionRecord};

/// Keeps state and marks until the process ends. Marks are never trimmed.
#[derive(Debug, Default)]
pub struct MemoryStore {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    states: HashMap<StateKey, Entry>,
    marks: HashMap<(StateKey, Mark), u128>,
}

/// The version outlives a reset, so that a commit computed before it finds a conflict.
#[derive(Debug, Default)]
struct Entry {
    version: u64,
    state: Option<Bytes>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many marks are set, over all keys.
    pub fn marks(&self) -> usize {
        self.kept.lock().marks.len()
    }
}

impl Kept {
    fn load(&self, key: &StateKey) -> Option<Stored> {
        let entry = self.states.get(key)?;
        Some(Stored { version: entry.version, state: entry.state.clone()? })
    }

    fn commit(&mut self, commit: Commit) -> CommitOutcome {
        let current = self.load(&commit.key).map_or(0, |stored| stored.version);
        let marked = |mark: &Mark| self.marks.contains_key(&(commit.key.clone(), *mark));
        if current != commit.expected || commit.marks.iter().any(marked) {
            return CommitOutcome::Conflict;
        }
        for mark in commit.marks {
            self.marks.insert((commit.key.clone(), mark), commit.commit_id);
        }
        let entry = self.states.entry(commit.key).or_default();
        entry.version += 1;
        entry.state = Some(commit.state);
        CommitOutcome::Committed(entry.version)
    }
}

impl SelectionStore for MemoryStore {
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>> {
        ready(self.kept.lock().load(&key))
    }

    fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> BoxFuture<Result<Vec<Option<u128>>, StoreError>> {
        let kept = self.kept.lock();
        let find = |mark| kept.marks.get(&(key.clone(), mark)).copied();
        ready(marks.into_iter().map(find).collect())
    }

    fn commit(&self, commit: Commit) -> BoxFuture<Result<CommitOutcome, StoreError>> {
        ready(self.kept.lock().commit(commit))
    }

    fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> BoxFuture<Result<(), StoreError>> {
        for (key, entry) in &mut self.kept.lock().states {
            let meant = context.as_ref().is_none_or(|context| *context == key.context);
            if meant && key.application == application {
                entry.state = None;
            }
        }
        ready(())
    }
}

/// Keeps the latest records until the process ends.
#[derive(Debug)]
pub struct MemoryLog {
    capacity: usize,
    kept: Mutex<Records>,
}

#[derive(Debug, Default)]
struct Records {
    by_id: HashMap<DecisionId, Arc<DecisionRecord>>,
    order: VecDeque<DecisionId>,
    full: bool,
}

impl MemoryLog {
    /// One that forgets the oldest record when it holds `capacity` of them.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), kept: Mutex::default() }
    }

    /// Says from now on that there is no room, or that there is again.
    pub fn set_full(&self, full: bool) {
        self.kept.lock().full = full;
    }

    /// All that is kept, oldest first.
    pub fn records(&self) -> Vec<Arc<DecisionRecord>> {
        let kept = self.kept.lock();
        kept.order.iter().filter_map(|id| kept.by_id.get(id).cloned()).collect()
    }
}

impl DecisionLog for MemoryLog {
    fn has_room(&self) -> bool {
        !self.kept.lock().full
    }

    fn append(&self, record: Arc<DecisionRecord>) {
        let mut kept = self.kept.lock();
        if kept.order.len() == self.capacity
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.by_id.remove(&oldest);
        }
        let id = record.id;
        if kept.by_id.insert(id, record).is_none() {
            kept.order.push_back(id);
        }
    }

    fn find(&self, id: DecisionId) -> BoxFuture<Result<Option<Arc<DecisionRecord>>, StoreError>> {
        ready(self.kept.lock().by_id.get(&id).cloned())
    }
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(expected: u64, row: u32) -> Commit {
        let key = StateKey { application: "a".into(), context: "".into() };
        let mark = Mark { decision: DecisionId::from_bytes([1; 28]), row };
        let state = Bytes::from_static(b"s");
        Commit { key, expected, state, marks: vec![mark], commit_id: 7, time_ms: 0 }
    }

    #[tokio::test]
    async fn a_commit_needs_the_version_and_free_marks() {
        let store = MemoryStore::new();
        assert_eq!(store.commit(commit(0, 0)).await.unwrap(), CommitOutcome::Committed(1));
        assert_eq!(store.commit(commit(0, 1)).await.unwrap(), CommitOutcome::Conflict);
        assert_eq!(store.commit(commit(1, 0)).await.unwrap(), CommitOutcome::Conflict);
        assert_eq!(store.commit(commit(1, 1)).await.unwrap(), CommitOutcome::Committed(2));
        assert_eq!(store.marks(), 2);
    }

    #[tokio::test]
    async fn versions_and_marks_survive_a_reset() {
        let store = MemoryStore::new();
        let key = commit(0, 0).key;
        store.commit(commit(0, 0)).await.unwrap();
        store.reset("a".into(), None).await.unwrap();
        assert_eq!(store.load(key).await.unwrap(), None);
        assert_eq!(store.commit(commit(1, 1)).await.unwrap(), CommitOutcome::Conflict);
        assert_eq!(store.commit(commit(0, 0)).await.unwrap(), CommitOutcome::Conflict);
        assert_eq!(store.commit(commit(0, 1)).await.unwrap(), CommitOutcome::Committed(2));
    }
}
