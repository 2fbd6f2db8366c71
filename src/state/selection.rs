//! Selection state and the marks of applied feedback, in the state file.

use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use skysail_selection::{
    SelectionStore,
    store::{BoxFuture, Commit, CommitOutcome, Mark, StateKey, StoreError, Stored, Version},
};

use super::{StateError, StateFile, key};

/// [`key::state`] to the version of the latest commit and the state; no state after a reset.
const STATES: TableDefinition<'_, &[u8], (u64, Option<&[u8]>)> = TableDefinition::new("states");

/// [`key::mark`] to the commit's id and time.
const MARKS: TableDefinition<'_, &[u8], (u128, u64)> = TableDefinition::new("marks");

/// Marks that one transaction removes at most, so that commits beside it are not held up.
const TRIM_AT_ONCE: usize = 2048;

pub(super) fn create(transaction: &WriteTransaction) -> Result<(), StateError> {
    transaction.open_table(STATES).map_err(StateError::disk)?;
    transaction.open_table(MARKS).map_err(StateError::disk)?;
    Ok(())
}

/// A [`SelectionStore`] over the state file.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    file: StateFile,
}

impl EmbeddedStore {
    /// Over this file.
    pub fn new(file: StateFile) -> Self {
        Self { file }
    }
}

impl From<StateError> for StoreError {
    fn from(error: StateError) -> Self {
        Self(error.to_string().into())
    }
}

impl SelectionStore for EmbeddedStore {
    fn load(&self, key: StateKey) -> BoxFuture<Result<Option<Stored>, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move { Ok(file.load_state(&key)?) })
    }

    fn versions(
        &self,
        application: Arc<str>,
        contexts: Vec<Arc<str>>,
    ) -> BoxFuture<Result<Vec<Version>, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move {
            let version = |context| {
                let key = StateKey { application: Arc::clone(&application), context };
                Ok(file.load_state(&key)?.map_or(Version::NONE, |stored| stored.version))
            };
            contexts.into_iter().map(version).collect()
        })
    }

    fn marked(
        &self,
        key: StateKey,
        marks: Vec<Mark>,
    ) -> BoxFuture<Result<Vec<Option<u128>>, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move { Ok(file.marked(&key, &marks)?) })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<Result<CommitOutcome, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move {
            Ok(file.submit(move |transaction| commit_state(transaction, &commit)).await?)
        })
    }

    fn reset(
        &self,
        application: Arc<str>,
        context: Option<Arc<str>>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let file = self.file.clone();
        Box::pin(async move {
            let change = move |transaction: &WriteTransaction| {
                reset(transaction, &application, context.as_deref())
            };
            Ok(file.submit(change).await?)
        })
    }
}

/// The file loses nothing that it acknowledged, so the number says it all.
fn one_history(number: u64) -> Version {
    Version { number, commit_id: 0 }
}

impl StateFile {
    fn load_state(&self, key: &StateKey) -> Result<Option<Stored>, StateError> {
        self.read(|transaction| {
            let states = transaction.open_table(STATES).map_err(StateError::disk)?;
            let entry = states.get(&*key::state(key)).map_err(StateError::disk)?;
            Ok(entry.and_then(|entry| {
                let (version, state) = entry.value();
                let state = Bytes::copy_from_slice(state?);
                Some(Stored { version: one_history(version), state })
            }))
        })
    }

    fn marked(&self, key: &StateKey, marks: &[Mark]) -> Result<Vec<Option<u128>>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(MARKS).map_err(StateError::disk)?;
            let find = |mark| {
                let entry = table.get(&*key::mark(key, mark)).map_err(StateError::disk)?;
                Ok(entry.map(|entry| entry.value().0))
            };
            marks.iter().map(find).collect()
        })
    }

    /// Forgets the marks of an application's decisions made before that time (in milliseconds
    /// since the Unix epoch), and says how many those were. In small transactions, so that
    /// commits go on beside it; each reads only what it removes.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn trim_marks(
        &self,
        application: &str,
        older_than_ms: u64,
    ) -> Result<u64, StateError> {
        let from = key::marks_from(application, 0);
        let to = key::marks_from(application, older_than_ms);
        let mut trimmed = 0;
        loop {
            let (from, to) = (from.clone(), to.clone());
            let removed = self.submit(move |transaction| trim(transaction, &from, &to)).await?;
            trimmed += removed as u64;
            if removed < TRIM_AT_ONCE {
                return Ok(trimmed);
            }
        }
    }
}

/// Looks at everything before it writes anything: a conflict leaves no trace in the group.
fn commit_state(
    transaction: &WriteTransaction,
    commit: &Commit,
) -> Result<CommitOutcome, StateError> {
    let mut states = transaction.open_table(STATES).map_err(StateError::disk)?;
    let mut marks = transaction.open_table(MARKS).map_err(StateError::disk)?;
    let key = key::state(&commit.key);
    let (version, current) = match states.get(&*key).map_err(StateError::disk)? {
        Some(entry) => {
            let (version, state) = entry.value();
            (version, state.map_or(0, |_| version))
        }
        None => (0, 0),
    };
    if current != commit.expected.number {
        return Ok(CommitOutcome::Conflict);
    }
    let keys: Vec<_> = commit.marks.iter().map(|mark| key::mark(&commit.key, mark)).collect();
    for key in &keys {
        if marks.get(&**key).map_err(StateError::disk)?.is_some() {
            return Ok(CommitOutcome::Conflict);
        }
    }
    for key in &keys {
        marks.insert(&**key, (commit.commit_id, commit.time_ms)).map_err(StateError::disk)?;
    }
    let version = version + 1;
    states.insert(&*key, (version, Some(&*commit.state))).map_err(StateError::disk)?;
    Ok(CommitOutcome::Committed(version))
}

/// The versions stay, so that none is ever given twice.
fn reset(
    transaction: &WriteTransaction,
    application: &str,
    context: Option<&str>,
) -> Result<(), StateError> {
    let mut states = transaction.open_table(STATES).map_err(StateError::disk)?;
    let keys = match context {
        Some(context) => {
            vec![key::state(&StateKey { application: application.into(), context: context.into() })]
        }
        None => {
            let first = key::application(application);
            let mut keys = Vec::new();
            for entry in states.range(&*first..).map_err(StateError::disk)? {
                let (key, _) = entry.map_err(StateError::disk)?;
                if !key.value().starts_with(&first) {
                    break;
                }
                keys.push(key.value().to_vec());
            }
            keys
        }
    };
    for key in keys {
        let version = states.get(&*key).map_err(StateError::disk)?.map(|entry| entry.value().0);
        if let Some(version) = version {
            states.insert(&*key, (version, None)).map_err(StateError::disk)?;
        }
    }
    Ok(())
}

fn trim(transaction: &WriteTransaction, from: &[u8], to: &[u8]) -> Result<usize, StateError> {
    let mut marks = transaction.open_table(MARKS).map_err(StateError::disk)?;
    let mut keys = Vec::new();
    for entry in marks.range(from..to).map_err(StateError::disk)?.take(TRIM_AT_ONCE) {
        keys.push(entry.map_err(StateError::disk)?.0.value().to_vec());
    }
    for key in &keys {
        marks.remove(&**key).map_err(StateError::disk)?;
    }
    Ok(keys.len())
}

#[cfg(test)]
mod tests;
