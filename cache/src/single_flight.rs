//! Equal misses run once.
//!
//! A flight is one call to the model on behalf of all who want its answer. It runs in a task of
//! its own, so that it outlives the caller that started it; what the queue below may know of the
//! callers (their deadlines, and whether any is left) travels with it as [`Waiters`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{ModelReply, PredictError, Waiters, call::ModelResult, waiters::Waiter};
use tokio::sync::watch;

use crate::{CacheKey, Generation, Kept, sync::Mutex};

/// Locks of the table of flights. More would only help where many cores miss at once.
const SHARDS: usize = 16;

/// All flights in progress.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// Hashed with a random seed: a client chooses the inputs, and so the digests' bits.
    shards: [Mutex<HashMap<CacheKey, Arc<Flight>>>; SHARDS],
}

#[derive(Debug)]
struct Flight {
    generation: Generation,
    /// How old the answer may be that it brings; zero where it asks the model in any case.
    max_age: Duration,
    waiters: Arc<Waiters>,
    /// The deadline of the caller that started it, by which the queue judged it first.
    judged_by: Instant,
    outcome: watch::Receiver<Option<ModelResult>>,
}

/// A wish to have a call answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Booking {
    pub(crate) key: CacheKey,
    pub(crate) deadline: Instant,
    pub(crate) generation: Generation,
    /// The age up to which an answer of a slower tier would do; zero where there is none.
    pub(crate) max_age: Duration,
    /// Join no flight that all others have left: the last one like it was given up.
    pub(crate) shun_abandoned: bool,
}

/// How a call gets its answer.
pub(crate) enum Boarding {
    /// A flight landed just now and left it in the store.
    Kept(Kept),
    /// A flight in progress brings it.
    Joined(Seat),
    /// Nobody is at it: the caller must see that the departure flies.
    Lead(Seat, Departure),
}

/// A caller's place in a flight. Dropping it tells the queue that this caller has gone.
#[derive(Debug)]
pub(crate) struct Seat {
    _waiter: Waiter,
    judged_by: Instant,
    outcome: watch::Receiver<Option<ModelResult>>,
}

/// The duty to bring a flight to its end. Dropping it, in a panic say, ends the flight as well:
/// its entry never stays, and those who wait are told.
#[derive(Debug)]
pub(crate) struct Departure {
    flights: Arc<Flights>,
    key: CacheKey,
    flight: Arc<Flight>,
    outcome: watch::Sender<Option<ModelResult>>,
}

impl Flights {
    /// Finds a place for a call. `look` looks into the store once more where no flight is in
    /// progress: one may have landed since the caller looked.
    pub(crate) fn board(
        self: &Arc<Self>,
        booking: Booking,
        look: impl FnOnce() -> Option<Kept>,
    ) -> Boarding {
        let mut shard = self.shard(&booking.key).lock();
        if let Some(flight) = shard.get(&booking.key).filter(|flight| flight.takes(&booking)) {
            return Boarding::Joined(Seat {
                _waiter: flight.waiters.join(booking.deadline),
                judged_by: flight.judged_by,
                outcome: flight.outcome.clone(),
            });
        }
        if let Some(kept) = look() {
            return Boarding::Kept(kept);
        }
        let (waiters, waiter) = Waiters::new(booking.deadline);
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight {
            generation: booking.generation,
            max_age: booking.max_age,
            waiters,
            judged_by: booking.deadline,
            outcome: outcome.clone(),
        });
        // Where one is in progress that this call must not share, it flies on unlisted.
        shard.insert(booking.key, Arc::clone(&flight));
        let seat = Seat { _waiter: waiter, judged_by: booking.deadline, outcome };
        let flights = Arc::clone(self);
        Boarding::Lead(seat, Departure { flights, key: booking.key, flight, outcome: sender })
    }

    /// Flights in progress.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, key: &CacheKey) -> &Mutex<HashMap<CacheKey, Arc<Flight>>> {
        &self.shards[usize::from(key.input[0] ^ key.identity[0]) % SHARDS]
    }
}

impl Flight {
    fn takes(&self, booking: &Booking) -> bool {
        self.generation == booking.generation
            && (self.max_age.is_zero() || self.max_age <= booking.max_age)
            && !(booking.shun_abandoned && self.waiters.is_abandoned())
    }
}

impl Departure {
    pub(crate) fn waiters(&self) -> Arc<Waiters> {
        Arc::clone(&self.flight.waiters)
    }

    pub(crate) fn key(&self) -> CacheKey {
        self.key
    }

    pub(crate) fn generation(&self) -> Generation {
        self.flight.generation
    }

    /// Ends the flight. Success must be in the store already, so that whoever comes from here on
    /// finds it there.
    pub(crate) fn land(self, result: ModelResult) {
        // Off the table first: a waiter that queues once again must not find this flight.
        self.unlist();
        self.outcome.send_replace(Some(result));
    }

    fn unlist(&self) {
        let mut shard = self.flights.shard(&self.key).lock();
        if shard.get(&self.key).is_some_and(|listed| Arc::ptr_eq(listed, &self.flight)) {
            shard.remove(&self.key);
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.unlist();
    }
}

impl Seat {
    /// Waits for the flight to land. `Err`: it failed, for a reason that need not hold for a
    /// caller with this deadline.
    pub(crate) async fn landed(
        &mut self,
        deadline: Instant,
        now: impl FnOnce() -> Instant,
    ) -> Result<ModelResult, PredictError> {
        let result = match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        match result {
            Some(Err(error)) if !is_final(&error, deadline, self.judged_by, now()) => Err(error),
            Some(result) => Ok(result),
            None => {
                let why = "the task that asked the model ended without an answer";
                Ok(Err(PredictError::Internal(why.into())))
            }
        }
    }
}

/// Whether a flight's failure ends a waiter with this deadline too.
fn is_final(error: &PredictError, deadline: Instant, judged_by: Instant, now: Instant) -> bool {
    match error {
        // Who is due no later than the one that the queue judged cannot be served either.
        PredictError::Overloaded { .. } | PredictError::Late { .. } => {
            deadline <= now || deadline <= judged_by
        }
        PredictError::ReplicaLost { .. } | PredictError::Cancelled => deadline <= now,
        // The rest does not depend on who asks, nor on when it is due.
        _ => true,
    }
}

/// A kept answer as a reply.
pub(crate) fn kept_reply(kept: Kept) -> ModelReply {
    ModelReply {
        outputs: kept.outputs,
        cached: true,
        batch_rows: 0,
        queue: Duration::ZERO,
        compute: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
