//! What was sent to a replica and is not answered yet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, trace::SpanRef};

use super::{ContainerState, Replica, round};
use crate::{batch::BatchSample, model::Batch, observer::BatchTrace};

/// A batch is overdue after so many times what it should take: its own time, and three times that.
pub(super) const OVERDUE: u32 = 4;
/// No batch of another process is overdue before that, whatever was predicted: a scheduler's
/// hiccup is no stall. Nor before a quarter of what the objective allows: three quarters are left
/// for another replica.
const LEAST_REMOTE: Duration = Duration::from_millis(50);
/// The same in this process, whose threads share the processors with everything else here.
const LEAST_LOCAL: Duration = Duration::from_secs(1);
/// A batch under way.
pub(super) struct Flight {
    pub(super) number: u64,
    /// `None`: it was taken away, for another replica.
    pub(super) batch: Option<Batch>,
    /// When the container can have begun with it.
    pub(super) begun: Instant,
    pub(super) dispatched: Instant,
    /// When it will end, as likely sooner as later.
    pub(super) expected: Instant,
    /// When it should have ended, with a margin.
    pub(super) due: Instant,
    /// When it is overdue.
    pub(super) overdue: Instant,
}

/// What the one who computes needs of a batch; the batch itself stays where others may take it.
pub(crate) struct Work {
    pub(crate) flight: u64,
    pub(crate) inputs: Vec<Arc<Inputs>>,
    pub(crate) outputs: Arc<[Arc<str>]>,
    /// Until when anybody waits for any of it.
    pub(crate) latest: Instant,
    /// Nobody waits any more, and it is overdue.
    pub(crate) give_up: Instant,
    /// The batch's span, where a query in it is sampled.
    pub(crate) trace: Option<SpanRef>,
}

/// A batch that came back.
pub(crate) struct Landed {
    /// `None`: another replica has it.
    pub(crate) batch: Option<Batch>,
    pub(crate) dispatched: Instant,
    pub(crate) sample: BatchSample,
    pub(crate) next_limit: usize,
    /// Batches that failed in a row, this one included.
    pub(crate) failures: u32,
}

impl Replica {
    pub(crate) fn begin(&self, mut batch: Batch, budget: Duration, now: Instant) -> Work {
        let inputs = batch.entries.iter().map(|entry| Arc::clone(&entry.inputs)).collect();
        let first = batch.entries.first();
        let outputs = first.map(|entry| Arc::clone(&entry.outputs)).unwrap_or_default();
        let latest = batch.entries.iter().map(|entry| entry.waiters.latest()).max().unwrap_or(now);
        let mut control = self.control.lock();
        let begun = control.flights.back().map_or(now, |before| before.due.max(now));
        let least = if self.is_remote() { LEAST_REMOTE.max(budget / 4) } else { LEAST_LOCAL };
        let worst = control.profile.at_worst(batch.rows);
        // As long as nothing is known of its time.
        let allowed =
            if worst.is_zero() { LEAST_LOCAL.max(least) } else { (worst * OVERDUE).max(least) };
        let number = control.next_flight;
        control.next_flight += 1;
        batch.trace = self.trace(&batch, number, now);
        let trace = batch.trace.as_ref().map(|trace| trace.span);
        let due = begun + control.profile.predict(batch.rows, now);
        let expected = begun + control.profile.expect(batch.rows, now);
        let overdue = begun + allowed;
        let flight =
            Flight { number, batch: Some(batch), begun, dispatched: now, expected, due, overdue };
        control.flights.push_back(flight);
        Work { flight: number, inputs, outputs, latest, give_up: latest.max(overdue), trace }
    }

    /// A batch has one parent in OpenTelemetry's trees; the other queries are linked.
    fn trace(&self, batch: &Batch, number: u64, dispatched: Instant) -> Option<Box<BatchTrace>> {
        let mut sampled = batch.entries.iter().filter_map(|entry| entry.payload.trace);
        let parent = sampled.next()?;
        let span = parent.derive(self.serial.rotate_left(32) ^ number);
        Some(Box::new(BatchTrace { span, parent, links: sampled.collect(), dispatched }))
    }

    /// Takes a batch back. What was learned of its time counts where the container computed it,
    /// or, `too_long`, was not done in all that time.
    pub(crate) fn end(
        &self,
        flight: u64,
        failed: bool,
        too_long: bool,
        target: Duration,
        now: Instant,
    ) -> Option<Landed> {
        let mut control = self.control.lock();
        let at = control.flights.iter().position(|f| f.number == flight)?;
        let flight = control.flights.remove(at)?;
        let service = now.saturating_duration_since(flight.dispatched.max(control.free_since));
        control.free_since = now;
        let shape = flight.batch.as_ref().map(|batch| (batch.rows, batch.limit, batch.limited));
        let (rows, limit, limited) = shape.unwrap_or((1, 1, false));
        let sample = BatchSample { rows, limit, limited, service, target };
        // A stall says nothing of what batches take.
        if shape.is_some() && control.state != ContainerState::Stalled && (!failed || too_long) {
            control.profile.observe(rows, service, now);
            control.sizer.observe(&sample);
        }
        if !failed {
            control.failures = 0;
        } else if !too_long {
            control.failures += 1;
        }
        Some(Landed {
            batch: flight.batch,
            dispatched: flight.dispatched,
            sample,
            next_limit: control.sizer.limit(),
            failures: control.failures,
        })
    }

    /// Takes away what it holds, and forgets that it was sent where `forget`: no reply can come.
    pub(crate) fn take_flights(&self, forget: bool) -> Vec<Batch> {
        let mut control = self.control.lock();
        let batches = control.flights.iter_mut().filter_map(|f| f.batch.take()).collect();
        if forget {
            control.flights.clear();
        }
        batches
    }

    /// Forgets batches that another replica has by now.
    pub(crate) fn forget_given_away(&self) {
        self.control.lock().flights.retain(|flight| flight.batch.is_some());
    }

    /// Whether what it has computed longest takes too long; then it is [`ContainerState::Stalled`].
    pub(crate) fn stalls(&self, now: Instant) -> bool {
        let mut control = self.control.lock();
        if control.state != ContainerState::Ready {
            return false;
        }
        let Some(flight) = control.flights.front().filter(|flight| now > flight.overdue) else {
            return false;
        };
        let reason = format!(
            "a batch has taken {:?}, expected {:?}",
            round(now - flight.begun),
            round(flight.due - flight.begun)
        );
        self.set(&mut control, ContainerState::Stalled, &reason)
    }
}
