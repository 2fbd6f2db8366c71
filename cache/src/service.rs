//! The service that [`CacheLayer`](crate::CacheLayer) makes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use skysail_proto::{ModelCall, ModelReply, PredictError, call::ModelResult};
use tower::{Service, ServiceExt};

use crate::{
    CacheKey, Fill, Kept, Lookup, PredictionCache,
    single_flight::{Boarding, Booking, Departure, Flights, Seat, kept_reply},
    stats::Counters,
    store::tiered::TieredCache,
    sync,
};

/// Answers from the store, or lets the service below answer once for all who ask the same.
///
/// Always ready, whatever the service below is: a hit must not wait for a busy model. What is sent
/// down goes to a clone of that service, once the clone is ready.
#[derive(Debug)]
pub struct CacheService<S, P = TieredCache> {
    inner: S,
    shared: Arc<Shared<P>>,
}

/// What all clones of a layer and its services share.
#[derive(Debug)]
pub(crate) struct Shared<P> {
    pub(crate) store: P,
    pub(crate) flights: Arc<Flights>,
    pub(crate) counters: Counters,
}

impl<S, P> CacheService<S, P> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<P>>) -> Self {
        Self { inner, shared }
    }
}

impl<S: Clone, P> Clone for CacheService<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S, P> Service<ModelCall> for CacheService<S, P>
where
    S: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone + Send + 'static,
    S::Future: Send + 'static,
    P: PredictionCache,
{
    type Response = ModelReply;
    type Error = PredictError;
    type Future = CacheFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
        Poll::Ready(Ok(()))
    }

    /// # Cancel safety
    ///
    /// Dropping the future gives up this caller's wait and nothing else: the call goes on for the
    /// others who wait for it, and once a model has begun on it, for the store.
    fn call(&mut self, call: ModelCall) -> CacheFuture {
        let Some(max_age) = call.max_age.filter(|_| call.model.cacheable) else {
            self.shared.counters.bypassed.add(1);
            return CacheFuture::later(self.inner.clone().oneshot(call));
        };
        let key = if self.shared.store.shares_keys() {
            CacheKey::of(&call)
        } else {
            CacheKey::private(&call)
        };
        let begun = call.trace.as_ref().map(|_| Instant::now());
        let looked = self.shared.store.lookup(&key, &call.model.id, max_age, now());
        if let (Some(begun), Some(trace)) = (begun, &call.trace) {
            let hit = matches!(looked, Lookup::Hit(_));
            trace.note("cache", begun, Instant::now(), vec![("skysail.hit", hit.into())]);
        }
        let slower = match looked {
            Lookup::Hit(kept) => {
                self.shared.counters.hits.add(1);
                return CacheFuture::ready(kept);
            }
            Lookup::Miss => None,
            Lookup::Pending(answer) => Some(answer),
        };
        let want = Want { key, max_age, call, inner: self.inner.clone() };
        match self.shared.board(&want, slower, false) {
            Place::Kept(kept) => {
                self.shared.counters.hits.add(1);
                CacheFuture::ready(kept)
            }
            Place::Seat { seat, led } => {
                let counters = &self.shared.counters;
                if led { &counters.misses } else { &counters.joins }.add(1);
                CacheFuture::later(wait(Arc::clone(&self.shared), want, seat))
            }
        }
    }
}

/// What one caller wants, kept for the case that it must queue once again.
struct Want<S> {
    key: CacheKey,
    max_age: Duration,
    call: ModelCall,
    inner: S,
}

enum Place {
    Kept(Kept),
    Seat { seat: Seat, led: bool },
}

type Slower = Option<BoxFuture<'static, Option<Kept>>>;

