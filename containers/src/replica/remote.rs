//! The task of a replica in another process: sends batches, tries it when in doubt, connects again.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use skysail_proto::Tensor;
use tokio::time::{sleep_until, timeout};

use super::{ContainerState, FAILURES, PROBE_EVERY, Replica, Turn, Why, round, settle};
use crate::{
    error::ContainerError,
    model::{Model, Next},
    remote::{Connection, Errand, Target},
};

/// After a batch is overdue and nobody waits for it, its call is ended so much later.
const GRACE: Duration = Duration::from_secs(1);
/// An idle container is tried at most once in so many times what that takes.
const SELDOM: u32 = 20;

enum Ended {
    /// There is nothing more to do here.
    Closed,
    Lost(String),
}

/// Sends batches until the container is drained or the model is closed. Whatever happens to the
/// connection meanwhile.
pub(crate) async fn run(
    model: &Arc<Model>,
    replica: &Arc<Replica>,
    target: &Target,
    mut connection: Option<Connection>,
) {
    loop {
        let open = match connection.take() {
            Some(open) => open,
            None => match reach(model, replica, target).await {
                Some(open) => open,
                None => break,
            },
        };
        let ended = Session::new(model, replica, target, &open).run().await;
        let Ended::Lost(why) = ended else { break };
        tracing::warn!(model = %model.version.id, container = &*replica.id, why, "lost");
        replica.set_state(ContainerState::Broken, &why);
        lose(model, replica, &why);
        model.replica_lost();
    }
    lose(model, replica, "it was removed");
}

fn lose(model: &Model, replica: &Replica, why: &str) {
    for batch in replica.take_flights(true) {
        model.give_back(replica, batch.entries, Why::Lost(why));
    }
}

/// Connects and tries the container, again and again. `None`: it is to be removed.
async fn reach(model: &Model, replica: &Replica, target: &Target) -> Option<Connection> {
    loop {
        if replica.drain_until().is_some() || model.is_closed() {
            return None;
        }
        match try_once(replica, target).await {
            Ok(open) => {
                replica.set_round_trip(open.round_trip);
                replica.set_state(ContainerState::Ready, "");
                model.wake_all();
                return Some(open);
            }
            Err(error) => {
                replica.set_state(ContainerState::Broken, &error.to_string());
            }
        }
        let _ = timeout(PROBE_EVERY, replica.woken()).await;
    }
}

async fn try_once(replica: &Replica, target: &Target) -> Result<Connection, ContainerError> {
    let open = Connection::open(&target.address).await?;
    let patience = patience(replica);
    let begun = Instant::now();
    let probe = target.probe(&open, Arc::clone(&target.probe), begun + patience);
    match timeout(patience, probe).await {
        Ok(tried) => tried?,
        Err(_) => {
            return Err(ContainerError::Lost(format!(
                "{} takes connections, but answers no inference within {patience:?}",
                target.address
            )));
        }
    }
    let now = Instant::now();
    replica.learn(target.probe.rows(), now - begun, now);
    Ok(open)
}

/// How long a probe may take.
fn patience(replica: &Replica) -> Duration {
    PROBE_EVERY.max(replica.estimate(1) * super::flights::OVERDUE)
}

type Answer = (u64, Result<Vec<Vec<Tensor>>, ContainerError>);
type Flying = FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>;
type Probe = Pin<Box<dyn Future<Output = Tried> + Send>>;

struct Tried {
    /// `None`: no answer.
    answer: Option<Result<(), ContainerError>>,
    took: Duration,
}

/// One connection's time.
struct Session<'a> {
    model: &'a Arc<Model>,
    replica: &'a Arc<Replica>,
    target: &'a Target,
    connection: &'a Connection,
    flying: Flying,
    probing: Option<Probe>,
    next_probe: Instant,
    /// Nothing more is to come.
    closed: bool,
}

impl<'a> Session<'a> {
    fn new(
        model: &'a Arc<Model>,
        replica: &'a Arc<Replica>,
        target: &'a Target,
        connection: &'a Connection,
    ) -> Self {
        let (flying, next_probe) = (FuturesUnordered::new(), Instant::now());
        Self {
            model,
            replica,
            target,
            connection,
            flying,
            probing: None,
            next_probe,
            closed: false,
        }
    }

    async fn run(mut self) -> Ended {
        loop {
            let mut until = self.send();
            let now = Instant::now();
            if let Some(end) = self.replica.drain_until() {
                if now >= end || (self.closed && self.flying.is_empty()) {
                    return Ended::Closed;
                }
                until = until.min(end);
            }
            if self.closed && self.flying.is_empty() {
                return Ended::Closed;
            }
            until = until.min(self.probe(now));
            tokio::select! {
                Some((flight, result)) = self.flying.next(), if !self.flying.is_empty() => {
                    if let Some(lost) = self.landed(flight, result) {
                        return lost;
                    }
                }
                Some(tried) = next(&mut self.probing) => {
                    self.probing = None;
                    if let Some(lost) = self.tried(tried) {
                        return lost;
                    }
                }
                why = self.connection.closed() => return Ended::Lost(why),
                () = self.replica.woken() => {}
                () = sleep_until(until.into()) => {}
            }
        }
    }

