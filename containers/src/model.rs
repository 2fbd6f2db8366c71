//! One model version: its queue, its replicas, and what others may ask about them.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use skysail_proto::{
    ModelCall, ModelVersion, PredictError, Waiters, call::ModelResult, error::LateReason,
    trace::SpanRef, waiters::Requeue,
};
use tokio::sync::oneshot;

use crate::{
    config::ModelConfig,
    observer::{BatchObserver, DropReason},
    queue::{DeadlineQueue, Entry, Past},
    replica::{ContainerInfo, ContainerState, Replica, local},
};

mod future;
mod give_back;
mod pull;
mod wake;

pub use future::ModelFuture;
pub(crate) use pull::{Batch, Next};
use wake::Woken;

/// How an answer gets back to who asked.
pub(crate) struct Reply {
    to: oneshot::Sender<ModelResult>,
    /// The span of a sampled query that waits for it.
    pub(crate) trace: Option<SpanRef>,
}

impl Reply {
    /// Answers, unless whoever asked has gone.
    pub(crate) fn send(self, result: ModelResult) {
        let _ = self.to.send(result);
    }
}

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
    /// Not even an idle replica could answer one row within the objective.
    Infeasible {
        /// What a single row takes.
        floor: Duration,
    },
}

/// Serves one model version.
pub(crate) struct Model {
    pub(crate) version: Arc<ModelVersion>,
    pub(crate) config: ModelConfig,
    pub(crate) observer: Arc<dyn BatchObserver>,
    /// Replaced as a whole, under the lock of `state`.
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    state: Mutex<State>,
    /// What `state` says, for those who should not wait for its lock.
    queue_rows: AtomicUsize,
    /// In nanoseconds.
    objective_ns: AtomicU64,
    /// Objective less slack, in nanoseconds.
    budget_ns: AtomicU64,
}

struct State {
    queue: DeadlineQueue<Reply>,
    /// No call enters any more, and why; replicas finish what is in.
    closed: Option<Arc<str>>,
    /// Replicas that wait for calls.
    sleepers: Vec<Sleeper>,
    /// When the last call came.
    last: Instant,
    /// When a full queue was last searched for calls that nobody waits for.
    purged: Instant,
}

