//! One model version: its queue, its replicas, and what others may ask about them.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use skysail_proto::{
    ModelCall, ModelVersion, PredictError, Waiters, call::ModelResult, error::LateReason,
    waiters::Requeue,
};
use tokio::sync::oneshot;

use crate::{
    config::ModelConfig,
    observer::{BatchObserver, DropReason},
    queue::{DeadlineQueue, Entry},
    replica::{ContainerInfo, Replica},
};

mod future;
mod pull;

pub use future::ModelFuture;
pub(crate) use pull::Batch;

/// How an answer gets back to who asked.
pub(crate) type Reply = oneshot::Sender<ModelResult>;

/// Why an arm should not be asked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaskReason {
    /// No replica of it is alive.
    NoLiveReplica,
    /// It would answer after the deadline.
    QueueTooLong {
        /// Until its answer: the wait and the batch.
        predicted: Duration,
    },
}

/// Serves one model version.
pub(crate) struct Model {
    pub(crate) version: Arc<ModelVersion>,
    pub(crate) config: ModelConfig,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) observer: Arc<dyn BatchObserver>,
    state: Mutex<State>,
    wake: Condvar,
    /// What `state` says, for those who should not wait for its lock.
    queue_rows: AtomicUsize,
    /// Objective less slack, in nanoseconds.
    budget_ns: AtomicU64,
}

struct State {
    queue: DeadlineQueue<Reply>,
    /// No call enters any more, and why; replicas finish what is in.
    closed: Option<Arc<str>>,
    /// Replicas that wait for a call.
    idle: usize,
    /// Replicas that wait though there are calls, so that waking any one of them is not enough.
    choosy: usize,
    /// When a full queue was last searched for calls that nobody waits for.
    purged: Instant,
}

