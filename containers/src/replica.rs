//! One replica: a thread that owns a container and computes batch after batch.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use skysail_proto::{Inputs, ModelReply, PredictError, Signature, Tensor};
use tokio::sync::oneshot;

use crate::{
    batch::{BatchSample, BatchSizer, LatencyProfile},
    config::Device,
    container::{Container, check_answers},
    error::ContainerError,
    model::{Batch, Model, Reply},
    observer::BatchReport,
    queue::Entry,
};

mod start;

pub(crate) use start::{Factory, sizer_for, start};

/// Whether a container takes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContainerState {
    /// It is being opened.
    Starting,
    /// It takes batches.
    Ready,
    /// A batch is overdue.
    Stalled,
    /// It is lost; the reason says how.
    Broken,
    /// It finishes what it has and takes no more.
    Draining,
}

/// What can be told about one container.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    /// Unique among all containers.
    pub id: String,
    /// The model's name.
    pub model: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// `in-process`.
    pub address: String,
    /// Where it computes.
    pub device: String,
    /// Whether it takes batches.
    pub state: ContainerState,
    /// Why it does not.
    pub reason: String,
    /// The most rows of a batch of several queries.
    pub batch_limit: usize,
    /// Queries that it holds.
    pub in_flight: usize,
    /// Rows that wait for the model version.
    pub queue_rows: usize,
    /// False: the objective is below what a single row takes.
    pub feasible: bool,
    /// When its state last changed.
    pub since: SystemTime,
}

/// What all may know of a replica; its thread alone has the container.
pub(crate) struct Replica {
    pub(crate) index: usize,
    device: Device,
    control: Mutex<Control>,
    in_flight: AtomicUsize,
}

