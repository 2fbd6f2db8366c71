//! A store that fails as it is told, and keeps the order of what was committed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    SelectionStore,
    store::{
        BoxFuture, Commit, CommitOutcome, Mark, StateKey, StoreError, Stored, Version,
        memory::MemoryStore,
    },
};

/// What becomes of a commit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It is refused with an error.
    Refuse,
    /// It holds, and the reply is an error.
    LoseReply,
    /// It meets a conflict that there is not.
    Conflict,
}

#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<MemoryStore>,
    /// By context.
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    committed: Arc<Mutex<Vec<(StateKey, Mark)>>>,
}

impl FaultyStore {
    pub(super) fn over(inner: &Arc<MemoryStore>) -> Arc<Self> {
        let (faults, committed) = Default::default();
        Arc::new(Self { inner: Arc::clone(inner), faults, committed })
    }

    /// The next commits to that context.
    pub(super) fn fail(&self, context: &str, faults: &[Fault]) {
        self.faults.lock().entry(context.into()).or_default().extend(faults);
    }

    /// The marks of a context in the order of their commits.
    pub(super) fn committed(&self, context: &str) -> Vec<Mark> {
        let committed = self.committed.lock();
        let of = committed.iter().filter(|(key, _)| &*key.context == context);
        of.map(|(_, mark)| *mark).collect()
    }
}

impl SelectionStore for FaultyStore {
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>> {
        self.inner.load(key)
    }

    fn versions(
        &self,
        application: Arc<str>,
        contexts: Vec<Arc<str>>,
    ) -> BoxFuture<Result<Vec<Version>, StoreError>> {
        self.inner.versions(application, contexts)
    }

    fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> BoxFuture<Result<Vec<Option<u128>>, StoreError>> {
        self.inner.marked(key, marks)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<Result<CommitOutcome, StoreError>> {
        let fault = {
            let mut faults = self.faults.lock();
            faults.get_mut(&*commit.key.context).and_then(VecDeque::pop_front)
        };
        let (inner, committed) = (Arc::clone(&self.inner), Arc::clone(&self.committed));
        Box::pin(async move {
            match fault {
                Some(Fault::Refuse) => return Err(StoreError("refused".into())),
                Some(Fault::Conflict) => return Ok(CommitOutcome::Conflict),
                Some(Fault::LoseReply) | None => {}
            }
            // Others come in between, as they do where a commit is written to a disk.
            tokio::task::yield_now().await;
            let (key, marks) = (commit.key.clone(), commit.marks.clone());
            let outcome = inner.commit(commit).await?;
            if let CommitOutcome::Committed(_) = outcome {
                committed.lock().extend(marks.into_iter().map(|mark| (key.clone(), mark)));
            }
            match fault {
                Some(_) => Err(StoreError("the reply was lost".into())),
                None => Ok(outcome),
            }
        })
    }

    fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> BoxFuture<Result<(), StoreError>> {
        self.inner.reset(application, context)
    }
}
