use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt, future::join_all};
use skysail_proto::{
    DataType, Inputs, ModelId, ModelVersion, Signature, Tensor, call::call_identity,
    error::LateReason,
};
use tokio::{task::JoinHandle, time::Instant as TokioInstant};
use tower::{BoxError, Layer, util::MapErr};
use tower_test::mock::{self, Handle, Mock, SendResponse};

use super::*;
use crate::{CacheLayer, CacheStats, EmbeddedCache, Generation, StoreStats, stats::Counter};

type Inner = MapErr<Mock<ModelCall, ModelReply>, fn(BoxError) -> PredictError>;

/// A cache over a mock: what arrives below is taken from `models`.
struct Rig<P = EmbeddedCache> {
    layer: CacheLayer<P>,
    service: CacheService<Inner, P>,
    models: Handle<ModelCall, ModelReply>,
}

fn rig() -> Rig {
    rig_over(EmbeddedCache::new(1 << 20))
}

fn rig_over<P: PredictionCache>(store: P) -> Rig<P> {
    let (mock, models) = mock::pair::<ModelCall, ModelReply>();
    let to_ours: fn(BoxError) -> PredictError = |error| match error.downcast::<PredictError>() {
        Ok(error) => *error,
        Err(other) => PredictError::Internal(other.to_string().into()),
    };
    let layer = CacheLayer::new(store);
    let service = layer.layer(mock.map_err(to_ours));
    Rig { layer, service, models }
}

impl<P: PredictionCache> Rig<P> {
    fn ask(&mut self, call: ModelCall) -> CacheFuture {
        self.service.call(call)
    }

    /// What has arrived below, once all that can run has run.
    async fn arrived(&mut self) -> (ModelCall, SendResponse<ModelReply>) {
        settle().await;
        let next = self.models.next_request().now_or_never().flatten();
        next.expect("a call went down")
    }

    async fn nothing_arrived(&mut self) {
        settle().await;
        assert!(self.models.next_request().now_or_never().flatten().is_none(), "no call goes down");
    }

    fn stats(&self) -> CacheStats {
        self.layer.stats()
    }
}

/// Lets every task run until all of them wait.
async fn settle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// What a caller got. A caller that would wait for ever fails the test: the stopped clock jumps
/// ahead once nothing else can run.
async fn ended(caller: JoinHandle<ModelResult>) -> ModelResult {
    let joined = tokio::time::timeout(Duration::from_secs(3600), caller).await;
    joined.expect("the caller is answered").expect("no panic")
}

fn model(version: &str, cacheable: bool) -> Arc<ModelVersion> {
    Arc::new(ModelVersion {
        id: ModelId::new("digits", version),
        digest: "d".into(),
        signature: Signature::default(),
        cacheable,
        max_batch_rows: 0,
    })
}

fn call_to(model: Arc<ModelVersion>, byte: u8, due_ms: u64) -> ModelCall {
    let x = Tensor::new("x", DataType::Uint8, vec![1, 4], vec![byte; 4]).expect("it fits");
    let outputs: Arc<[Arc<str>]> = Arc::new(["y".into()]);
    ModelCall {
        identity: call_identity(&model, &outputs),
        model,
        inputs: Arc::new(Inputs::new(vec![x]).expect("one tensor")),
        outputs,
        deadline: now() + Duration::from_millis(due_ms),
        max_age: Some(Duration::from_secs(60)),
        waiters: None,
        trace: None,
    }
}

fn call(byte: u8, due_ms: u64) -> ModelCall {
    call_to(model("1", true), byte, due_ms)
}

fn reply(value: u8) -> ModelReply {
    let y = Tensor::new("y", DataType::Uint8, vec![1, 2], vec![value; 2]).expect("it fits");
    ModelReply {
        outputs: Arc::new([y]),
        cached: false,
        batch_rows: 8,
        queue: Duration::from_millis(1),
        compute: Duration::from_millis(2),
    }
}

fn value(result: ModelResult) -> u8 {
    result.expect("an answer").outputs[0].data()[0]
}

fn id() -> ModelId {
    ModelId::new("digits", "1")
}

fn container_failed() -> PredictError {
    PredictError::Container { model: id(), why: "NaN".into() }
}