struct Control {
    sizer: Box<dyn BatchSizer>,
    profile: LatencyProfile,
    state: ContainerState,
    reason: String,
    since: SystemTime,
    /// When the running batch should end.
    busy_until: Option<Instant>,
    /// When the last one ended.
    free_since: Instant,
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
        f.debug_struct("Replica").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Replica {
    pub(crate) fn new(
        index: usize,
        device: Device,
        sizer: Box<dyn BatchSizer>,
        profile: LatencyProfile,
    ) -> Self {
        Self {
            index,
            device,
            control: Mutex::new(Control {
                sizer,
                profile,
                state: ContainerState::Ready,
                reason: String::new(),
                since: SystemTime::now(),
                busy_until: None,
                free_since: Instant::now(),
            }),
            in_flight: AtomicUsize::new(0),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.control.lock().sizer.limit().max(1)
    }

    pub(crate) fn predict(&self, rows: usize, now: Instant) -> Duration {
        self.control.lock().profile.predict(rows, now)
    }

    /// When a batch of `rows` would end here; `None` if it takes none.
    pub(crate) fn finish(&self, rows: usize, now: Instant) -> Option<Instant> {
        let control = self.control.lock();
        (control.state == ContainerState::Ready).then(|| {
            let free = control.busy_until.map_or(now, |until| until.max(now));
            free + control.profile.predict(rows, now)
        })
    }

    pub(crate) fn free_since(&self) -> Instant {
        self.control.lock().free_since
    }

    pub(crate) fn is_live(&self) -> bool {
        self.control.lock().state == ContainerState::Ready
    }

    /// For a call of `rows`, behind `queued` rows.
    pub(crate) fn load(&self, rows: usize, queued: usize, now: Instant) -> Option<Load> {
        let control = self.control.lock();
        if control.state != ContainerState::Ready {
            return None;
        }
        let limit = control.sizer.limit().max(1);
        let full = control.profile.predict(limit, now).as_secs_f64().max(1e-9);
        Some(Load {
            rows_per_second: limit as f64 / full,
            busy: control
                .busy_until
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
            service: control.profile.predict((rows + queued).min(limit).max(rows), now),
        })
    }

    pub(crate) fn info(&self, model: &Model, queue_rows: usize) -> ContainerInfo {
        let id = &model.version.id;
        let control = self.control.lock();
        ContainerInfo {
            id: format!("{id}/{}", self.index),
            model: Arc::clone(&id.name),
            version: Arc::clone(&id.version),
            address: "in-process".into(),
            device: self.device.to_string(),
            state: control.state,
            reason: control.reason.clone(),
            batch_limit: control.sizer.limit(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            queue_rows,
            feasible: control.profile.predict(1, Instant::now()) <= model.budget(),
            since: control.since,
        }
    }

    fn set_state(&self, state: ContainerState, reason: &str) {
        let mut control = self.control.lock();
        if control.state != state {
            control.state = state;
            control.reason = reason.into();
            control.since = SystemTime::now();
        }
    }

    fn begin(&self, queries: usize, rows: usize, now: Instant) {
        self.in_flight.store(queries, Ordering::Relaxed);
        let mut control = self.control.lock();
        control.busy_until = Some(now + control.profile.predict(rows, now));
    }

    /// Learns from a batch that was computed (`None`: it failed); answers the new limit.
    fn end(&self, sample: Option<&BatchSample>, now: Instant) -> usize {
        let mut control = self.control.lock();
        control.busy_until = None;
        control.free_since = now;
        if let Some(sample) = sample {
            control.profile.observe(sample.rows, sample.service, now);
            control.sizer.observe(sample);
        }
        control.sizer.limit()
    }
}

/// Computes batches until there are no more to come, or the container is lost.
pub(crate) fn run(model: &Model, replica: &Replica, mut container: Box<dyn Container>) {
    while let Some(batch) = model.next_batch(replica.index) {
        if let Err(why) = compute(model, replica, container.as_mut(), batch) {
            tracing::error!(model = %model.version.id, replica = replica.index, why, "replica lost");
            replica.set_state(ContainerState::Broken, &why);
            model.replica_lost(&why);
            // A container that panicked may panic again when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(container)));
            return;
        }
    }
    replica.set_state(ContainerState::Draining, "shut down");
}

/// # Errors
///
/// The container panicked, with what it said. All calls have been answered.
fn compute(
    model: &Model,
    replica: &Replica,
    container: &mut dyn Container,
    batch: Batch,
) -> Result<(), String> {
    let dispatched = Instant::now();
    replica.begin(batch.entries.len(), batch.rows, dispatched);
    let inputs: Vec<Arc<Inputs>> =
        batch.entries.iter().map(|entry| Arc::clone(&entry.inputs)).collect();
    let outputs = batch.entries.first().map(|first| Arc::clone(&first.outputs)).unwrap_or_default();
    let result = guarded(container, &inputs, &outputs);
    let ended = Instant::now();
    let service = ended - dispatched;
    let sample = BatchSample {
        rows: batch.rows,
        limit: batch.limit,
        limited: batch.limited,
        service,
        target: model.target(),
    };
    let next_limit = replica.end(result.is_ok().then_some(&sample), ended);
    report(model, replica, &batch, &sample, dispatched, result.is_err(), next_limit);
    let batch_rows = u32::try_from(batch.rows).unwrap_or(u32::MAX);
    let lost = match result {
        Ok(answers) => {
            for (entry, outputs) in batch.entries.into_iter().zip(answers) {
                answer(entry, outputs, batch_rows, dispatched, service);
            }
            Ok(())
        }
        Err(ContainerError::Panicked(why)) => {
            fail(model, batch.entries, &ContainerError::Panicked(why.clone()));
            Err(why)
        }
        Err(_) if batch.entries.len() > 1 => one_by_one(model, container, batch.entries),
        Err(error) => {
            fail(model, batch.entries, &error);
            Ok(())
        }
    };
    replica.in_flight.store(0, Ordering::Relaxed);
    lost
}

/// A batch failed: one query may have spoilt it for all, so that each is computed alone, as long
/// as it is still wanted.
fn one_by_one(
    model: &Model,
    container: &mut dyn Container,
    entries: Vec<Entry<Reply>>,
) -> Result<(), String> {
    let mut entries = entries.into_iter();
    while let Some(entry) = entries.next() {
        let dispatched = Instant::now();
        if entry.waiters.is_abandoned() || entry.waiters.latest() <= dispatched {
            let why = skysail_proto::error::LateReason::Computing;
            let late = PredictError::Late { model: model.version.id.clone(), why };
            let _ = entry.payload.send(Err(late));
            continue;
        }
        match guarded(container, std::slice::from_ref(&entry.inputs), &entry.outputs) {
            Ok(mut answers) => {
                let outputs = answers.pop().unwrap_or_default();
                let rows = u32::try_from(entry.rows()).unwrap_or(u32::MAX);
                answer(entry, outputs, rows, dispatched, dispatched.elapsed());
            }
            Err(ContainerError::Panicked(why)) => {
                let error = ContainerError::Panicked(why.clone());
                fail(model, std::iter::once(entry).chain(entries), &error);
                return Err(why);
            }
            Err(error) => fail(model, [entry], &error),
        }
    }
    Ok(())
}

/// Runs the container; a panic in it is an error, and so is an answer of the wrong form.
fn guarded(
    container: &mut dyn Container,
    inputs: &[Arc<Inputs>],
    outputs: &[Arc<str>],
) -> Result<Vec<Vec<Tensor>>, ContainerError> {
    // What a panic may have left half done is the container, and that is not used again.
    let result = catch_unwind(AssertUnwindSafe(|| container.predict_batch(inputs, outputs)));
    let answers =
        result.map_err(|payload| ContainerError::Panicked(panic_message(&*payload)))??;
    check_answers(&answers, inputs, outputs)?;
    Ok(answers)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it gave no reason".into())
}

fn answer(
    entry: Entry<Reply>,
    outputs: Vec<Tensor>,
    batch_rows: u32,
    dispatched: Instant,
    compute: Duration,
) {
    let queue = dispatched.saturating_duration_since(entry.queued);
    let reply = ModelReply { outputs: outputs.into(), cached: false, batch_rows, queue, compute };
    // Whoever asked may have gone.
    let _ = entry.payload.send(Ok(reply));
}

fn fail(model: &Model, entries: impl IntoIterator<Item = Entry<Reply>>, error: &ContainerError) {
    let error =
        PredictError::Container { model: model.version.id.clone(), why: error.to_string().into() };
    for entry in entries {
        let _ = entry.payload.send(Err(error.clone()));
    }
}

fn report(
    model: &Model,
    replica: &Replica,
    batch: &Batch,
    sample: &BatchSample,
    dispatched: Instant,
    failed: bool,
    next_limit: usize,
) {
    let waits = batch.entries.iter().map(|e| dispatched.saturating_duration_since(e.queued));
    let queue_max = waits.clone().max().unwrap_or_default();
    let total: Duration = waits.sum();
    let queries = batch.entries.len();
    model.observer.batch(&BatchReport {
        model: &model.version.id,
        replica: replica.index,
        queries,
        rows: batch.rows,
        limit: batch.limit,
        release: batch.release,
        queue_mean: total / u32::try_from(queries.max(1)).unwrap_or(u32::MAX),
        queue_max,
        compute: sample.service,
        failed,
        next_limit,
    });
}