const PURGE_EVERY: Duration = Duration::from_millis(5);

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Model {
    pub(crate) fn new(
        version: Arc<ModelVersion>,
        config: ModelConfig,
        replicas: Vec<Replica>,
        observer: Arc<dyn BatchObserver>,
    ) -> Self {
        let model = Self {
            version,
            replicas,
            observer,
            state: Mutex::new(State {
                queue: DeadlineQueue::new(config.queue_rows, config.queue_bytes),
                closed: None,
                idle: 0,
                choosy: 0,
                purged: Instant::now(),
            }),
            wake: Condvar::new(),
            queue_rows: AtomicUsize::new(0),
            budget_ns: AtomicU64::new(0),
            config,
        };
        let objective = model.config.objective.unwrap_or(crate::config::DEFAULT_OBJECTIVE);
        model.set_objective(objective, crate::config::DEFAULT_SLACK);
        model
    }

    pub(crate) fn set_objective(&self, objective: Duration, slack: Duration) {
        let budget = objective.saturating_sub(slack);
        self.budget_ns.store(nanos(budget), Ordering::Relaxed);
    }

    /// Objective less slack.
    pub(crate) fn budget(&self) -> Duration {
        Duration::from_nanos(self.budget_ns.load(Ordering::Relaxed))
    }

    /// What a batch should stay under.
    pub(crate) fn target(&self) -> Duration {
        self.budget() / 2
    }

    pub(crate) fn containers(&self) -> Vec<ContainerInfo> {
        let rows = self.queue_rows.load(Ordering::Relaxed);
        self.replicas.iter().map(|replica| replica.info(self, rows)).collect()
    }

    /// Queues a call, or refuses it at once.
    pub(crate) fn call(self: &Arc<Self>, call: ModelCall, now: Instant) -> ModelFuture {
        if let Err(error) = self.check(&call) {
            return ModelFuture::ready(error);
        }
        let shared = call.waiters.is_some();
        let (waiters, waiter) = match call.waiters {
            Some(waiters) => (waiters, None),
            None => {
                let (waiters, waiter) = Waiters::new(call.deadline);
                (waiters, Some(waiter))
            }
        };
        if waiters.latest() <= now {
            self.observer.dropped(&self.version.id, DropReason::Expired, 1);
            return ModelFuture::ready(self.late(LateReason::Queued));
        }
        let (reply, answer) = oneshot::channel();
        let entry = Entry {
            inputs: call.inputs,
            outputs: call.outputs,
            waiters: Arc::clone(&waiters),
            shared,
            queued: now,
            payload: reply,
        };
        let ticket = match self.push(entry, now) {
            Ok(ticket) => ticket,
            Err(error) => return ModelFuture::ready(error),
        };
        if shared {
            let queue = Arc::downgrade(self);
            waiters.queued_in(queue as Weak<dyn Requeue>, ticket);
            // Somebody may have joined between the push and the line above.
            self.requeue(ticket, waiters.earliest());
        }
        ModelFuture::waiting(answer, waiter)
    }

    fn check(&self, call: &ModelCall) -> Result<(), PredictError> {
        let version = &self.version;
        if version.max_batch_rows > 0 && call.inputs.rows() > version.max_batch_rows {
            return Err(PredictError::invalid(format!(
                "{}: expected at most {} rows in a query, got {}",
                version.id,
                version.max_batch_rows,
                call.inputs.rows()
            )));
        }
        for spec in &version.signature.inputs {
            let tensor = call.inputs.get(&spec.name).ok_or_else(|| {
                PredictError::invalid(format!("{}: input '{}' is missing", version.id, spec.name))
            })?;
            spec.check(tensor)?;
        }
        for name in call.outputs.iter() {
            if version.signature.output(name).is_none() {
                return Err(PredictError::invalid(format!(
                    "{}: there is no output '{name}'; its signature is {}",
                    version.id, version.signature
                )));
            }
        }
        Ok(())
    }

    fn push(&self, entry: Entry<Reply>, now: Instant) -> Result<u64, PredictError> {
        let mut state = self.state.lock();
        if let Some(why) = &state.closed {
            return Err(self.unavailable(Arc::clone(why)));
        }
        let mut gone = Vec::new();
        let mut full = !state.queue.has_room_for(&entry.inputs);
        // Not for every call that is refused: it looks at all that waits.
        if full && now.saturating_duration_since(state.purged) >= PURGE_EVERY {
            state.purged = now;
            gone = state.queue.purge(now);
            full = !state.queue.has_room_for(&entry.inputs);
        }
        let ticket = if full { None } else { Some(state.queue.push(entry)) };
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        let (idle, choosy) = (state.idle, state.choosy);
        drop(state);
        if choosy > 0 {
            self.wake.notify_all();
        } else if idle > 0 {
            self.wake.notify_one();
        }
        self.answer_dropped(gone);
        ticket.ok_or_else(|| {
            self.observer.dropped(&self.version.id, DropReason::Full, 1);
            let wait = self.predict(0, now).unwrap_or_default();
            PredictError::overloaded(format!("the queue of {} is full", self.version.id), wait)
        })
    }

    /// Tells those who wait for calls that will not be computed.
    fn answer_dropped(&self, dropped: Vec<(Entry<Reply>, DropReason)>) {
        if dropped.is_empty() {
            return;
        }
        for reason in DropReason::ALL {
            let count = dropped.iter().filter(|(_, why)| *why == reason).count();
            if count > 0 {
                self.observer.dropped(&self.version.id, reason, count as u64);
            }
        }
        for (entry, reason) in dropped {
            let error = match reason {
                DropReason::Abandoned => PredictError::Cancelled,
                DropReason::Window => self.late(LateReason::Dropped),
                _ => self.late(LateReason::Queued),
            };
            // Whoever asked may have gone.
            let _ = entry.payload.send(Err(error));
        }
    }

    /// Lets no call in any more. What is in is finished.
    pub(crate) fn close(&self, why: &str) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| why.into());
        drop(state);
        self.wake.notify_all();
    }

    /// Called by a replica that is lost. After the last one nothing waits any longer.
    pub(crate) fn replica_lost(&self, why: &str) {
        if self.replicas.iter().any(Replica::is_live) {
            // What was left to the lost one is looked at again.
            self.wake.notify_all();
            return;
        }
        let mut state = self.state.lock();
        let why: Arc<str> = why.into();
        state.closed = Some(Arc::clone(&why));
        let left = state.queue.drain();
        self.queue_rows.store(0, Ordering::Relaxed);
        drop(state);
        if !left.is_empty() {
            let count = left.len() as u64;
            self.observer.dropped(&self.version.id, DropReason::ReplicaLost, count);
        }
        for entry in left {
            let _ = entry.payload.send(Err(self.unavailable(Arc::clone(&why))));
        }
    }

    /// Whether a call of `rows` could be answered by `deadline`.
    pub(crate) fn mask(&self, rows: usize, deadline: Instant, now: Instant) -> Option<MaskReason> {
        match self.predict(rows, now) {
            None => Some(MaskReason::NoLiveReplica),
            Some(predicted) if now + predicted > deadline => {
                Some(MaskReason::QueueTooLong { predicted })
            }
            Some(_) => None,
        }
    }

    /// How long a call of `rows` that came now would take: the batches before it at the pace of
    /// all live replicas, what is left of the one that is running, and its own.
    fn predict(&self, rows: usize, now: Instant) -> Option<Duration> {
        let queued = self.queue_rows.load(Ordering::Relaxed);
        let (mut rows_per_second, mut first_free, mut service) = (0.0, None, None);
        for replica in &self.replicas {
            let Some(load) = replica.load(rows, queued, now) else { continue };
            rows_per_second += load.rows_per_second;
            first_free = Some(first_free.map_or(load.busy, |least: Duration| least.min(load.busy)));
            service = Some(service.map_or(load.service, |least: Duration| least.min(load.service)));
        }
        let wait = if queued > 0 && rows_per_second > 0.0 {
            Duration::try_from_secs_f64(queued as f64 / rows_per_second).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        };
        Some(first_free?.saturating_add(wait).saturating_add(service?))
    }

    fn late(&self, why: LateReason) -> PredictError {
        PredictError::Late { model: self.version.id.clone(), why }
    }

    fn unavailable(&self, why: Arc<str>) -> PredictError {
        PredictError::Unavailable { model: self.version.id.clone(), why }
    }
}

impl Requeue for Model {
    fn requeue(&self, ticket: u64, earliest: Instant) {
        self.state.lock().queue.requeue(ticket, earliest);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
