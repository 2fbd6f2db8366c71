//! What is not written yet: bounded, and found by id.
//!
//! Two batches: one is being filled, the other is with the writer. The writer takes the first
//! whole, and an emptied one with its allocations comes in its place.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use skysail_selection::{DecisionId, DecisionRecord};
use tokio::sync::oneshot;

use super::{RecordError, line::Line};

/// Somebody waits until all lines before are durable.
pub(super) type Flushed = oneshot::Sender<Result<(), RecordError>>;

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    by_id: HashMap<DecisionId, usize, foldhash::fast::RandomState>,
    weight: usize,
    /// When the first line came.
    since: Option<Instant>,
}

impl Batch {
    fn find(&self, id: DecisionId) -> Option<Arc<DecisionRecord>> {
        match self.lines.get(*self.by_id.get(&id)?)? {
            Line::Decision(record) => Some(Arc::clone(record)),
            Line::Feedback(_) => None,
        }
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.by_id.clear();
        self.weight = 0;
        self.since = None;
    }
}

#[derive(Debug)]
pub(super) struct Buffer {
    state: Mutex<State>,
    wake: Condvar,
    max_lines: usize,
    max_weight: usize,
    /// Of both batches.
    lines: AtomicUsize,
    weight: AtomicUsize,
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
    pub(super) fn new(max_lines: usize, max_weight: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            max_lines: max_lines.max(1),
            max_weight: max_weight.max(1),
            lines: AtomicUsize::new(0),
            weight: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let room = self.lines.load(Ordering::Relaxed) < self.max_lines
            && self.weight.load(Ordering::Relaxed) < self.max_weight
            && !self.failing.load(Ordering::Relaxed);
        if !room {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// As a ratio of what it takes at most.
    pub(super) fn fullness(&self) -> f64 {
        let lines = self.lines.load(Ordering::Relaxed) as f64 / self.max_lines as f64;
        let weight = self.weight.load(Ordering::Relaxed) as f64 / self.max_weight as f64;
        lines.max(weight)
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
    pub(super) fn push(&self, line: Line) {
        let weight = line.weight();
        let mut state = self.state.lock();
        // Admission bounds decisions; nothing bounds feedback while the disk fails.
        let excess = line.decision().is_none() && self.waiting() >= self.max_lines;
        if state.closed || excess {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.weight.fetch_add(weight, Ordering::Relaxed);
        let filling = &mut state.filling;
        filling.weight += weight;
        if filling.lines.is_empty() {
            filling.since = Some(Instant::now());
        }
        if let Some(id) = line.decision() {
            filling.by_id.insert(id, filling.lines.len());
        }
        filling.lines.push(line);
        // A gathering writer wakes by itself, unless the buffer would fill before it does.
        let early = filling.lines.len() == self.max_lines / 4;
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
        while state.filling.lines.is_empty() && state.flushes.is_empty() {
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
                && state.filling.lines.len() < self.max_lines / 4
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
        self.lines.fetch_sub(batch.lines.len(), Ordering::Relaxed);
        self.weight.fetch_sub(batch.weight, Ordering::Relaxed);
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
