//! The transactional file, and the one thread that writes to it.
//!
//! Whoever wants to write [submits](StateFile::submit) a function of the transaction. The thread
//! takes all that wait, runs them in one transaction and makes them durable by one commit. While
//! it does, the next ones gather: under load the groups grow by themselves.
//!
//! Reads run where they are called. They take no lock that a commit holds, and touch a handful of
//! pages, which lie in the cache of redb or of the system: a few microseconds, less than handing
//! them to another thread would cost.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use redb::{ReadTransaction, TableDefinition, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{file::database::Databases, selection::EmbeddedStore};

mod database;
#[cfg(test)]
mod tests;
mod writer;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "state.redb";

/// Changes that may wait; the next caller waits for a place.
const MAX_WAITING: usize = 4096;

/// How long a group of several is held open for as many as the group before it had.
const LINGER: Duration = Duration::from_millis(2);

const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The state could not be kept or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another process has it.
    #[error(
        "{path} is in use by {holder}, probably another `skysail serve` on the same data \
         directory: stop that one, or give this one a directory of its own with --data-dir"
    )]
    InUse {
        /// The file.
        path: Arc<str>,
        /// Who may hold it.
        holder: Arc<str>,
    },
    /// It cannot be opened.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file or its directory.
        path: Arc<str>,
        /// Why.
        cause: Arc<str>,
    },
    /// A newer Skysail wrote it.
    #[error("{path} has format {found}, but this version of Skysail knows formats up to {FORMAT}")]
    Format {
        /// The file.
        path: Arc<str>,
        /// Its format.
        found: u64,
    },
    /// Reading or writing failed. What was to be written may or may not be there.
    #[error("the state file failed: {0}")]
    Disk(Arc<str>),
    /// An entry is not what it should be.
    #[error("the state file holds a broken entry: {0}")]
    Broken(Arc<str>),
    /// It was closed before.
    #[error("the state file is closed")]
    Closed,
}

impl StateError {
    pub(super) fn disk(error: impl fmt::Display) -> Self {
        Self::Disk(error.to_string().into())
    }
}

/// What the writer did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Changes that were made durable.
    pub changes: u64,
    /// Groups they were made durable in.
    pub groups: u64,
    /// Changes that failed with their group.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    changes: AtomicU64,
    groups: AtomicU64,
    failed: AtomicU64,
}

/// The state file. Cloning it shares it; the last clone closes it.
#[derive(Clone, Debug)]
pub struct StateFile {
    inner: Arc<Inner>,
}

struct Inner {
    databases: Arc<Databases>,
    counters: Arc<Counters>,
    places: Arc<Semaphore>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A change that waits, with its place.
struct Job {
    change: Change,
    _place: OwnedSemaphorePermit,
}

/// Runs in the group's transaction; what it returns is called when the group's end is known.
/// `Err` says that there is no transaction.
type Change = Box<dyn FnOnce(Result<&WriteTransaction, StateError>) -> Done + Send>;

/// What became of one change, before and after its group's commit.
struct Done {
    failed: Option<StateError>,
    reply: Box<dyn FnOnce(Result<(), StateError>) + Send>,
}

impl StateFile {
    /// Opens `state.redb` in the data directory; makes both where they are missing.
    ///
    /// # Errors
    ///
    /// [`StateError::InUse`] where another process has it open; it or the directory cannot be
    /// made or read.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(data_dir).map_err(|error| StateError::Open {
            path: data_dir.display().to_string().into(),
            cause: error.to_string().into(),
        })?;
        let path: PathBuf = data_dir.join(FILE_NAME);
        Self::start(Databases::open(database::File(path))?)
    }

    fn start(databases: Databases) -> Result<Self, StateError> {
        let databases = Arc::new(databases);
        let counters = Arc::new(Counters::default());
        let (jobs, waiting) = mpsc::channel();
        let writer = writer::Writer::new(Arc::clone(&databases), Arc::clone(&counters), waiting);
        let thread = std::thread::Builder::new()
            .name("skysail-state".into())
            .spawn(move || writer.run())
            .map_err(StateError::disk)?;
        Ok(Self {
            inner: Arc::new(Inner {
                databases,
                counters,
                places: Arc::new(Semaphore::new(MAX_WAITING)),
                jobs: Mutex::new(Some(jobs)),
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// The selection's store over this file.
    pub fn selection_store(&self) -> Arc<dyn skysail_selection::SelectionStore> {
        Arc::new(EmbeddedStore::new(self.clone()))
    }

    /// Makes a change together with others that wait, and returns when it is durable.
    ///
    /// The change must look before it writes: what it returns as `Ok` stands, also a refusal; an
    /// `Err` takes the whole group back.
    ///
    /// # Errors
    ///
    /// The group could not be made durable; the file is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the change is made or not.
    pub async fn submit<T, F>(&self, change: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTransaction) -> Result<T, StateError> + Send + 'static,
    {
        let places = Arc::clone(&self.inner.places);
        let place = places.acquire_owned().await.map_err(|_| StateError::Closed)?;
        let (sender, receiver) = oneshot::channel();
        let change: Change = Box::new(move |transaction| {
            let result = transaction.and_then(change);
            let failed = result.as_ref().err().cloned();
            let reply = move |committed: Result<(), StateError>| {
                // Whoever does not wait any more does not need it.
                let _ = sender.send(result.and_then(|value| committed.map(|()| value)));
            };
            Done { failed, reply: Box::new(reply) }
        });
        let job = Job { change, _place: place };
        match &*self.inner.jobs.lock() {
            Some(jobs) => jobs.send(job).map_err(|_| StateError::Closed)?,
            None => return Err(StateError::Closed),
        }
        receiver.await.map_err(|_| StateError::Closed)?
    }

    /// Reads what is committed now.
    ///
    /// # Errors
    ///
    /// It cannot be read; the file is closed.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.inner.databases.with(|database| {
            let transaction = redb::ReadableDatabase::begin_read(database);
            read(&transaction.map_err(StateError::disk)?)
        })
    }

    /// What the writer did so far.
    pub fn stats(&self) -> StateStats {
        let counters = &self.inner.counters;
        StateStats {
            changes: counters.changes.load(Ordering::Relaxed),
            groups: counters.groups.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
        }
    }

    /// Makes all that waits durable, and closes the file. Later calls find it closed.
    ///
    /// # Errors
    ///
    /// The writer's thread had failed.
    pub async fn close(&self) -> Result<(), StateError> {
        let inner = Arc::clone(&self.inner);
        let joined = tokio::task::spawn_blocking(move || inner.end()).await;
        joined.map_err(StateError::disk)?
    }
}

impl Inner {
    /// The thread ends when it has done what was sent before.
    fn end(&self) -> Result<(), StateError> {
        drop(self.jobs.lock().take());
        match self.thread.lock().take().map(JoinHandle::join) {
            Some(Err(_)) => Err(StateError::Disk("the writer's thread panicked".into())),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "closing the state file");
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateFile").field("databases", &self.databases).finish_non_exhaustive()
    }
}
