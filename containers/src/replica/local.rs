//! The thread of a replica in this process: it owns a container and computes batch after batch.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use skysail_proto::{Inputs, Tensor};

use super::{ContainerState, FAILURES, Factory, PROBE_EVERY, Replica, settle, start};
use crate::{
    container::{Container, check_answers},
    error::ContainerError,
    model::{Model, Next},
};

/// A container that cannot be opened again is tried at most so seldom.
const REOPEN_AT_MOST: Duration = Duration::from_secs(30);

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
        match serve(model, replica, open) {
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
}

enum Ended {
    Closed,
    Lost(String),
}

fn serve(model: &Model, replica: &Arc<Replica>, mut container: Box<dyn Container>) -> Ended {
    loop {
        let work = match model.next(replica) {
            Next::Batch(batch) => replica.begin(batch, model.budget(), Instant::now()),
            Next::Wait(None) => {
                thread::park();
                continue;
            }
            Next::Wait(Some(until)) => {
                thread::park_timeout(until.saturating_duration_since(Instant::now()));
                continue;
            }
            Next::Closed => return Ended::Closed,
        };
        let result = guarded(container.as_mut(), &work.inputs, &work.outputs);
        let mut lost = match &result {
            Err(ContainerError::Panicked(why)) => Some(format!("the container panicked: {why}")),
            _ => None,
        };
        if lost.is_some() {
            // Before its queries are passed on: not to this one.
            replica.set_state(ContainerState::Broken, lost.as_deref().unwrap_or_default());
        }
        let last = result.as_ref().err().map(ToString::to_string);
        let failures = settle(model, replica, work.flight, result);
        // Whatever it was told of: it has come back.
        if lost.is_none() && replica.state() == ContainerState::Stalled {
            replica.set_state(ContainerState::Ready, "");
            model.wake_all();
        }
        if lost.is_none() && failures >= FAILURES {
            let tried = start::try_out(container.as_mut(), &model.version.signature);
            match tried {
                Ok(_) => replica.set_failures(0),
                Err(error) => {
                    let last = last.unwrap_or_default();
                    lost = Some(format!(
                        "{failures} batches failed in a row ({last}), and so did a trial: {error}"
                    ));
                }
            }
        }
        if let Some(why) = lost {
            // A container that panicked may panic again when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(container)));
            return Ended::Lost(why);
        }
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
