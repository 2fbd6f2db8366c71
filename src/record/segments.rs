//! All segments: one that grows, indexed in memory, and closed ones, indexed on the disk.
//!
//! A record moves from the buffer to the active segment to a closed one, and is looked for in
//! that order. Each move makes it found at its new place before it is gone from the old one, so
//! that no search can miss it.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use skysail_selection::{DecisionId, DecisionRecord};

use super::{
    RecordError,
    buffer::Batch,
    index::{Growing, Unwritten},
    segment,
    sidecar::{self, Summary},
};

#[derive(Debug)]
pub(super) struct Segments {
    directory: PathBuf,
    active: RwLock<Active>,
    /// By sequence, ascending.
    closed: RwLock<Vec<Closed>>,
    /// Lines that could not be read at start.
    pub(super) skipped: AtomicU64,
    /// Makes writing fail, as a full disk does.
    #[cfg(test)]
    pub(super) full: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Active {
    sequence: u64,
    file: Arc<File>,
    summary: Summary,
    index: Growing,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    sequence: u64,
    summary: Summary,
}

impl Segments {
    /// Indexes what is there. The last segment goes on.
    pub(super) fn open(directory: &Path) -> Result<Self, RecordError> {
        let fail = |error| RecordError::file(directory, error);
        let mut sequences = segment::list(directory).map_err(fail)?;
        let last = sequences.pop();
        let skipped = AtomicU64::new(0);
        let mut closed = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let summary = summary(directory, sequence, &skipped)?;
            closed.push(Closed { sequence, summary });
        }
        let active = match last {
            Some(sequence) => {
                let (file, summary, index) = scan(directory, sequence, &skipped)?;
                Active { sequence, file: Arc::new(file), summary, index }
            }
            None => Active::create(directory, 1).map_err(fail)?,
        };
        Ok(Self {
            directory: directory.to_owned(),
            active: RwLock::new(active),
            closed: RwLock::new(closed),
            skipped,
            #[cfg(test)]
            full: Default::default(),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn active_bytes(&self) -> u64 {
        self.active.read().summary.bytes
    }

    /// Closed ones and the active one.
    pub(super) fn count(&self) -> usize {
        self.closed.read().len() + 1
    }

    /// Writes a group at the end of the active segment, and forces it to the disk if `sync`. After
    /// an error the same group is written again at the same place, so that nothing is doubled, and
    /// pages that the system gave up are dirty again.
    pub(super) fn write(&self, group: &[u8], sync: bool) -> Result<(), RecordError> {
        let (file, end) = {
            let active = self.active.read();
            (Arc::clone(&active.file), active.summary.bytes)
        };
        #[cfg(test)]
        if self.full.load(Ordering::Relaxed) {
            return Err(self.failed(io::ErrorKind::StorageFull.into()));
        }
        file.write_all_at(group, end).map_err(|error| self.failed(error))?;
        if sync {
            file.sync_data().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), RecordError> {
        let file = Arc::clone(&self.active.read().file);
        file.sync_data().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> RecordError {
        let sequence = self.active.read().sequence;
        RecordError::file(&segment::path(&self.directory, sequence, "jsonl"), error)
    }

    /// Makes a written group findable.
    pub(super) fn add(&self, group: &Batch) {
        let unwritten = {
            let index = group.index.lock();
            let mut active = self.active.write();
            let start = active.summary.bytes;
            active.index.extend(start, &index, group.summary.decisions);
            active.summary.extend(&group.summary);
            active.index.enough()
        };
        if let Some(run) = unwritten
            && let Err(error) = self.index(run)
        {
            tracing::warn!(%error, "the decision log's index stays in memory for now");
        }
    }

    /// Writes what is indexed in memory. Only the writer adds to it, and it is here.
    fn index(&self, run: Unwritten) -> Result<(), RecordError> {
        match run.write() {
            Ok(runs) => {
                self.active.write().index.wrote(runs);
                Ok(())
            }
            Err(error) => {
                let mut active = self.active.write();
                active.index.did_not_write();
                let path = segment::path(&self.directory, active.sequence, "idx");
                Err(RecordError::file(&path, error))
            }
        }
    }

    /// Closes the active segment and begins the next. After an error the active one goes on.
    pub(super) fn rotate(&self) -> Result<(), RecordError> {
        let rest = self.active.read().index.rest();
        self.index(rest)?;
        // Only the writer changes the active one, and it is here.
        let (sequence, file, summary, runs) = {
            let active = self.active.read();
            (active.sequence, Arc::clone(&active.file), active.summary, active.index.on_disk())
        };
        let fail = |error| RecordError::file(&self.directory, error);
        file.sync_data().map_err(fail)?;
        runs.finish(&summary).map_err(fail)?;
        let next = Active::create(&self.directory, sequence + 1).map_err(fail)?;
        self.closed.write().push(Closed { sequence, summary });
        *self.active.write() = next;
        Ok(())
    }

    /// Deletes closed segments: those wholly older than `old_ms`, and the oldest ones while all
    /// together have more than `max_bytes`, though none with anything as new as `needed_ms`.
    pub(super) fn delete(&self, old_ms: u64, needed_ms: u64, max_bytes: u64) -> u64 {
        let mut total: u64 = self.closed.read().iter().map(|closed| closed.summary.bytes).sum();
        let mut deleted = Vec::new();
        self.closed.write().retain(|closed| {
            let newest = closed.summary.newest_ms;
            let go = newest < needed_ms && (newest < old_ms || total > max_bytes);
            if go {
                total -= closed.summary.bytes;
                deleted.push(closed.sequence);
            }
            !go
        });
        for &sequence in &deleted {
            // What stays is found and deleted after the next start.
            for extension in ["idx", "jsonl"] {
                let path = segment::path(&self.directory, sequence, extension);
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "an old segment stays");
                }
            }
        }
        deleted.len() as u64
    }

    /// Looks into the active segment.
    pub(super) fn find_active(&self, id: DecisionId) -> io::Result<Option<Arc<DecisionRecord>>> {
        let (file, place) = {
            let mut active = self.active.write();
            if !active.summary.may_hold(id) {
                return Ok(None);
            }
            (Arc::clone(&active.file), active.index.find(id))
        };
        let place = match place {
            Ok(place) => Some(place),
            Err(runs) => runs.find(id)?,
        };
        place.map(|place| segment::read(&file, place)).transpose()
    }

    /// Whether a closed segment has decisions of that time.
    pub(super) fn may_be_closed(&self, id: DecisionId) -> bool {
        self.closed.read().iter().any(|closed| closed.summary.may_hold(id))
    }

    /// Looks into closed segments, latest first.
    pub(super) fn find_closed(&self, id: DecisionId) -> io::Result<Option<Arc<DecisionRecord>>> {
        let candidates: Vec<_> = self
            .closed
            .read()
            .iter()
            .rev()
            .filter(|one| one.summary.may_hold(id))
            .copied()
            .collect();
        for Closed { sequence, .. } in candidates {
            let found = || {
                let index = segment::path(&self.directory, sequence, "idx");
                let Some(place) = sidecar::find(&index, id)? else {
                    return Ok(None);
                };
                let file = File::open(segment::path(&self.directory, sequence, "jsonl"))?;
                segment::read(&file, place).map(Some)
            };
            match found() {
                Ok(None) => {}
                // Deleted since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => return found,
            }
        }
        Ok(None)
    }
}

impl Active {
    /// An empty one.
    fn create(directory: &Path, sequence: u64) -> io::Result<Self> {
        Ok(Self {
            sequence,
            index: Growing::create(&segment::path(directory, sequence, "idx"))?,
            file: Arc::new(segment::create(directory, sequence)?),
            summary: Summary::default(),
        })
    }
}

/// Reads a segment whole, and indexes it anew.
fn scan(
    directory: &Path,
    sequence: u64,
    skipped: &AtomicU64,
) -> Result<(File, Summary, Growing), RecordError> {
    let path = segment::path(directory, sequence, "jsonl");
    let fail = |error| RecordError::file(&path, error);
    let file = segment::open(directory, sequence).map_err(fail)?;
    let mut index = Growing::create(&path.with_extension("idx")).map_err(fail)?;
    let scan = segment::scan(&file, |id, place| index.add(id, place)).map_err(fail)?;
    if scan.torn > 0 {
        tracing::warn!(
            path = %path.display(), bytes = scan.torn,
            "cut off a last line that was not written whole, as an abrupt end leaves it"
        );
    }
    if scan.skipped > 0 {
        tracing::warn!(path = %path.display(), lines = scan.skipped, "skipped broken lines");
        skipped.fetch_add(scan.skipped, Ordering::Relaxed);
    }
    Ok((file, scan.summary, index))
}

/// From the sidecar, which is made again where it does not fit.
fn summary(directory: &Path, sequence: u64, skipped: &AtomicU64) -> Result<Summary, RecordError> {
    let index = segment::path(directory, sequence, "idx");
    let data = segment::path(directory, sequence, "jsonl");
    let bytes = std::fs::metadata(&data).map_err(|error| RecordError::file(&data, error))?.len();
    if let Some(summary) = sidecar::summary(&index, bytes) {
        return Ok(summary);
    }
    let (_, summary, growing) = scan(directory, sequence, skipped)?;
    let finish = || growing.rest().write()?.finish(&summary);
    finish().map_err(|error| RecordError::file(&index, error))?;
    tracing::info!(path = %index.display(), decisions = summary.decisions, "indexed again");
    Ok(summary)
}
