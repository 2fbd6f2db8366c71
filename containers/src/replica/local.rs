//! A replica in this process: its thread computes batch after batch; what is brief is computed
//! where it was asked for.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, Tensor};

use super::{ContainerState, FAILURES, Factory, PROBE_EVERY, Replica, settle, start};
use crate::{
    container::{Container, check_answers},
    error::ContainerError,
    model::{Batch, Model, Next},
};

/// A container that cannot be opened again is tried at most so seldom.
const REOPEN_AT_MOST: Duration = Duration::from_secs(30);

/// The longest that a call may keep the thread that made it: about what waking another one and
/// being woken by it takes. Calls that come closer together than that are left to the replica's
/// thread, which finds the next ones in the queue when it has woken, and batches them.
pub(crate) const BRIEF: Duration = Duration::from_micros(100);

/// Where the container is. Who holds its lock computes.
#[derive(Default)]
pub(super) struct Seat {
    container: Option<Box<dyn Container>>,
    /// What the thread has to look after before it computes again.
    trouble: Option<Trouble>,
}

enum Trouble {
    /// It panicked; it is used no more.
    Panicked(String),
    /// So many batches failed in a row, the last one with that error.
    Failing(u32, String),
}

/// Computes batches until there are no more to come. A container that panicked, or fails all it
/// gets and a trial too, is opened again.
pub(crate) fn run(
    model: &Model,
    replica: &Arc<Replica>,
    factory: &Factory,
    container: Box<dyn Container>,
) {
    replica.is_this_thread();
    let mut container = Some(container);
    while let Some(open) = container.take() {
        replica.anywhere.store(open.computes_anywhere(), Ordering::Relaxed);
        *replica.seat.lock() = Seat { container: Some(open), trouble: None };
        match serve(model, replica) {
            Ended::Closed => break,
            Ended::Lost(why) => {
                if replica.set_state(ContainerState::Broken, &why) {
                    tracing::error!(model = %model.version.id, container = &*replica.id, why, "lost");
                }
                model.replica_lost();
                container = reopen(model, replica, factory, &why);
            }
        }
    }
    replica.drain(Instant::now(), "shut down");
    *replica.seat.lock() = Seat::default();
}

enum Ended {
    Closed,
    Lost(String),
}

fn serve(model: &Model, replica: &Arc<Replica>) -> Ended {
    loop {
        // Held until it is noted that this one sleeps: nobody else looks for work meanwhile.
        let mut seat = replica.seat.lock();
        if let Some(why) =
            seat.trouble.take().and_then(|trouble| doubt(model, replica, &mut seat, trouble))
        {
            // A container that panicked may panic again when it is dropped.
            let container = seat.container.take();
            let _ = catch_unwind(AssertUnwindSafe(move || drop(container)));
            return Ended::Lost(why);
        }
        let until = match model.next(replica) {
            Next::Batch(batch) => {
                compute(model, replica, &mut seat, batch);
                continue;
            }
            Next::Wait(until) => until,
            Next::Closed => return Ended::Closed,
        };
        drop(seat);
        match until {
            None => thread::park(),
            Some(until) => thread::park_timeout(until.saturating_duration_since(Instant::now())),
        }
    }
}

/// Computes on the calling thread what an idle replica was to be woken for: one call of `rows`.
/// False where that may take too long, or the replica's own thread is at it.
pub(crate) fn compute_here(model: &Model, replica: &Arc<Replica>, rows: usize) -> bool {
    if !replica.anywhere.load(Ordering::Relaxed) {
        return false;
    }
    let brief = |rows, left: Duration| {
        let worst = replica.at_worst(rows);
        !worst.is_zero() && worst <= left
    };
    if !brief(rows, BRIEF) {
        return false;
    }
    let Some(mut seat) = replica.seat.try_lock() else { return false };
    let begun = Instant::now();
    loop {
        if seat.trouble.is_some() || seat.container.is_none() {
            break;
        }
        match model.next(replica) {
            Next::Batch(batch) => compute(model, replica, &mut seat, batch),
            // It sleeps again.
            Next::Wait(None) => return true,
            Next::Wait(Some(_)) | Next::Closed => break,
        }
        // What came meanwhile is computed, too, if that is as brief.
        let more = model.queued_rows();
        if more > 0 && !brief(more, BRIEF.saturating_sub(begun.elapsed())) {
            break;
        }
    }
    drop(seat);
    replica.wake();
    true
}

/// Computes a batch and answers it.
fn compute(model: &Model, replica: &Arc<Replica>, seat: &mut Seat, batch: Batch) {
    let Some(container) = &mut seat.container else { return };
    let work = replica.begin(batch, model.budget(), Instant::now());
    let result = guarded(container.as_mut(), &work.inputs, &work.outputs);
    let panicked = match &result {
        Err(ContainerError::Panicked(why)) => Some(format!("the container panicked: {why}")),
        _ => None,
    };
    if let Some(why) = &panicked {
        // Before its queries are passed on: not to this one.
        replica.set_state(ContainerState::Broken, why);
    }
    let error = result.as_ref().err().map(ToString::to_string);
    let failures = settle(model, replica, work.flight, result);
    if let Some(why) = panicked {
        seat.trouble = Some(Trouble::Panicked(why));
        return;
    }
    // Whatever it was told of: it has come back.
    if replica.state() == ContainerState::Stalled {
        replica.set_state(ContainerState::Ready, "");
        model.wake_all();
    }
    if failures >= FAILURES {
        seat.trouble = Some(Trouble::Failing(failures, error.unwrap_or_default()));
    }
}

/// Why the container is lost, if it is.
fn doubt(model: &Model, replica: &Replica, seat: &mut Seat, trouble: Trouble) -> Option<String> {
    let (failures, last) = match trouble {
        Trouble::Panicked(why) => return Some(why),
        Trouble::Failing(failures, last) => (failures, last),
    };
    match start::try_out(seat.container.as_mut()?.as_mut(), &model.version.signature) {
        Ok(_) => {
            replica.set_failures(0);
            None
        }
        Err(error) => Some(format!(
            "{failures} batches failed in a row ({last}), and so did a trial: {error}"
        )),
    }
}

/// `None`: the model was closed meanwhile.
fn reopen(
    model: &Model,
    replica: &Arc<Replica>,
    factory: &Factory,
    why: &str,
) -> Option<Box<dyn Container>> {
    let mut pause = PROBE_EVERY;
    loop {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            if model.is_closed() {
                return None;
            }
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
        let opened = catch_unwind(AssertUnwindSafe(|| start::open(factory)))
            .unwrap_or_else(|payload| Err(ContainerError::Panicked(panic_message(&*payload))));
        match opened {
            Ok((container, opened)) if opened.signature == model.version.signature => {
                replica.set_state(ContainerState::Ready, "");
                model.wake_all();
                return Some(container);
            }
            Ok((_, opened)) => {
                let now = opened.signature;
                let reason = format!("{why}; opened again, its signature is another: {now}");
                replica.set_state(ContainerState::Broken, &reason);
            }
            Err(error) => {
                let reason = format!("{why}; it cannot be opened again: {error}");
                replica.set_state(ContainerState::Broken, &reason);
            }
        }
        pause = (pause * 2).min(REOPEN_AT_MOST);
    }
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

pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it gave no reason".into())
}