struct Sleeper {
    replica: Arc<Replica>,
    /// It waits though there are calls, so it is woken for each one.
    choosy: bool,
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
        observer: Arc<dyn BatchObserver>,
    ) -> Self {
        let model = Self {
            version,
            observer,
            replicas: ArcSwap::default(),
            state: Mutex::new(State {
                queue: DeadlineQueue::new(config.queue_rows, config.queue_bytes),
                closed: None,
                sleepers: Vec::new(),
                last: Instant::now(),
                purged: Instant::now(),
            }),
            queue_rows: AtomicUsize::new(0),
            objective_ns: AtomicU64::new(0),
            budget_ns: AtomicU64::new(0),
            config,
        };
        let objective = model.config.objective.unwrap_or(crate::config::DEFAULT_OBJECTIVE);
        model.set_objective(objective, crate::config::DEFAULT_SLACK);
        model
    }

    /// Its replicas, as they are now.
    pub(crate) fn replicas(&self) -> Arc<Vec<Arc<Replica>>> {
        self.replicas.load_full()
    }

    /// Adds one that `make` makes, given the smallest number that is free.
    pub(crate) fn add(&self, make: impl FnOnce(usize) -> Replica) -> Arc<Replica> {
        let _alone = self.state.lock();
        let mut all = Vec::clone(&self.replicas.load());
        let mut index = 0;
        while all.iter().any(|replica| replica.index == index) {
            index += 1;
        }
        let replica = Arc::new(make(index));
        all.push(Arc::clone(&replica));
        self.replicas.store(Arc::new(all));
        replica
    }

    /// Forgets a replica; true if that was the last one.
    pub(crate) fn remove(&self, replica: &Replica) -> bool {
        let mut state = self.state.lock();
        state.sleepers.retain(|sleeper| sleeper.replica.serial != replica.serial);
        let mut all = Vec::clone(&self.replicas.load());
        all.retain(|other| other.serial != replica.serial);
        let last = all.is_empty();
        self.replicas.store(Arc::new(all));
        drop(state);
        self.replica_lost();
        last
    }

    pub(crate) fn set_objective(&self, objective: Duration, slack: Duration) {
        self.objective_ns.store(nanos(objective), Ordering::Relaxed);
        self.budget_ns.store(nanos(objective.saturating_sub(slack)), Ordering::Relaxed);
    }

    pub(crate) fn objective(&self) -> Duration {
        Duration::from_nanos(self.objective_ns.load(Ordering::Relaxed))
    }

    /// Objective less slack.
    pub(crate) fn budget(&self) -> Duration {
        Duration::from_nanos(self.budget_ns.load(Ordering::Relaxed))
    }

    /// What a batch should stay under.
    pub(crate) fn target(&self) -> Duration {
        self.budget() / 2
    }

    /// Rows that wait.
    pub(crate) fn queued_rows(&self) -> usize {
        self.queue_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn containers(&self) -> Vec<ContainerInfo> {
        let rows = self.queued_rows();
        self.replicas.load().iter().map(|replica| replica.info(self, rows)).collect()
    }

    /// Whether another replica than that one takes batches.
    pub(crate) fn has_other(&self, serial: u64) -> bool {
        self.replicas.load().iter().any(|other| other.serial != serial && other.is_live())
    }

    fn has_live(&self) -> bool {
        self.replicas.load().iter().any(|replica| replica.is_live())
    }

    /// Why no call can be taken; `None` if one can.
    fn refusal(&self) -> Option<Arc<str>> {
        // A loop over flags as long as there is one, which is nearly always.
        if self.has_live() {
            return None;
        }
        let replicas = self.replicas.load();
        if replicas.iter().any(|replica| replica.state() == ContainerState::Draining) {
            // It still finishes what comes.
            return None;
        }
        let Some(first) = replicas.first() else { return Some("it has no container".into()) };
        let (state, reason) = (first.state(), first.reason());
        Some(format!("{} is {state:?}: {reason}", first.id).into())
    }

    /// Queues a call, or refuses it at once.
    pub(crate) fn call(self: &Arc<Self>, call: ModelCall, now: Instant) -> ModelFuture {
        if let Err(error) = self.check(&call) {
            return ModelFuture::ready(error);
        }
        if let Some(why) = self.refusal() {
            return ModelFuture::ready(self.unavailable(why));
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
            past: Past::default(),
            payload: Reply { to: reply, trace: call.trace.map(|within| within.span()) },
        };
        let rows = entry.rows();
        let Pushed { ticket, gap, wake } = match self.push(entry, now) {
            Ok(pushed) => pushed,
            Err(error) => return ModelFuture::ready(error),
        };
        if shared {
            let queue = Arc::downgrade(self);
            waiters.queued_in(queue as Weak<dyn Requeue>, ticket);
            // Somebody may have joined between the push and the line above.
            self.requeue(ticket, waiters.earliest());
        }
        match wake {
            wake if gap < local::BRIEF => wake.wake_behind(),
            Woken::One(replica) if local::compute_here(self, &replica, rows) => {}
            wake => wake.wake(),
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

    fn push(&self, entry: Entry<Reply>, now: Instant) -> Result<Pushed, PredictError> {
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
        let wake = if ticket.is_some() { state.whom_to_wake(now) } else { Woken::Nobody };
        let gap = now.saturating_duration_since(state.last);
        state.last = now;
        drop(state);
        self.answer_dropped(gone);
        ticket.map(|ticket| Pushed { ticket, gap, wake }).ok_or_else(|| {
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
            entry.payload.send(Err(error));
        }
    }

    /// Lets no call in any more. What is in is finished.
    pub(crate) fn close(&self, why: &str) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| why.into());
        drop(state);
        self.wake_all();
        for replica in self.replicas.load().iter() {
            replica.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// Whoever waits looks again.
    pub(crate) fn wake_all(&self) {
        let sleepers = std::mem::take(&mut self.state.lock().sleepers);
        for sleeper in sleepers {
            sleeper.replica.wake();
        }
    }

    /// Called several times in a second: finds batches that take too long, and calls that wait
    /// for nobody.
    pub(crate) fn tick(&self, now: Instant) {
        for replica in self.replicas.load().iter() {
            if replica.stalls(now) {
                tracing::warn!(
                    model = %self.version.id, container = &*replica.id, reason = replica.reason(),
                    "stalled"
                );
                if self.has_other(replica.serial) {
                    for batch in replica.take_flights(false) {
                        self.give_back(replica, batch.entries, give_back::OVERDUE);
                    }
                }
                // To try it.
                replica.wake();
            }
        }
        if self.queued_rows() == 0 {
            return;
        }
        if self.has_live() {
            // One that was woken for a call may have been lost before it took it.
            self.wake_all();
            return;
        }
        let mut state = self.state.lock();
        let dead = state.queue.purge(now);
        self.queue_rows.store(state.queue.rows(), Ordering::Relaxed);
        drop(state);
        self.answer_dropped(dead);
    }

    /// Whether a call of `rows` could be answered by `deadline`.
    pub(crate) fn mask(&self, rows: usize, deadline: Instant, now: Instant) -> Option<MaskReason> {
        match self.predict(rows, now) {
            None => Some(MaskReason::NoLiveReplica),
            Some(predicted) if now + predicted > deadline => match self.floor() {
                Some(floor) if floor > self.budget() => Some(MaskReason::Infeasible { floor }),
                _ => Some(MaskReason::QueueTooLong { predicted }),
            },
            Some(_) => None,
        }
    }

    /// What a single row takes on the fastest live replica.
    fn floor(&self) -> Option<Duration> {
        let replicas = self.replicas.load();
        replicas.iter().filter(|r| r.is_live()).map(|replica| replica.estimate(1)).min()
    }

    /// How long a call of `rows` that came now would take: the batches before it at the pace of
    /// all live replicas, what is left of the one that is running, and its own.
    fn predict(&self, rows: usize, now: Instant) -> Option<Duration> {
        let queued = self.queued_rows();
        let (mut rows_per_second, mut first_free, mut service) = (0.0, None, None);
        for replica in self.replicas.load().iter() {
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

/// A call is in the queue.
struct Pushed {
    ticket: u64,
    /// Since the call before it.
    gap: Duration,
    wake: Woken,
}

impl Requeue for Model {
    fn requeue(&self, ticket: u64, earliest: Instant) {
        self.state.lock().queue.requeue(ticket, earliest);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