fn late() -> PredictError {
    PredictError::Late { model: id(), why: LateReason::Dropped }
}

fn replica_lost() -> PredictError {
    PredictError::ReplicaLost { model: id(), why: "socket closed".into() }
}

fn overloaded() -> PredictError {
    PredictError::overloaded("the queue of digits:1 is full", Duration::from_millis(5))
}

// ===== hits =====

#[tokio::test(start_paused = true)]
async fn a_hit_is_the_first_answer_byte_for_byte_and_asks_nobody() {
    let mut rig = rig();
    let first = tokio::spawn(rig.ask(call(1, 50)));
    let (asked, respond) = rig.arrived().await;
    assert_eq!(asked.inputs.tensors()[0].data()[..], [1; 4]);
    respond.send_response(reply(7));
    let first = ended(first).await.expect("an answer");
    assert!(!first.cached);
    assert_eq!((first.batch_rows, first.compute), (8, Duration::from_millis(2)));

    let hit = rig.ask(call(1, 50)).now_or_never().expect("at once").expect("an answer");
    assert_eq!(hit.outputs, first.outputs);
    assert_eq!(hit.outputs, reply(7).outputs);
    assert!(hit.cached);
    assert_eq!((hit.batch_rows, hit.queue, hit.compute), (0, Duration::ZERO, Duration::ZERO));
    rig.nothing_arrived().await;
    let stats = rig.stats();
    assert_eq!((stats.hits, stats.misses, stats.in_flight, stats.store.insertions), (1, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hit_does_not_wait_for_busy_models() {
    let mut rig = rig();
    let first = tokio::spawn(rig.ask(call(1, 50)));
    rig.arrived().await.1.send_response(reply(7));
    ended(first).await.expect("an answer");

    rig.models.allow(0);
    let mut context = Context::from_waker(Waker::noop());
    assert!(rig.service.poll_ready(&mut context).is_ready());
    assert_eq!(value(rig.ask(call(1, 50)).now_or_never().expect("at once")), 7);
    let miss = tokio::spawn(rig.ask(call(2, 50)));
    rig.nothing_arrived().await;
    assert!(!miss.is_finished(), "a miss waits until the models are ready");
    rig.models.allow(1);
    rig.arrived().await.1.send_response(reply(8));
    assert_eq!(value(ended(miss).await), 8);
}

#[tokio::test(start_paused = true)]
async fn applications_of_different_patience_share_entries() {
    let mut rig = rig();
    let aged = |seconds| ModelCall { max_age: Some(Duration::from_secs(seconds)), ..call(1, 50) };
    let first = tokio::spawn(rig.ask(aged(10)));
    rig.arrived().await.1.send_response(reply(7));
    ended(first).await.expect("an answer");

    tokio::time::advance(Duration::from_secs(30)).await;
    let patient = rig.ask(aged(60)).now_or_never().expect("at once");
    assert_eq!(value(patient), 7);
    let strict = tokio::spawn(rig.ask(aged(10)));
    rig.arrived().await.1.send_response(reply(9));
    assert_eq!(value(ended(strict).await), 9);
    let patient = rig.ask(aged(60)).now_or_never().expect("at once");
    assert_eq!(value(patient), 9, "the younger answer has replaced the older");
    assert_eq!(rig.stats().store.entries, 1);
    assert_eq!(rig.stats().store.evictions, 0);
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_cache_shares_nothing() {
    let cases = [
        ("the application opted out", ModelCall { max_age: None, ..call(1, 50) }),
        ("the model is not cacheable", call_to(model("1", false), 1, 50)),
    ];
    for (why, wanted) in cases {
        let mut rig = rig();
        let one = tokio::spawn(rig.ask(wanted.clone()));
        let two = tokio::spawn(rig.ask(wanted));
        for answer in [3, 4] {
            let (asked, respond) = rig.arrived().await;
            assert!(asked.waiters.is_none(), "{why}");
            respond.send_response(reply(answer));
        }
        assert_eq!(value(ended(one).await), 3, "{why}");
        assert_eq!(value(ended(two).await), 4, "{why}");
        let stats = rig.stats();
        assert_eq!((stats.bypassed, stats.store.insertions, stats.joins), (2, 0, 0), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn models_and_versions_never_share() {
    let mut rig = rig();
    let one = tokio::spawn(rig.ask(call_to(model("1", true), 1, 50)));
    let two = tokio::spawn(rig.ask(call_to(model("2", true), 1, 50)));
    for _ in 0..2 {
        let (asked, respond) = rig.arrived().await;
        respond.send_response(reply(if &*asked.model.id.version == "1" { 1 } else { 2 }));
    }
    assert_eq!(value(ended(one).await), 1);
    assert_eq!(value(ended(two).await), 2);
}

// ===== one flight for equal misses =====

#[tokio::test(start_paused = true)]
async fn equal_misses_run_once_and_tell_the_queue_who_waits() {
    let mut rig = rig();
    let start = now();
    let callers: Vec<_> =
        [50, 20, 90].into_iter().map(|due| tokio::spawn(rig.ask(call(1, due)))).collect();
    let (asked, respond) = rig.arrived().await;
    let waiters = asked.waiters.expect("the call carries its waiters");
    assert_eq!(waiters.count(), 3);
    assert_eq!(waiters.earliest(), start + Duration::from_millis(20));
    assert_eq!(waiters.latest(), start + Duration::from_millis(90));
    rig.nothing_arrived().await;
    respond.send_response(reply(7));
    for result in join_all(callers).await {
        assert_eq!(value(result.expect("no panic")), 7);
    }
    let stats = rig.stats();
    assert_eq!((stats.misses, stats.joins, stats.hits, stats.in_flight), (1, 2, 0, 0));
    assert!(waiters.is_abandoned());
}

#[tokio::test(start_paused = true)]
async fn any_callers_may_leave_the_others_are_answered_and_the_answer_kept() {
    const CALLERS: usize = 4;
    for leaving in 0..1_usize << CALLERS {
        for polled in [false, true] {
            let mut rig = rig();
            let mut callers: Vec<_> =
                (0..CALLERS).map(|i| Some(rig.ask(call(1, 50 + i as u64)))).collect();
            if polled {
                for caller in callers.iter_mut().flatten() {
                    assert!(pin!(caller).now_or_never().is_none());
                }
            }
            let (asked, respond) = rig.arrived().await;
            for (index, caller) in callers.iter_mut().enumerate() {
                if leaving & 1 << index != 0 {
                    *caller = None;
                }
            }
            let waiters = asked.waiters.expect("the call carries its waiters");
            assert_eq!(waiters.count(), CALLERS - leaving.count_ones() as usize);
            respond.send_response(reply(7));
            for caller in callers.into_iter().flatten() {
                assert_eq!(value(caller.await), 7, "leaving {leaving:04b}");
            }
            settle().await;
            assert_eq!(value(rig.ask(call(1, 50)).now_or_never().expect("kept")), 7);
            assert_eq!(rig.stats().in_flight, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_many_threads_each_key_still_runs_once() {
    const KEYS: u8 = 200;
    let asked: Arc<[Counter; KEYS as usize]> =
        Arc::new(std::array::from_fn(|_| Counter::default()));
    let inner = {
        let asked = Arc::clone(&asked);
        tower::service_fn(move |call: ModelCall| {
            let byte = call.inputs.tensors()[0].data()[0];
            asked[usize::from(byte)].add(1);
            async move { Ok(reply(byte)) }
        })
    };
    let layer = CacheLayer::new(EmbeddedCache::new(1 << 20));
    let service = layer.layer(inner);
    for byte in 0..KEYS {
        let callers = (0..8).map(|_| {
            let mut service = service.clone();
            tokio::spawn(async move { service.call(call(byte, 50)).await })
        });
        for result in join_all(callers.collect::<Vec<_>>()).await {
            assert_eq!(value(result.expect("no panic")), byte);
        }
    }
    assert!(asked.iter().all(|count| count.get() == 1), "{asked:?}");
    let stats = layer.stats();
    assert_eq!(stats.misses, u64::from(KEYS));
    assert_eq!(stats.hits + stats.misses + stats.joins, u64::from(KEYS) * 8);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_all_have_left_takes_new_callers() {
    let mut rig = rig();
    drop(rig.ask(call(1, 50)));
    let (asked, respond) = rig.arrived().await;
    let waiters = asked.waiters.expect("the call carries its waiters");
    assert!(waiters.is_abandoned());
    let late_comer = tokio::spawn(rig.ask(call(1, 80)));
    settle().await;
    assert_eq!(waiters.count(), 1);
    respond.send_response(reply(7));
    assert_eq!(value(ended(late_comer).await), 7);
}

// ===== failures =====

#[tokio::test(start_paused = true)]
async fn the_containers_failure_is_shared_and_not_kept() {
    let mut rig = rig();
    let callers = [rig.ask(call(1, 50)), rig.ask(call(1, 90))].map(tokio::spawn);
    rig.arrived().await.1.send_error(container_failed());
    for caller in callers {
        assert_eq!(ended(caller).await.err(), Some(container_failed()));
    }
    assert_eq!((rig.stats().again, rig.stats().store.entries), (0, 0));
    let next = tokio::spawn(rig.ask(call(1, 50)));
    rig.arrived().await.1.send_response(reply(7));
    assert_eq!(value(ended(next).await), 7);
}

#[tokio::test(start_paused = true)]
async fn refusal_and_drop_end_only_those_due_no_later() {
    for error in [overloaded(), late()] {
        let mut rig = rig();
        let refused = [rig.ask(call(1, 50)), rig.ask(call(1, 40))].map(tokio::spawn);
        let again = [rig.ask(call(1, 90)), rig.ask(call(1, 95))].map(tokio::spawn);
        rig.arrived().await.1.send_error(error.clone());
        for caller in refused {
            assert_eq!(ended(caller).await.err(), Some(error.clone()));
        }
        let (asked, respond) = rig.arrived().await;
        assert_eq!(asked.waiters.expect("waiters").count(), 2, "they queue again as one");
        respond.send_response(reply(7));
        for caller in again {
            assert_eq!(value(ended(caller).await), 7);
        }
        assert_eq!((rig.stats().again, rig.stats().in_flight), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_caller_that_is_refused_is_refused() {
    let mut rig = rig();
    let caller = tokio::spawn(rig.ask(call(1, 50)));
    rig.arrived().await.1.send_error(overloaded());
    assert_eq!(ended(caller).await.err(), Some(overloaded()));
    rig.nothing_arrived().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_replica_those_with_time_left_try_once_more() {
    let mut rig = rig();
    let (short, long) = (tokio::spawn(rig.ask(call(1, 50))), tokio::spawn(rig.ask(call(1, 90))));
    let (_, respond) = rig.arrived().await;
    tokio::time::advance(Duration::from_millis(60)).await;
    respond.send_error(replica_lost());
    assert_eq!(ended(short).await.err(), Some(replica_lost()), "its time is over");
    rig.arrived().await.1.send_error(replica_lost());
    assert_eq!(ended(long).await.err(), Some(replica_lost()), "once only");
    rig.nothing_arrived().await;
    assert_eq!(rig.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn who_joins_while_the_queue_gives_the_call_up_is_served_all_the_same() {
    let mut rig = rig();
    drop(rig.ask(call(1, 50)));
    let (_, respond) = rig.arrived().await;
    let joiner = tokio::spawn(rig.ask(call(1, 50)));
    settle().await;
    respond.send_error(PredictError::Cancelled);
    rig.arrived().await.1.send_response(reply(7));
    assert_eq!(value(ended(joiner).await), 7);
}

#[tokio::test]
async fn a_panic_below_ends_the_flight() {
    #[derive(Clone)]
    struct Panics;
    impl Service<ModelCall> for Panics {
        type Response = ModelReply;
        type Error = PredictError;
        type Future = BoxFuture<'static, ModelResult>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: ModelCall) -> Self::Future {
            async { panic!("on purpose") }.boxed()
        }
    }
    let layer = CacheLayer::new(EmbeddedCache::new(1 << 20));
    let mut service = layer.layer(Panics);
    let callers = join_all([service.call(call(1, 50)), service.call(call(1, 50))]).await;
    for result in callers {
        assert!(matches!(result, Err(PredictError::Internal(_))), "{result:?}");
    }
    assert_eq!((layer.stats().in_flight, layer.stats().misses), (0, 1));
}

// ===== dropping a model =====

#[tokio::test(start_paused = true)]
async fn nothing_from_before_a_drop_is_given_out_after_it() {
    let mut rig = rig();
    let kept = tokio::spawn(rig.ask(call(1, 50)));
    rig.arrived().await.1.send_response(reply(1));
    ended(kept).await.expect("an answer");
    let before = tokio::spawn(rig.ask(call(2, 50)));
    let (_, respond_before) = rig.arrived().await;

    assert_eq!(rig.layer.drop_model(&id()).await, 1);
    let after = tokio::spawn(rig.ask(call(2, 50)));
    let (_, respond_after) = rig.arrived().await;
    respond_before.send_response(reply(2));
    assert_eq!(value(ended(before).await), 2, "who asked before gets what it asked");
    assert_eq!(rig.stats().store.entries, 0, "but it is not kept");
    assert_eq!(rig.stats().in_flight, 1, "and its end is not that of the later flight");
    respond_after.send_response(reply(3));
    assert_eq!(value(ended(after).await), 3);
    assert_eq!(value(rig.ask(call(2, 50)).now_or_never().expect("kept")), 3);
    let again = tokio::spawn(rig.ask(call(1, 50)));
    rig.arrived().await.1.send_response(reply(4));
    assert_eq!(value(ended(again).await), 4);
    assert_eq!(rig.stats().in_flight, 0);
}

// ===== a slower tier =====

/// A store that must be waited for, and that may know an answer of a given age.
#[derive(Clone)]
struct Remote {
    knows: Option<(u8, Duration)>,
}

impl PredictionCache for Remote {
    fn peek(&self, _: &CacheKey, _: Duration, _: Instant) -> Option<Kept> {
        None
    }

    fn lookup(&self, _: &CacheKey, _: &ModelId, max_age: Duration, now: Instant) -> Lookup {
        let knows = self.knows.filter(|(_, age)| *age <= max_age);
        let kept = knows.map(|(value, age)| Kept {
            outputs: reply(value).outputs,
            at: now.checked_sub(age).expect("the machine is up longer"),
        });
        let ready = TokioInstant::now() + Duration::from_millis(2);
        Lookup::Pending(tokio::time::sleep_until(ready).map(|()| kept).boxed())
    }

    fn insert(&self, fill: Fill, _: Instant) -> Arc<[Tensor]> {
        fill.outputs
    }

    fn generation(&self) -> Generation {
        Generation(0)
    }

    fn drop_model<'a>(&'a self, _: &'a ModelId) -> BoxFuture<'a, u64> {
        async { 0 }.boxed()
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_slower_tier_is_asked_once_and_before_the_model() {
    let mut rig = rig_over(Remote { knows: Some((5, Duration::from_millis(30))) });
    let callers = [rig.ask(call(1, 50)), rig.ask(call(1, 90))].map(tokio::spawn);
    tokio::time::advance(Duration::from_millis(3)).await;
    for caller in callers {
        let got = ended(caller).await.expect("an answer");
        assert!(got.cached);
        assert_eq!(value(Ok(got)), 5);
    }
    rig.nothing_arrived().await;
    assert_eq!((rig.stats().misses, rig.stats().joins), (1, 1));

    // One who wants it younger than the flight in progress may bring it flies alone.
    let patient = tokio::spawn(rig.ask(call(1, 50)));
    let strict = ModelCall { max_age: Some(Duration::from_millis(10)), ..call(1, 50) };
    let strict = tokio::spawn(rig.ask(strict));
    tokio::time::advance(Duration::from_millis(3)).await;
    rig.arrived().await.1.send_response(reply(6));
    assert_eq!(value(ended(strict).await), 6);
    assert_eq!(value(ended(patient).await), 5);
    assert_eq!(rig.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_is_not_asked_for_those_who_left_during_the_slower_look() {
    let mut rig = rig_over(Remote { knows: None });
    drop(rig.ask(call(1, 50)));
    settle().await;
    tokio::time::advance(Duration::from_millis(3)).await;
    rig.nothing_arrived().await;
    assert_eq!(rig.stats().in_flight, 0);
}
