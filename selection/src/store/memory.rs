//! A store and a log in memory: for tests, and for whoever wants to keep nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    BoxFuture, Commit, CommitOutcome, DecisionLog, Mark, SelectionStore, StateKey, StoreError,
    Stored, Version,
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
    version: Version,
    state: Option<Bytes>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is empty from now on, its versions too: as a store that was given a backup, or whose replica
    /// took over too early.
    pub fn lose_everything(&self) {
        *self.kept.lock() = Kept::default();
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
        let current = self.version(&commit.key);
        let marked = |mark: &Mark| self.marks.contains_key(&(commit.key.clone(), *mark));
        if current != commit.expected || commit.marks.iter().any(marked) {
            return CommitOutcome::Conflict;
        }
        for mark in commit.marks {
            self.marks.insert((commit.key.clone(), mark), commit.commit_id);
        }
        let entry = self.states.entry(commit.key).or_default();
        let number = entry.version.number + 1;
        entry.version = Version { number, commit_id: commit.commit_id };
        entry.state = Some(commit.state);
        CommitOutcome::Committed(number)
    }

    fn version(&self, key: &StateKey) -> Version {
        self.load(key).map_or(Version::NONE, |stored| stored.version)
    }
}

impl SelectionStore for MemoryStore {
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>> {
        ready(self.kept.lock().load(&key))
    }

    fn versions(
        &self,
        application: Arc<str>,
        contexts: Vec<Arc<str>>,
    ) -> BoxFuture<Result<Vec<Version>, StoreError>> {
        let kept = self.kept.lock();
        let version =
            |context| kept.version(&StateKey { application: Arc::clone(&application), context });
        ready(contexts.into_iter().map(version).collect())
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

    fn fullness(&self) -> f64 {
        self.kept.lock().order.len() as f64 / self.capacity as f64
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
