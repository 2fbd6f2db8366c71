//! One model version: its queue, its replicas, and what others may ask about them.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use skysail_proto::{
    ModelCall, ModelVersion, PredictError, Waiters,
    call::ModelResult,
    error::LateReason,
    waiters::{Requeue, Waiter},
};
use tokio::sync::oneshot;

use crate::{
    config::ModelConfig,
    observer::{BatchObserver, DropReason, Release},
    queue::{DeadlineQueue, Entry, Formed, Room, hold_until},
    replica::{ContainerInfo, Replica},
};

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
}

/// A batch on its way to a container.
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry<Reply>>,
    pub(crate) rows: usize,
    pub(crate) limit: usize,
    pub(crate) limited: bool,
    pub(crate) release: Release,
}

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
        ModelFuture(Step::Waiting { answer, _waiter: waiter })
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
        if full {
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

    /// What the next batch of replica `index` is, as soon as there is one; `None` when all is done
    /// and no more will come.
    pub(crate) fn next_batch(&self, index: usize) -> Option<Batch> {
        let replica = self.replicas.get(index)?;
        let mut state = self.state.lock();
        // A replica that had to wait for the first call is idle: it holds no batch open.
        let mut idle = false;
        loop {
            if state.queue.is_empty() {
                if state.closed.is_some() {
                    return None;
                }
                idle = true;
                state.idle += 1;
                self.wake.wait(&mut state);
                state.idle -= 1;
                continue;
            }
            let now = Instant::now();
            let limit = replica.limit();
            let mut release = Release::Idle;
            if !idle && state.closed.is_none() && !self.config.batch_wait.is_zero() {
                match self.hold(&mut state, replica, limit, now) {
                    Hold::Wait => continue,
                    Hold::Release(why) => release = why,
                }
            }
            let formed = self.form(&mut state, index, limit, now);
            let nothing = formed.entries.is_empty();
            if nothing && formed.dropped.is_empty() {
                // All that waits is left to a faster replica, which may yet be lost.
                state.choosy += 1;
                self.wake.wait_for(&mut state, Duration::from_millis(20));
                state.choosy -= 1;
                continue;
            }
            let Formed { entries, rows, limited, dropped } = formed;
            MutexGuard::unlocked(&mut state, || self.answer_dropped(dropped));
            if nothing {
                continue;
            }
            if limited {
                release = Release::Full;
            }
            return Some(Batch { entries, rows, limit, limited, release });
        }
    }

    fn hold(
        &self,
        state: &mut MutexGuard<'_, State>,
        replica: &Replica,
        limit: usize,
        now: Instant,
    ) -> Hold {
        let rows = state.queue.head_rows();
        let Some(head) = state.queue.head().filter(|_| rows < limit) else {
            return Hold::Release(Release::Full);
        };
        let service = replica.predict(limit, now);
        let (until, for_deadline) = hold_until(head, self.config.batch_wait, service);
        if until <= now {
            return Hold::Release(if for_deadline { Release::Deadline } else { Release::Timer });
        }
        state.choosy += 1;
        self.wake.wait_until(state, until);
        state.choosy -= 1;
        Hold::Wait
    }

    fn form(&self, state: &mut State, index: usize, limit: usize, now: Instant) -> Formed<Reply> {
        let finish = |rows| match self.replicas.get(index) {
            Some(replica) => now + replica.predict(rows, now),
            None => now,
        };
        let fastest = |rows| {
            let live = self.replicas.iter().enumerate();
            let others = live.filter_map(|(at, replica)| {
                (at != index).then(|| replica.finish(rows, now)).flatten()
            });
            others.fold(finish(rows), Instant::min)
        };
        let formed = state.queue.form(&Room {
            now,
            limit,
            max_bytes: self.config.max_batch_bytes,
            finish: &finish,
            fastest: &fastest,
        });
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        formed
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
            let Some(load) = replica.load(rows + queued, now) else { continue };
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

enum Hold {
    Wait,
    Release(Release),
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The answer to one call.
///
/// # Cancel safety
///
/// Dropping it gives the call up: it leaves the queue, unless it has been dispatched or others
/// wait for it.
#[derive(Debug)]
pub struct ModelFuture(Step);

#[derive(Debug)]
enum Step {
    Ready(Option<PredictError>),
    Waiting {
        answer: oneshot::Receiver<ModelResult>,
        /// Of a call that came without waiters: this future is the one who waits.
        _waiter: Option<Waiter>,
    },
}

impl ModelFuture {
    pub(crate) fn ready(error: PredictError) -> Self {
        Self(Step::Ready(Some(error)))
    }
}

impl Future for ModelFuture {
    type Output = ModelResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ModelResult> {
        match &mut self.0 {
            Step::Ready(error) => Poll::Ready(Err(error
                .take()
                .unwrap_or_else(|| PredictError::Internal("polled after completion".into())))),
            Step::Waiting { answer, .. } => {
                let answer = ready!(Pin::new(answer).poll(cx));
                Poll::Ready(answer.unwrap_or_else(|_| {
                    Err(PredictError::Internal("a replica dropped a call without an answer".into()))
                }))
            }
        }
    }
}
