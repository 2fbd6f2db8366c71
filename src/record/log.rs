//! The decision log as the others see it.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use skysail_selection::{
    DecisionId, DecisionLog, DecisionRecord,
    store::{BoxFuture, StoreError},
};
use tokio::sync::oneshot;

use super::{
    FeedbackLine, Options, RecordError,
    buffer::Buffer,
    line::{Line, now_ms},
    segments::Segments,
    writer::Writer,
};

/// How often a record that may just be on its way is looked for again, one flush interval apart.
pub(crate) const LOOK_AGAIN: u32 = 5;

/// A decision older than this is not on its way any more: an answer leaves, and its record is
/// appended, within the objective.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// What the log did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordStats {
    /// Decision records written.
    pub records: u64,
    /// Feedback lines written.
    pub feedback: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Groups they were written in.
    pub groups: u64,
    /// Time that writing and forcing to the disk took.
    pub write: Duration,
    /// Times that there was no room.
    pub refused: u64,
    /// Lines that could not be written: the log was closed, its disk failed to the end, or
    /// feedback came while it failed and the buffer was full.
    pub lost: u64,
    /// Broken lines that were skipped at start.
    pub skipped: u64,
    /// Lines that wait to be written now.
    pub waiting: u64,
    /// Segments there are now.
    pub segments: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) records: AtomicU64,
    pub(super) feedback: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) write_ns: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) buffer: Buffer,
    pub(super) segments: Segments,
    pub(super) counters: Counters,
    /// Milliseconds back that feedback needs.
    pub(super) needed_ms: AtomicU64,
    /// Held as long as the log is open.
    lock: File,
}

/// A [`DecisionLog`] in files of one directory. Dropping it writes what it holds.
#[derive(Debug)]
pub struct DecisionLogFile {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<(), RecordError>>>>,
}

impl DecisionLogFile {
    /// Opens the log in that directory; makes it where it is missing. Reads the active segment
    /// whole, and closed ones whose sidecar is missing.
    ///
    /// # Errors
    ///
    /// Another process has it open; a file cannot be made, read or mended.
    pub fn open(directory: &Path, options: Options) -> Result<Self, RecordError> {
        let fail = |error| RecordError::file(directory, error);
        std::fs::create_dir_all(directory).map_err(fail)?;
        let lock = File::create(directory.join("lock")).map_err(fail)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => RecordError::InUse(directory.display().to_string().into()),
            TryLockError::Error(error) => fail(error),
        })?;
        let shared = Arc::new(Shared {
            buffer: Buffer::new(options.buffer_records, options.buffer_bytes),
            segments: Segments::open(directory)?,
            counters: Counters::default(),
            // Until it is known what feedback needs, all of it may be.
            needed_ms: AtomicU64::new(u64::MAX),
            options,
            lock,
        });
        let writer = Writer::new(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("skysail-record".into())
            .spawn(move || writer.run())
            .map_err(fail)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes feedback that was applied; never waits. Nothing depends on it but the judging of
    /// other policies.
    pub fn append_feedback(&self, feedback: FeedbackLine) {
        self.shared.buffer.push(&Line::Feedback(&feedback));
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        self.shared.segments.directory()
    }

    /// The longest feedback window there is. Nothing younger is deleted, whatever the options
    /// say; before the first call nothing is deleted.
    pub fn set_retention(&self, window: Duration) {
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self.shared.needed_ms.store(window, Ordering::Relaxed);
    }

    /// Returns when all that was appended before is on the disk.
    ///
    /// # Errors
    ///
    /// The log is closed, or was closed while its disk failed.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (sender, receiver) = oneshot::channel();
        if !self.shared.buffer.flush(sender) {
            return Err(RecordError::Closed);
        }
        receiver.await.map_err(|_| RecordError::Closed)?
    }

    /// Writes what it holds, and ends. What is appended later is lost, and counted.
    ///
    /// # Errors
    ///
    /// The disk failed to the end.
    pub async fn close(&self) -> Result<(), RecordError> {
        self.shared.buffer.close();
        let thread = self.thread.lock().take();
        let shared = Arc::clone(&self.shared);
        let joined = tokio::task::spawn_blocking(move || end(thread, &shared)).await;
        joined.map_err(|_| RecordError::Closed)?
    }

    /// The record of that id as far as it is known now.
    ///
    /// # Errors
    ///
    /// A file of the log cannot be read.
    pub async fn look(&self, id: DecisionId) -> Result<Option<Arc<DecisionRecord>>, StoreError> {
        self.shared.find(id).await.map_err(store_error)
    }

    /// What it did so far.
    pub fn stats(&self) -> RecordStats {
        let Shared { buffer, segments, counters, .. } = &*self.shared;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RecordStats {
            records: get(&counters.records),
            feedback: get(&counters.feedback),
            bytes: get(&counters.bytes),
            groups: get(&counters.groups),
            write: Duration::from_nanos(get(&counters.write_ns)),
            refused: buffer.refused(),
            lost: buffer.lost(),
            skipped: get(&segments.skipped),
            waiting: buffer.waiting() as u64,
            segments: segments.count() as u64,
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl DecisionLog for DecisionLogFile {
    fn has_room(&self) -> bool {
        self.shared.buffer.has_room()
    }

    fn fullness(&self) -> f64 {
        self.shared.buffer.fullness()
    }

    fn append(&self, record: Arc<DecisionRecord>) {
        self.shared.buffer.push(&Line::Decision(&record));
    }

    fn find(&self, id: DecisionId) -> BoxFuture<Result<Option<Arc<DecisionRecord>>, StoreError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            for _ in 0..LOOK_AGAIN {
                if let Some(record) = shared.find(id).await.map_err(store_error)? {
                    return Ok(Some(record));
                }
                if !on_its_way(id) {
                    return Ok(None);
                }
                tokio::time::sleep(shared.options.flush_interval).await;
            }
            shared.find(id).await.map_err(store_error)
        })
    }
}

impl Shared {
    async fn find(self: &Arc<Self>, id: DecisionId) -> io::Result<Option<Arc<DecisionRecord>>> {
        if let Some(record) = self.buffer.find(id) {
            return Ok(Some(record));
        }
        // Written a short while ago: the system still has the page.
        if let Some(record) = self.segments.find_active(id)? {
            return Ok(Some(record));
        }
        if !self.segments.may_be_closed(id) {
            return Ok(None);
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.segments.find_closed(id)).await?
    }
}

impl Drop for DecisionLogFile {
    fn drop(&mut self) {
        self.shared.buffer.close();
        if let Err(error) = end(self.thread.lock().take(), &self.shared) {
            tracing::error!(%error, "closing the decision log");
        }
    }
}

/// Waits for the writer, the first time, and gives the directory back.
fn end(
    thread: Option<JoinHandle<Result<(), RecordError>>>,
    shared: &Shared,
) -> Result<(), RecordError> {
    let Some(thread) = thread else { return Ok(()) };
    let ended = thread.join();
    // By name: a process that is just being started holds a copy of the descriptor until it runs
    // its own program, and with it the lock.
    if let Err(error) = shared.lock.unlock() {
        tracing::warn!(%error, "the decision log's lock is given back only when this process ends");
    }
    ended.unwrap_or_else(|_| {
        Err(RecordError::Lost { records: 0, cause: "the writer panicked".into() })
    })
}

fn on_its_way(id: DecisionId) -> bool {
    let oldest = now_ms().saturating_sub(ON_ITS_WAY.as_millis() as u64);
    id.time_ms() >= oldest
}

fn store_error(error: io::Error) -> StoreError {
    StoreError(format!("decision log: {error}").into())
}
