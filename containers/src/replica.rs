//! One replica: what all may know of it, and what its own thread or task does.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use skysail_proto::Signature;
use tokio::sync::Notify;

use crate::{
    batch::{BatchSizer, LatencyProfile},
    model::Model,
    registry::Registration,
};

mod flights;
mod info;
pub(crate) mod local;
pub(crate) mod remote;
mod settle;
mod start;

use flights::Flight;
pub(crate) use flights::Landed;
pub use info::{ContainerInfo, ContainerState};
use local::Seat;
pub(crate) use settle::{Why, failure, settle};
pub(crate) use start::{Factory, sizer_for, start};

/// Batches that may fail in a row before the container itself is in doubt.
pub(crate) const FAILURES: u32 = 5;
/// How often a container that takes no batches is tried.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(500);

/// What all may know of a replica.
pub(crate) struct Replica {
    /// Unique among all containers; what `ListContainers` shows.
    pub(crate) id: Arc<str>,
    /// Never used again.
    pub(crate) serial: u64,
    /// The smallest that was free among the replicas of the version.
    pub(crate) index: usize,
    pub(crate) address: Arc<str>,
    /// Of a container in another process.
    pub(crate) registration: Option<Arc<Registration>>,
    device: Arc<str>,
    waker: Waker,
    /// It is [`ContainerState::Ready`], for those who should not wait for the lock.
    live: AtomicBool,
    /// Callers may compute with the container.
    anywhere: AtomicBool,
    /// The container of one in this process: its thread's, or for a moment a caller's.
    seat: Mutex<Seat>,
    control: Mutex<Control>,
}

/// What a new replica is made of.
pub(crate) struct Spec {
    pub(crate) id: Arc<str>,
    pub(crate) index: usize,
    pub(crate) address: Arc<str>,
    pub(crate) device: Arc<str>,
    pub(crate) sizer: Box<dyn BatchSizer>,
    pub(crate) profile: LatencyProfile,
    /// Of one round trip; `None`: in process.
    pub(crate) round_trip: Option<Duration>,
    pub(crate) state: ContainerState,
    pub(crate) lease: Option<Instant>,
    pub(crate) registration: Option<Arc<Registration>>,
}

/// How the one who computes is woken.
enum Waker {
    Thread(OnceLock<Thread>),
    Task(Notify),
}

struct Control {
    sizer: Box<dyn BatchSizer>,
    profile: LatencyProfile,
    state: ContainerState,
    reason: String,
    since: SystemTime,
    /// What was sent and is not answered, oldest first.
    flights: VecDeque<Flight>,
    next_flight: u64,
    /// When the last reply came.
    free_since: Instant,
    /// Batches that failed since one did not.
    failures: u32,
    round_trip: Duration,
    /// The container is removed then, unless it is heard of.
    lease: Option<Instant>,
    /// How long it may finish what it has.
    drain_until: Option<Instant>,
    infeasible_told: bool,
}

/// Whether a replica can be given a batch.
pub(crate) enum Turn {
    Now,
    At(Instant),
    No,
}