    /// Sends what there is room for; tells when to look again at the latest.
    fn send(&mut self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        loop {
            let now = Instant::now();
            match self.replica.turn(now) {
                Turn::No => return far,
                Turn::At(then) => return then,
                Turn::Now => {}
            }
            let batch = match self.model.next(self.replica) {
                Next::Batch(batch) => batch,
                Next::Wait(until) => return until.unwrap_or(far),
                Next::Closed => {
                    self.closed = true;
                    return far;
                }
            };
            let work = self.replica.begin(batch, self.model.budget(), now);
            let (flight, end) = (work.flight, work.give_up + GRACE);
            let errand = Errand {
                batch: work.inputs,
                outputs: work.outputs,
                deadline: work.latest,
                trace: work.trace,
            };
            let answer = self.target.infer(self.connection, errand);
            self.flying.push(Box::pin(async move {
                match tokio::time::timeout_at(end.into(), answer).await {
                    Ok(result) => (flight, result),
                    Err(_) => (flight, Err(ContainerError::Late)),
                }
            }));
        }
    }

    /// Tries the container where that is due; tells when it is due next.
    fn probe(&mut self, now: Instant) -> Instant {
        let far = now + Duration::from_secs(3600);
        if self.probing.is_some() {
            return far;
        }
        let due = match self.replica.state() {
            // One that works shows that it lives.
            ContainerState::Ready if !self.replica.is_idle() => return far,
            ContainerState::Ready => {
                let seldom = PROBE_EVERY.max(self.replica.estimate(1) * SELDOM);
                (self.replica.last_reply() + seldom).max(self.next_probe)
            }
            ContainerState::Draining => return far,
            _ => self.next_probe,
        };
        if now < due {
            return due;
        }
        self.next_probe = now + PROBE_EVERY;
        let patience = patience(self.replica);
        let probe = Arc::clone(&self.target.probe);
        let answer = self.target.probe(self.connection, probe, now + patience);
        self.probing = Some(Box::pin(async move {
            let answer = timeout(patience, answer).await.ok();
            Tried { answer, took: now.elapsed() }
        }));
        far
    }

    fn landed(
        &mut self,
        flight: u64,
        result: Result<Vec<Vec<Tensor>>, ContainerError>,
    ) -> Option<Ended> {
        if let Err(ContainerError::Lost(why)) = result {
            // With all that is under way; it is passed on as lost.
            return Some(Ended::Lost(why));
        }
        let lives = result.is_ok();
        let error = result.as_ref().err().map(ToString::to_string);
        let failures = settle(self.model, self.replica, flight, result);
        if lives && self.replica.state() == ContainerState::Stalled {
            // It was slow, not dead.
            self.ready();
        }
        if failures >= FAILURES && self.replica.is_live() {
            let error = error.unwrap_or_default();
            let reason = format!("{failures} batches failed in a row: {error}; it is being tried");
            // Known input tells whether the container or what it was sent is to blame.
            if self.replica.set_state(ContainerState::Stalled, &reason) {
                tracing::warn!(container = &*self.replica.id, reason, "in doubt");
            }
            self.next_probe = Instant::now();
            self.probing = None;
        }
        None
    }

    fn tried(&mut self, tried: Tried) -> Option<Ended> {
        let replica = self.replica;
        match tried.answer {
            Some(Ok(())) => {
                if replica.is_idle() {
                    replica.learn(self.target.probe.rows(), tried.took, Instant::now());
                }
                if !replica.is_live() {
                    self.ready();
                }
                None
            }
            Some(Err(ContainerError::Lost(why))) => Some(Ended::Lost(why)),
            Some(Err(error)) => {
                self.fell(ContainerState::Broken, &format!("a test inference failed: {error}"));
                None
            }
            None => {
                let reason =
                    format!("a test inference has had no answer for {:?}", round(tried.took));
                self.fell(ContainerState::Stalled, &reason);
                None
            }
        }
    }

    fn fell(&self, state: ContainerState, reason: &str) {
        if self.replica.set_state(state, reason) {
            tracing::warn!(
                container = &*self.replica.id,
                reason,
                ?state,
                "not used until it answers"
            );
            self.model.replica_lost();
        }
    }

    fn ready(&self) {
        // What was passed on is not waited for, or it would be overdue once more.
        self.replica.forget_given_away();
        self.replica.set_state(ContainerState::Ready, "");
        self.model.wake_all();
    }
}

async fn next(probing: &mut Option<Probe>) -> Option<Tried> {
    match probing {
        Some(probe) => Some(probe.await),
        None => None,
    }
}
