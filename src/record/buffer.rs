//! What is not written yet: bounded, and found by id.
//!
//! Two batches: one is being filled, the other is with the writer. The writer takes the first
//! whole, and an emptied one with its allocations comes in its place.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use skysail_selection::{DecisionId, DecisionRecord};
use tokio::sync::oneshot;

use super::{
    RecordError,
    index::Index,
    line::Line,
    sidecar::{Place, Summary},
};

/// Somebody waits until all lines before are durable.
pub(super) type Flushed = oneshot::Sender<Result<(), RecordError>>;

/// Lines as they are written.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Of all of it.
    pub(super) summary: Summary,
    pub(super) lines: usize,
    /// Its decisions, by their places in `bytes`.
    pub(super) index: Mutex<Index>,
    /// When the first line came.
    since: Option<Instant>,
}

impl Batch {
    fn push(&mut self, line: &Line<'_>, encoded: &[u8]) {
        let place = Place { offset: self.bytes.len() as u64, bytes: encoded.len() as u32 - 1 };
        if self.lines == 0 {
            self.since = Some(Instant::now());
        }
        let decision = line.decision();
        if let Some(id) = decision {
            self.index.get_mut().add(id, place);
        }
        self.summary.add(decision, line.time_ms(), encoded.len());
        self.bytes.extend_from_slice(encoded);
        self.lines += 1;
    }

    fn find(&self, id: DecisionId) -> Option<Arc<DecisionRecord>> {
        let Place { offset, bytes } = self.index.lock().find(id)?;
        let line = self.bytes.get(offset as usize..)?.get(..bytes as usize)?;
        serde_json::from_slice(line).map(Arc::new).ok()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.summary = Summary::default();
        self.lines = 0;
        self.index.get_mut().clear();
        self.since = None;
    }
}

/// A larger batch gives its memory back.
const KEEP_BYTES: usize = 16 << 20;

/// A line larger than this gives the memory in which it was encoded back.
const KEEP_LINE: usize = 64 << 10;

thread_local! {
    /// A line is encoded where it was made: what it was made of is freed by the thread that
    /// allocated it, and the lock is held for a copy alone.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(super) struct Buffer {
    state: Mutex<State>,
    wake: Condvar,
    max_lines: usize,
    max_bytes: usize,
    /// Of both batches.
    lines: AtomicUsize,
    bytes: AtomicUsize,
    failing: AtomicBool,
    refused: AtomicU64,
    /// Lines that came after it was closed, or could not be taken or written.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    filling: Batch,
    writing: Option<Arc<Batch>>,
    flushes: Vec<Flushed>,
    /// The writer sleeps until something comes.
    idle: bool,
    closed: bool,
}

/// What the writer has to do next.
pub(super) enum Taken {
    Batch(Arc<Batch>, Vec<Flushed>),
    /// Nothing came until then.
    Due,
    Closed,
}

impl Buffer {
    pub(super) fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            max_lines: max_lines.max(1),
            max_bytes: max_bytes.max(1),
            lines: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let room = self.lines.load(Ordering::Relaxed) < self.max_lines
            && self.bytes.load(Ordering::Relaxed) < self.max_bytes
            && !self.failing.load(Ordering::Relaxed);
        if !room {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// As a ratio of what it takes at most.
    pub(super) fn fullness(&self) -> f64 {
        let lines = self.lines.load(Ordering::Relaxed) as f64 / self.max_lines as f64;
        let bytes = self.bytes.load(Ordering::Relaxed) as f64 / self.max_bytes as f64;
        lines.max(bytes)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.lines.load(Ordering::Relaxed)
    }

    /// As long as writing fails there is no room.
    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Takes a decision also beyond the bounds: who was admitted while there was room has a place.
    pub(super) fn push(&self, line: &Line<'_>) {
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            match line.encode(encoded) {
                Ok(()) => self.push_encoded(line, encoded),
                Err(error) => {
                    tracing::error!(%error, "a line of the decision log cannot be written as JSON");
                    self.lose(1);
                }
            }
            encoded.shrink_to(KEEP_LINE);
        });
    }

    fn push_encoded(&self, line: &Line<'_>, encoded: &[u8]) {
        let mut state = self.state.lock();
        // Admission bounds decisions; nothing bounds feedback while the disk fails.
        let excess = line.decision().is_none() && self.waiting() >= self.max_lines;
        if state.closed || excess {
            self.lose(1);
            return;
        }
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(encoded.len(), Ordering::Relaxed);
        state.filling.push(line, encoded);
        // A gathering writer wakes by itself, unless the buffer would fill before it does.
        let early = state.filling.lines == self.max_lines / 4;
        let wake = std::mem::take(&mut state.idle) || early;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    pub(super) fn find(&self, id: DecisionId) -> Option<Arc<DecisionRecord>> {
        let writing = {
            let state = self.state.lock();
            if let Some(record) = state.filling.find(id) {
                return Some(record);
            }
            state.writing.clone()?
        };
        writing.find(id)
    }

    /// Whether it could be asked for: `false` where it is closed.
    pub(super) fn flush(&self, flushed: Flushed) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.flushes.push(flushed);
        state.idle = false;
        self.wake.notify_one();
        true
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for lines, lets them gather for `interval` since the first, and takes them.
    pub(super) fn take(&self, spare: Batch, interval: Duration, due: Option<Instant>) -> Taken {
        let mut state = self.state.lock();
        while state.filling.lines == 0 && state.flushes.is_empty() {
            if state.closed {
                return Taken::Closed;
            }
            state.idle = true;
            match due {
                Some(due) if self.wake.wait_until(&mut state, due).timed_out() => {
                    state.idle = false;
                    return Taken::Due;
                }
                Some(_) => {}
                None => self.wake.wait(&mut state),
            }
        }
        state.idle = false;
        if let Some(since) = state.filling.since {
            while !state.closed
                && state.flushes.is_empty()
                && state.filling.lines < self.max_lines / 4
                && !self.wake.wait_until(&mut state, since + interval).timed_out()
            {}
        }
        let batch = Arc::new(std::mem::replace(&mut state.filling, spare));
        state.writing = Some(Arc::clone(&batch));
        Taken::Batch(batch, std::mem::take(&mut state.flushes))
    }

    /// The batch is found elsewhere from now on; its emptied self is for the next `take`.
    pub(super) fn written(&self, batch: Arc<Batch>) -> Batch {
        self.state.lock().writing = None;
        self.lines.fetch_sub(batch.lines, Ordering::Relaxed);
        self.bytes.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
        // Whoever looks into it just now keeps it; then there is nothing to use again.
        let mut batch = Arc::try_unwrap(batch).unwrap_or_default();
        batch.clear();
        batch
    }

    /// It will never be written.
    pub(super) fn lose(&self, lines: usize) {
        self.lost.fetch_add(lines as u64, Ordering::Relaxed);
    }

    /// Waits before the next attempt; `false` where it was closed.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + pause;
        while !state.closed && !self.wake.wait_until(&mut state, until).timed_out() {}
        !state.closed
    }
}