/// What a replica could do for a call.
pub(crate) struct Load {
    /// At full batches.
    pub(crate) rows_per_second: f64,
    /// Until it is free.
    pub(crate) busy: Duration,
    /// The batch that the call would be in.
    pub(crate) service: Duration,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Replica {
    pub(crate) fn new(spec: Spec) -> Self {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Self {
            id: spec.id,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            index: spec.index,
            address: spec.address,
            registration: spec.registration,
            device: spec.device,
            waker: match spec.round_trip {
                None => Waker::Thread(OnceLock::new()),
                Some(_) => Waker::Task(Notify::new()),
            },
            live: AtomicBool::new(spec.state == ContainerState::Ready),
            anywhere: AtomicBool::new(false),
            seat: Mutex::default(),
            control: Mutex::new(Control {
                sizer: spec.sizer,
                profile: spec.profile,
                state: spec.state,
                reason: String::new(),
                since: SystemTime::now(),
                flights: VecDeque::new(),
                next_flight: 0,
                free_since: Instant::now(),
                failures: 0,
                round_trip: spec.round_trip.unwrap_or_default(),
                lease: spec.lease,
                drain_until: None,
                infeasible_told: false,
            }),
        }
    }

    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.waker, Waker::Task(_))
    }

    pub(crate) fn wake(&self) {
        match &self.waker {
            Waker::Thread(thread) => {
                if let Some(thread) = thread.get() {
                    thread.unpark();
                }
            }
            Waker::Task(notify) => notify.notify_one(),
        }
    }

    /// The calling thread is the one who computes.
    pub(crate) fn is_this_thread(&self) {
        if let Waker::Thread(slot) = &self.waker {
            let _ = slot.set(thread::current());
        }
    }

    /// Until somebody wakes the one who computes. Never for a thread, which parks.
    pub(crate) async fn woken(&self) {
        match &self.waker {
            Waker::Task(notify) => notify.notified().await,
            Waker::Thread(_) => std::future::pending().await,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.control.lock().sizer.limit().max(1)
    }

    pub(crate) fn predict(&self, rows: usize, now: Instant) -> Duration {
        self.control.lock().profile.predict(rows, now)
    }

    /// Without the discount for age.
    pub(crate) fn estimate(&self, rows: usize) -> Duration {
        self.control.lock().profile.estimate(rows)
    }

    /// When a batch of `rows` would end here: what is outstanding, and its own time.
    pub(crate) fn finish(&self, rows: usize, now: Instant) -> Instant {
        let control = self.control.lock();
        now + control.busy(now) + control.profile.predict(rows, now)
    }

    /// The same without margin.
    pub(crate) fn expected_finish(&self, rows: usize, now: Instant) -> Instant {
        let control = self.control.lock();
        now + control.expected_busy(now) + control.profile.expect(rows, now)
    }

    /// What a batch of `rows` takes at the worst; zero as long as nothing is known.
    pub(crate) fn at_worst(&self, rows: usize) -> Duration {
        self.control.lock().profile.at_worst(rows)
    }

    pub(crate) fn free_since(&self) -> Instant {
        self.control.lock().free_since
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.control.lock().state
    }

    pub(crate) fn reason(&self) -> String {
        self.control.lock().reason.clone()
    }

    /// In process with nothing outstanding; in another process also when the first of at most two
    /// is predicted to end within one round trip, so that the container need not wait for it.
    pub(crate) fn turn(&self, now: Instant) -> Turn {
        let control = self.control.lock();
        if !matches!(control.state, ContainerState::Ready | ContainerState::Draining) {
            return Turn::No;
        }
        match (control.flights.len(), control.flights.front()) {
            (0, _) => Turn::Now,
            (1, Some(flight)) if self.is_remote() => {
                let trip = control.round_trip;
                let opens = flight.due.checked_sub(trip).unwrap_or(now);
                let late = (flight.due - flight.begun) / 2;
                if now < opens {
                    Turn::At(opens)
                } else if now <= flight.due + trip.max(late) {
                    Turn::Now
                } else {
                    // Who knows when that one ends; what is sent now may be lost with it.
                    Turn::No
                }
            }
            _ => Turn::No,
        }
    }

    /// For a call of `rows`, behind `queued` rows. Without margins: who is masked here is refused for
    /// certain, so it must be more likely late than not. What is admitted and turns out late is
    /// given up by the queue.
    pub(crate) fn load(&self, rows: usize, queued: usize, now: Instant) -> Option<Load> {
        if !self.is_live() {
            return None;
        }
        let control = self.control.lock();
        let limit = control.sizer.limit().max(1);
        let full = control.profile.expect(limit, now).as_secs_f64().max(1e-9);
        Some(Load {
            rows_per_second: limit as f64 / full,
            busy: control.expected_busy(now),
            service: control.profile.expect((rows + queued).min(limit).max(rows), now),
        })
    }

    pub(crate) fn info(&self, model: &Model, queue_rows: usize) -> ContainerInfo {
        let id = &model.version.id;
        let control = self.control.lock();
        let batches = control.flights.iter().filter_map(|flight| flight.batch.as_ref());
        ContainerInfo {
            id: Arc::clone(&self.id),
            replica: self.index,
            model: Arc::clone(&id.name),
            version: Arc::clone(&id.version),
            address: Arc::clone(&self.address),
            device: Arc::clone(&self.device),
            state: control.state,
            reason: control.reason.clone(),
            batch_limit: control.sizer.limit(),
            in_flight: batches.map(|batch| batch.entries.len()).sum(),
            queue_rows,
            feasible: control.profile.estimate(1) <= model.budget(),
            since: control.since,
            batch: model.config.batch,
            batch_wait: model.config.batch_wait,
            objective: model.objective(),
            batch_target: model.target(),
            max_batch_rows: model.version.max_batch_rows,
        }
    }

    /// True if that is new. A container that drains does nothing else any more.
    pub(crate) fn set_state(&self, state: ContainerState, reason: &str) -> bool {
        let mut control = self.control.lock();
        self.set(&mut control, state, reason)
    }

    fn set(&self, control: &mut Control, state: ContainerState, reason: &str) -> bool {
        if control.state == ContainerState::Draining {
            return false;
        }
        reason.clone_into(&mut control.reason);
        if control.state == state {
            return false;
        }
        if state == ContainerState::Ready {
            control.failures = 0;
        }
        control.state = state;
        control.since = SystemTime::now();
        self.live.store(state == ContainerState::Ready, Ordering::Release);
        if state == ContainerState::Ready {
            tracing::info!(container = &*self.id, "ready");
        }
        true
    }

    /// It finishes what it has until then, and takes nothing new.
    pub(crate) fn drain(&self, until: Instant, why: &str) {
        let mut control = self.control.lock();
        self.set(&mut control, ContainerState::Draining, why);
        control.drain_until = Some(control.drain_until.map_or(until, |have| have.min(until)));
        drop(control);
        self.wake();
    }

    pub(crate) fn drain_until(&self) -> Option<Instant> {
        self.control.lock().drain_until
    }

    pub(crate) fn lease(&self) -> Option<Instant> {
        self.control.lock().lease
    }

    /// Heard of. False where it has no lease.
    pub(crate) fn renew(&self, until: Instant) -> bool {
        let mut control = self.control.lock();
        let leased = control.lease.is_some();
        if leased {
            control.lease = Some(until);
        }
        leased
    }

    pub(crate) fn set_round_trip(&self, round_trip: Duration) {
        self.control.lock().round_trip = round_trip;
    }

    pub(crate) fn set_failures(&self, failures: u32) {
        self.control.lock().failures = failures;
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.control.lock().flights.is_empty()
    }

    /// When it last answered anything.
    pub(crate) fn last_reply(&self) -> Instant {
        self.control.lock().free_since
    }

    /// A probe of `rows` took so long, with nothing else under way.
    pub(crate) fn learn(&self, rows: usize, service: Duration, now: Instant) {
        let mut control = self.control.lock();
        control.free_since = now;
        control.profile.observe(rows, service, now);
    }

    /// What a single row takes, once, where that is above `budget`.
    pub(crate) fn newly_infeasible(&self, budget: Duration) -> Option<Duration> {
        let mut control = self.control.lock();
        let floor = control.profile.estimate(1);
        let infeasible = floor > budget;
        let new = infeasible && !control.infeasible_told;
        // With a margin, so that it is not told at every turn of a noisy estimate.
        if infeasible || floor < budget.mul_f64(0.8) {
            control.infeasible_told = infeasible;
        }
        new.then_some(floor)
    }
}

impl Control {
    /// Until what is outstanding should be done. What is late already is expected to take as long
    /// again as it is late.
    fn busy(&self, now: Instant) -> Duration {
        self.flights.back().map_or(Duration::ZERO, |flight| away(flight.due, now))
    }

    /// The same without margin.
    fn expected_busy(&self, now: Instant) -> Duration {
        self.flights.back().map_or(Duration::ZERO, |flight| away(flight.expected, now))
    }
}

/// What is left until `end`; when it has passed, as much as it has been passed by.
fn away(end: Instant, now: Instant) -> Duration {
    if end > now { end - now } else { now - end }
}

/// A fixed first dimension means batches of one query.
pub(crate) fn free_rows(signature: &Signature) -> bool {
    signature.inputs.iter().all(|spec| spec.shape.first() == Some(&-1))
}

/// For messages.
pub(crate) fn round(duration: Duration) -> Duration {
    let micros = duration.as_micros();
    let step = if micros < 10_000 { 1 } else { 1_000 };
    Duration::from_micros(u64::try_from(micros / step * step).unwrap_or(u64::MAX))
}
