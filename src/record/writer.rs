//! The thread that writes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    RecordError, Sync,
    buffer::{Batch, Taken},
    line::now_ms,
    log::Shared,
};

/// Between attempts while the disk fails.
const RETRY: Duration = Duration::from_millis(100);

/// How often old segments are looked for.
const DELETE_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// When what was written is to be forced to the disk; `None`: it is.
    due: Option<Instant>,
    deleted: Instant,
    /// When the last attempt to begin a segment failed.
    rotation_failed: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, due: None, deleted: Instant::now(), rotation_failed: None }
    }

    /// Until the buffer is closed and all of it is written.
    pub(super) fn run(mut self) -> Result<(), RecordError> {
        self.delete_old();
        let mut spare = Batch::default();
        let mut last = Ok(());
        loop {
            let interval = self.shared.options.flush_interval;
            match self.shared.buffer.take(std::mem::take(&mut spare), interval, self.due) {
                Taken::Closed => break,
                Taken::Due => self.sync(),
                Taken::Batch(batch, flushes) => {
                    last = self.group(&batch, !flushes.is_empty());
                    spare = self.shared.buffer.written(batch);
                    self.rotate();
                    // Last, so that who waited finds everything done.
                    for flushed in flushes {
                        // Whoever does not wait any more does not need it.
                        let _ = flushed.send(last.clone());
                    }
                }
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.sync();
            }
        }
        self.sync();
        match (self.shared.buffer.lost(), last) {
            (records @ 1.., Err(error)) => {
                Err(RecordError::Lost { records, cause: error.to_string().into() })
            }
            _ => Ok(()),
        }
    }

    /// Tries until it is written or the log is closed.
    fn group(&mut self, batch: &Batch, flush: bool) -> Result<(), RecordError> {
        let mut result = self.write(batch, flush);
        while let Err(error) = &result {
            if !self.shared.buffer.is_failing() {
                tracing::error!(%error, "decision records cannot be written: queries are refused");
                self.shared.buffer.set_failing(true);
            }
            if !self.shared.buffer.pause(RETRY) {
                break;
            }
            result = self.write(batch, flush);
        }
        match &result {
            Ok(()) => {
                self.shared.segments.add(batch);
                self.count(batch);
                if self.shared.buffer.is_failing() {
                    tracing::info!("decision records are written again");
                    self.shared.buffer.set_failing(false);
                }
            }
            Err(_) => self.shared.buffer.lose(batch.lines),
        }
        result
    }

    fn write(&mut self, batch: &Batch, flush: bool) -> Result<(), RecordError> {
        let sync = flush || self.shared.options.sync == Sync::Group;
        let start = Instant::now();
        self.shared.segments.write(&batch.bytes, sync)?;
        let took = start.elapsed().as_nanos() as u64;
        let counters = &self.shared.counters;
        counters.write_ns.fetch_add(took, Ordering::Relaxed);
        match self.shared.options.sync {
            _ if sync => self.due = None,
            Sync::Interval(interval) => self.due = self.due.or(Some(start + interval)),
            Sync::Group => {}
        }
        Ok(())
    }

    fn count(&self, batch: &Batch) {
        let counters = &self.shared.counters;
        let add = |counter: &std::sync::atomic::AtomicU64, n: u64| {
            counter.fetch_add(n, Ordering::Relaxed);
        };
        let decisions = batch.summary.decisions;
        add(&counters.records, decisions);
        add(&counters.feedback, batch.lines as u64 - decisions);
        add(&counters.bytes, batch.summary.bytes);
        add(&counters.groups, u64::from(batch.lines > 0));
    }

    fn sync(&mut self) {
        if self.due.take().is_some()
            && let Err(error) = self.shared.segments.sync()
        {
            // What was written before cannot be written again; the next group will tell.
            tracing::error!(%error, "decision records may not survive a loss of power");
        }
    }

    fn rotate(&mut self) {
        if self.shared.segments.active_bytes() >= self.shared.options.segment_bytes {
            if self.rotation_failed.is_some_and(|failed| failed.elapsed() < RETRY) {
                return;
            }
            let result = self.shared.segments.rotate();
            match &result {
                Ok(()) => self.delete_old(),
                Err(error) if self.rotation_failed.is_none() => {
                    tracing::error!(%error, "no new segment can be made; the last one goes on");
                }
                Err(_) => {}
            }
            self.rotation_failed = result.err().map(|_| Instant::now());
        } else if self.deleted.elapsed() >= DELETE_EVERY {
            self.delete_old();
        }
    }

    fn delete_old(&mut self) {
        self.deleted = Instant::now();
        let needed = self.shared.needed_ms.load(Ordering::Relaxed);
        let kept = u64::try_from(self.shared.options.retention.as_millis()).unwrap_or(u64::MAX);
        let now = now_ms();
        let max_bytes = self.shared.options.max_bytes;
        self.shared.segments.delete(
            now.saturating_sub(kept),
            now.saturating_sub(needed),
            max_bytes,
        );
    }
}