impl<P: PredictionCache> Shared<P> {
    /// Joins the flight of an equal call, or starts one.
    fn board<S>(self: &Arc<Self>, want: &Want<S>, slower: Slower, again: bool) -> Place
    where
        S: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone + Send + 'static,
        S::Future: Send + 'static,
    {
        let booking = Booking {
            key: want.key,
            deadline: want.call.deadline,
            generation: self.store.generation(),
            max_age: if slower.is_some() { want.max_age } else { Duration::ZERO },
            shun_abandoned: again,
        };
        let look = || self.store.peek(&want.key, want.max_age, now());
        match self.flights.board(booking, look) {
            Boarding::Kept(kept) => Place::Kept(kept),
            Boarding::Joined(seat) => Place::Seat { seat, led: false },
            Boarding::Lead(seat, departure) => {
                let mut call = want.call.clone();
                call.waiters = Some(departure.waiters());
                // Owned by its departure, which is in the table of flights until the task ends;
                // the task ends when the service below answers, which keeps to the deadlines.
                sync::spawn(fly(Arc::clone(self), departure, slower, call, want.inner.clone()));
                Place::Seat { seat, led: true }
            }
        }
    }
}

/// A flight: asks the slower tier, then the model, keeps the answer, tells those who wait.
async fn fly<S, P>(
    shared: Arc<Shared<P>>,
    departure: Departure,
    slower: Slower,
    call: ModelCall,
    inner: S,
) where
    S: Service<ModelCall, Response = ModelReply, Error = PredictError>,
    P: PredictionCache,
{
    if let Some(answer) = slower {
        let begun = Instant::now();
        let kept = answer.await;
        if let Some(trace) = &call.trace {
            let hit = kept.is_some();
            trace.note("cache.redis", begun, Instant::now(), vec![("skysail.hit", hit.into())]);
        }
        if let Some(kept) = kept {
            return departure.land(Ok(kept_reply(kept)));
        }
        if departure.waiters().is_abandoned() {
            return departure.land(Err(PredictError::Cancelled));
        }
    }
    let (key, model) = (departure.key(), call.model.id.clone());
    let result = inner.oneshot(call).await.map(|mut reply| {
        let generation = departure.generation();
        let fill = Fill { key, model, outputs: reply.outputs, generation };
        reply.outputs = shared.store.insert(fill, now());
        reply
    });
    departure.land(result);
}

/// Waits for a flight, and for one more where the first failed for a reason not this caller's.
async fn wait<S, P>(shared: Arc<Shared<P>>, want: Want<S>, mut seat: Seat) -> ModelResult
where
    S: Service<ModelCall, Response = ModelReply, Error = PredictError> + Clone + Send + 'static,
    S::Future: Send + 'static,
    P: PredictionCache,
{
    let deadline = want.call.deadline;
    if let Ok(result) = seat.landed(deadline, now).await {
        return result;
    }
    shared.counters.again.add(1);
    let slower = match shared.store.lookup(&want.key, &want.call.model.id, want.max_age, now()) {
        Lookup::Hit(kept) => return Ok(kept_reply(kept)),
        Lookup::Miss => None,
        Lookup::Pending(answer) => Some(answer),
    };
    match shared.board(&want, slower, true) {
        Place::Kept(kept) => Ok(kept_reply(kept)),
        Place::Seat { mut seat, .. } => {
            // Once only, so that callers who keep one another waiting come to an end.
            seat.landed(deadline, now).await.unwrap_or_else(Err)
        }
    }
}

/// Tokio's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The answer of a [`CacheService`]; ready at once for a hit.
pub struct CacheFuture(State);

enum State {
    Ready(Option<Kept>),
    Later(BoxFuture<'static, ModelResult>),
}

impl CacheFuture {
    fn ready(kept: Kept) -> Self {
        Self(State::Ready(Some(kept)))
    }

    fn later(answer: impl Future<Output = ModelResult> + Send + 'static) -> Self {
        Self(State::Later(Box::pin(answer)))
    }
}

impl Future for CacheFuture {
    type Output = ModelResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ModelResult> {
        match &mut self.0 {
            // Polled again after it was ready: forever pending, as `futures::future::Fuse` is.
            State::Ready(kept) => {
                kept.take().map_or(Poll::Pending, |k| Poll::Ready(Ok(kept_reply(k))))
            }
            State::Later(answer) => answer.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for CacheFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            State::Ready(_) => "CacheFuture::Ready",
            State::Later(_) => "CacheFuture::Later",
        })
    }
}

#[cfg(test)]
pub(crate) mod interleavings;
#[cfg(test)]
mod tests;
