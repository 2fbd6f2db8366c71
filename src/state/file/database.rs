//! The database behind the state file, opened again after the disk failed.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use redb::{Database, DatabaseError, ReadableTable};

use super::{FORMAT, META, StateError};

/// Bytes of pages that redb keeps; the rest is the system's page cache.
const CACHE_BYTES: usize = 64 << 20;

/// How long a failed attempt to open answers for all who ask.
const RETRY: Duration = Duration::from_millis(200);

/// Opens a database; another one in tests.
pub(super) trait Open: Send + Sync {
    fn open(&self) -> Result<Database, DatabaseError>;

    /// For messages.
    fn path(&self) -> PathBuf;
}

/// A file on disk.
pub(super) struct File(pub(super) PathBuf);

impl Open for File {
    fn open(&self) -> Result<Database, DatabaseError> {
        Database::builder().set_cache_size(CACHE_BYTES).create(&self.0)
    }

    fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

/// The database that is open now.
pub(super) struct Databases {
    open: Box<dyn Open>,
    /// Held for reading over each transaction, for writing only while it is opened again.
    now: RwLock<Now>,
}

enum Now {
    Open(Database),
    Failed(StateError, Instant),
    Closed,
}

impl Databases {
    pub(super) fn open(open: impl Open + 'static) -> Result<Self, StateError> {
        let open: Box<dyn Open> = Box::new(open);
        let now = RwLock::new(Now::Open(opened(&*open)?));
        let this = Self { open, now };
        this.note_holder();
        Ok(this)
    }

    pub(super) fn with<T>(
        &self,
        use_it: impl FnOnce(&Database) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let mut now = self.now.read();
        if matches!(&*now, Now::Failed(_, at) if at.elapsed() >= RETRY) {
            drop(now);
            self.reopen();
            now = self.now.read();
        }
        match &*now {
            Now::Open(database) => use_it(database),
            Now::Failed(error, _) => Err(error.clone()),
            Now::Closed => Err(StateError::Closed),
        }
    }

    /// Closes it, which a failed one survives, and opens it again.
    pub(super) fn reopen(&self) {
        let mut now = self.now.write();
        if matches!(*now, Now::Closed) {
            return;
        }
        // The lock of the file must be gone before it can be taken again.
        *now = Now::Closed;
        *now = match opened(&*self.open) {
            Ok(database) => Now::Open(database),
            Err(error) => Now::Failed(error, Instant::now()),
        };
    }

    pub(super) fn close(&self) {
        *self.now.write() = Now::Closed;
    }

    /// For the message that the next process gets which wants the file. Nobody relies on it.
    fn note_holder(&self) {
        let _ = std::fs::write(holder_file(&*self.open), std::process::id().to_string());
    }
}

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Databases").field("path", &self.open.path()).finish_non_exhaustive()
    }
}

fn holder_file(open: &dyn Open) -> PathBuf {
    open.path().with_extension("pid")
}

fn opened(open: &dyn Open) -> Result<Database, StateError> {
    let path: Arc<str> = open.path().display().to_string().into();
    let database = open.open().map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            let holder = std::fs::read_to_string(holder_file(open))
                .map_or_else(|_| "another process".into(), |id| format!("process {}", id.trim()));
            StateError::InUse { path: Arc::clone(&path), holder: holder.into() }
        }
        error => StateError::Open { path: Arc::clone(&path), cause: error.to_string().into() },
    })?;
    match format(&database)? {
        FORMAT => Ok(database),
        found => Err(StateError::Format { path, found }),
    }
}

/// The format that the file has; a new file gets ours.
fn format(database: &Database) -> Result<u64, StateError> {
    let transaction = database.begin_write().map_err(StateError::disk)?;
    let found = {
        let mut meta = transaction.open_table(META).map_err(StateError::disk)?;
        let found = meta.get("format").map_err(StateError::disk)?.map(|found| found.value());
        if found.is_none() {
            meta.insert("format", FORMAT).map_err(StateError::disk)?;
        }
        found
    };
    match found {
        Some(found) => {
            transaction.abort().map_err(StateError::disk)?;
            Ok(found)
        }
        None => {
            // Readers find every table, also before the first write.
            super::super::selection::create(&transaction)?;
            super::super::applications::create(&transaction)?;
            super::super::cursors::create(&transaction)?;
            transaction.commit().map_err(StateError::disk)?;
            Ok(FORMAT)
        }
    }
}
