//! What the drivers of one run share: numbering, bounds and the books.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tonic::Status;

use crate::{
    recorder::{Outcome, Recorder, Tally, Times, Window},
    workload::Workload,
};

/// One query to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Which request of the workload; unique within the run.
    pub sequence: u64,
    /// Which stream or connection carries it.
    pub lane: usize,
    /// When it was to arrive.
    pub intended: Instant,
    /// When it was handed to the driver.
    pub submitted: Instant,
}

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// What counts.
    pub window: Window,
    /// An answer later than this is late.
    pub objective: Duration,
    /// Beyond as many under way, an arrival is not sent and counts as a miss.
    pub max_in_flight: usize,
    /// Each end begins the next query on the same lane.
    pub closed: bool,
}

/// The books of one run.
#[derive(Debug)]
pub struct Run {
    /// What is asked.
    pub workload: Workload,
    config: RunConfig,
    recorder: Mutex<Recorder>,
    sequence: AtomicU64,
    in_flight: AtomicUsize,
    in_flight_peak: AtomicUsize,
    /// Queries of the window that were admitted or counted as unsent.
    offered: AtomicU64,
    completed: AtomicU64,
    unmatched: AtomicU64,
}

impl Run {
    /// Opens the books.
    ///
    /// # Errors
    ///
    /// The window is empty.
    pub fn new(workload: Workload, config: RunConfig) -> anyhow::Result<Self> {
        Ok(Self {
            workload,
            config,
            recorder: Mutex::new(Recorder::new(config.window, config.objective)?),
            sequence: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_peak: AtomicUsize::new(0),
            offered: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            unmatched: AtomicU64::new(0),
        })
    }

    /// Numbers a query that arrives; `None` where too many are under way.
    pub fn admit(&self, intended: Instant, lanes: usize) -> Option<Job> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let submitted = Instant::now();
        if self.config.window.holds(intended) {
            self.offered.fetch_add(1, Ordering::Relaxed);
        }
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if in_flight > self.config.max_in_flight {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            let times = Times { intended, submitted, sent: submitted, done: submitted };
            self.recorder.lock().record(times, Outcome::Unsent);
            return None;
        }
        self.in_flight_peak.fetch_max(in_flight, Ordering::Relaxed);
        let lane = (sequence % lanes.max(1) as u64) as usize;
        Some(Job { sequence, lane, intended, submitted })
    }

    /// Books the end of a query. In a closed loop it gives the next one.
    pub fn complete(
        &self,
        job: Job,
        sent: Instant,
        outcome: Outcome,
        message: &str,
    ) -> Option<Job> {
        let done = self.book(job, sent, outcome, message);
        if !self.config.closed || done >= self.config.window.until {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        if self.config.window.holds(done) {
            self.offered.fetch_add(1, Ordering::Relaxed);
        }
        Some(Job { sequence, lane: job.lane, intended: done, submitted: done })
    }

    fn book(&self, job: Job, sent: Instant, outcome: Outcome, message: &str) -> Instant {
        let done = Instant::now();
        let Job { intended, submitted, .. } = job;
        {
            let mut recorder = self.recorder.lock();
            recorder.record(Times { intended, submitted, sent, done }, outcome);
            if let Outcome::Refused(code) = outcome {
                recorder.example(code, message);
            }
        }
        self.completed.fetch_add(1, Ordering::Relaxed);
        done
    }

    /// The same for a call that was refused as a whole.
    pub(super) fn refuse(&self, job: Job, sent: Instant, status: &Status) -> Option<Job> {
        self.complete(job, sent, Outcome::Refused(status.code()), status.message())
    }

    /// Books a response that no query waits for.
    pub(super) fn unmatched(&self) {
        self.unmatched.fetch_add(1, Ordering::Relaxed);
    }

    /// The lane is lost with this job in it; nothing follows it, in a closed loop either.
    pub(super) fn abandon(&self, job: Job, status: &Status) {
        self.book(job, job.submitted, Outcome::Refused(status.code()), status.message());
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The bound of queries under way.
    pub(super) fn max_in_flight(&self) -> usize {
        self.config.max_in_flight.max(1)
    }

    /// Queries under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The most that ever were under way.
    pub fn in_flight_peak(&self) -> usize {
        self.in_flight_peak.load(Ordering::Relaxed)
    }

    /// Queries that ended, the warm-up's included.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Responses that no query waited for: a fault of the server. Must be 0.
    pub fn unmatched_responses(&self) -> u64 {
        self.unmatched.load(Ordering::Relaxed)
    }

    /// Closes the books: what has not ended by now counts as unanswered.
    ///
    /// # Errors
    ///
    /// The window is empty.
    pub fn finish(&self) -> anyhow::Result<Tally> {
        let config = self.config;
        let empty = Recorder::new(config.window, config.objective)?;
        let recorder = std::mem::replace(&mut *self.recorder.lock(), empty);
        let offered = self.offered.load(Ordering::Relaxed);
        let unanswered = offered.saturating_sub(recorder.recorded());
        Ok(recorder.finish(unanswered))
    }
}
