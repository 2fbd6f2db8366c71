//! The rules of single flight in every order of steps that shuttle comes to: by chance, and by
//! PCT (Burckhardt et al., ASPLOS 2010), which finds rare orders of few steps.
//!
//! A caller who waits for ever is found as well: when nobody can go on, shuttle fails the test and
//! prints a schedule, with which `shuttle::replay` repeats it.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
};

use futures::FutureExt;
use shuttle::{
    Config, Runner,
    future::{JoinHandle, block_on, spawn},
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};
use skysail_proto::{
    DataType, Inputs, ModelId, ModelVersion, Signature, Tensor, call::call_identity,
    error::LateReason,
};
use tower::{Layer, util::BoxCloneSyncService};

use super::*;
use crate::{CacheLayer, EmbeddedCache, Generation, StoreStats};

/// Schedules of each kind per test.
const SCHEDULES: usize = 500;

/// Orders of so many steps PCT finds with a known chance.
const PCT_DEPTH: usize = 3;

/// Runs a test under many schedules.
pub(crate) fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        // Unoptimised code with a cache in it needs more than the 32 KiB it would have.
        config.stack_size = 1 << 18;
        Runner::new(scheduler, config).run(test);
    }
    run(RandomScheduler::new(SCHEDULES), test.clone());
    run(PctScheduler::new(PCT_DEPTH, SCHEDULES), test);
}

/// A point at which shuttle may let another go first.
pub(crate) fn step() {
    shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
}

pub(crate) fn hour() -> Instant {
    now() + Duration::from_secs(3600)
}

/// The embedded store, with others let in before each of its operations; `slower` makes it the
/// first of two tiers.
struct Steps {
    store: Arc<EmbeddedCache>,
    slower: Option<Arc<AtomicUsize>>,
}

impl PredictionCache for Steps {
    fn peek(&self, key: &CacheKey, max_age: Duration, now: Instant) -> Option<Kept> {
        step();
        self.store.peek(key, max_age, now)
    }

    fn lookup(&self, key: &CacheKey, model: &ModelId, max_age: Duration, now: Instant) -> Lookup {
        step();
        let Some(asked) = &self.slower else {
            return self.store.lookup(key, model, max_age, now);
        };
        if let Some(kept) = self.store.peek(key, max_age, now) {
            return Lookup::Hit(kept);
        }
        let (store, asked) = (Arc::clone(&self.store), Arc::clone(asked));
        let (key, model, generation) = (*key, model.clone(), self.store.generation());
        Lookup::Pending(Box::pin(async move {
            asked.fetch_add(1, Ordering::Relaxed);
            step();
            let fill = Fill { key, model, outputs: reply(9).outputs, generation };
            Some(Kept { outputs: store.insert(fill, now), at: now })
        }))
    }

    fn insert(&self, fill: Fill, now: Instant) -> Arc<[Tensor]> {
        step();
        self.store.insert(fill, now)
    }

    fn generation(&self) -> Generation {
        step();
        self.store.generation()
    }

    fn drop_model<'a>(&'a self, model: &'a ModelId) -> BoxFuture<'a, u64> {
        step();
        self.store.drop_model(model)
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

type Models = BoxCloneSyncService<ModelCall, ModelReply, PredictError>;

struct Rig {
    layer: CacheLayer<Steps>,
    service: CacheService<Models, Steps>,
    /// Calls that went down.
    ran: Arc<AtomicUsize>,
}

/// A cache over a model that answers by `answer`.
fn rig<A>(answer: A) -> Rig
where
    A: Fn(&ModelCall) -> Result<u8, PredictError> + Clone + Send + Sync + 'static,
{
    rig_over(answer, None)
}

fn rig_over<A>(answer: A, slower: Option<Arc<AtomicUsize>>) -> Rig
where
    A: Fn(&ModelCall) -> Result<u8, PredictError> + Clone + Send + Sync + 'static,
{
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let models = tower::service_fn(move |call: ModelCall| {
        counted.fetch_add(1, Ordering::Relaxed);
        let answer = answer.clone();
        async move {
            turn().await;
            let value = answer(&call);
            turn().await;
            Ok(reply(value?))
        }
    });
    let layer = CacheLayer::new(Steps { store: Arc::new(EmbeddedCache::new(1 << 20)), slower });
    let service = layer.layer(BoxCloneSyncService::new(models));
    Rig { layer, service, ran }
}

impl Rig {
    fn ask(&mut self, call: ModelCall) -> JoinHandle<ModelResult> {
        let mut service = self.service.clone();
        spawn(async move { service.call(call).await })
    }

    fn ran(&self) -> usize {
        self.ran.load(Ordering::Relaxed)
    }

    /// Of `callers`, each was counted once, and the table is empty.
    fn ends(&self, callers: u64) {
        let stats = self.layer.stats();
        assert_eq!(stats.in_flight, 0, "a flight stays in the table");
        assert_eq!(stats.hits + stats.joins + stats.misses, callers, "{stats:?}");
    }
}

/// Gives way once, as a task.
async fn turn() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn call(deadline: Instant) -> ModelCall {
    let model = Arc::new(ModelVersion {
        id: id(),
        digest: "d".into(),
        signature: Signature::default(),
        cacheable: true,
        max_batch_rows: 0,
    });
    let x = Tensor::new("x", DataType::Uint8, vec![1, 4], vec![1; 4]).expect("it fits");
    let outputs: Arc<[Arc<str>]> = Arc::new(["y".into()]);
    ModelCall {
        identity: call_identity(&model, &outputs),
        model,
        inputs: Arc::new(Inputs::new(vec![x]).expect("one tensor")),
        outputs,
        deadline,
        max_age: Some(Duration::from_secs(60)),
        waiters: None,
        trace: None,
    }
}

fn id() -> ModelId {
    ModelId::new("digits", "1")
}

fn reply(value: u8) -> ModelReply {
    let y = Tensor::new("y", DataType::Uint8, vec![1, 1], vec![value]).expect("it fits");
    ModelReply {
        outputs: Arc::new([y]),
        cached: false,
        batch_rows: 1,
        queue: Duration::ZERO,
        compute: Duration::ZERO,
    }
}

async fn ended(caller: JoinHandle<ModelResult>) -> Result<u8, PredictError> {
    caller.await.expect("no panic").map(|reply| reply.outputs[0].data()[0])
}

#[test]
fn equal_misses_run_once_and_share_the_answer() {
    explore(|| {
        let mut rig = rig(|_| Ok(7));
        let callers: Vec<_> = (0..3).map(|_| rig.ask(call(hour()))).collect();
        for caller in callers {
            assert_eq!(block_on(ended(caller)).expect("an answer"), 7);
        }
        assert_eq!(rig.ran(), 1);
        assert_eq!(rig.layer.stats().store.insertions, 1);
        rig.ends(3);
    });
}

#[test]
fn equal_misses_ask_the_slower_tier_once_and_no_model() {
    explore(|| {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut rig = rig_over(|_| Ok(7), Some(Arc::clone(&asked)));
        let callers: Vec<_> = (0..3).map(|_| rig.ask(call(hour()))).collect();
        for caller in callers {
            assert_eq!(block_on(ended(caller)).expect("an answer"), 9);
        }
        assert_eq!((asked.load(Ordering::Relaxed), rig.ran()), (1, 0));
        rig.ends(3);
    });
}

/// Asks, and gives up before long.
async fn leave(mut service: CacheService<Models, Steps>) {
    let mut answer = service.call(call(hour()));
    let _ = poll_fn(|cx| Poll::Ready(answer.poll_unpin(cx))).await;
    step();
}

/// As a queue does: gives up a call that nobody waits for.
fn unless_left(call: &ModelCall) -> Result<u8, PredictError> {
    match &call.waiters {
        Some(waiters) if waiters.is_abandoned() => Err(PredictError::Cancelled),
        _ => Ok(7),
    }
}

/// Lets a flight that everybody has left end by itself.
fn settle(rig: &Rig) {
    while rig.layer.stats().in_flight > 0 {
        shuttle::thread::yield_now();
    }
}

/// Who joins a flight in the moment in which it is given up asks again.
#[test]
fn callers_that_go_take_nobody_along() {
    explore(|| {
        let mut rig = rig(unless_left);
        let leavers = [spawn(leave(rig.service.clone())), spawn(leave(rig.service.clone()))];
        let callers = [rig.ask(call(hour())), rig.ask(call(hour()))];
        for caller in callers {
            assert_eq!(block_on(ended(caller)).expect("an answer"), 7);
        }
        for leaver in leavers {
            block_on(leaver).expect("no panic");
        }
        settle(&rig);
        assert!(rig.ran() <= 3, "one per leaver was given up at most");
        rig.ends(4);
    });
}

/// A caller asks again once only, so that this must be no flight that all have left.
#[test]
fn who_asks_again_joins_nobody_that_has_gone() {
    explore(|| {
        let first = Arc::new(AtomicBool::new(true));
        let mut rig = rig(move |call| {
            if first.swap(false, Ordering::Relaxed) {
                return Err(PredictError::ReplicaLost { model: id(), why: "closed".into() });
            }
            unless_left(call)
        });
        let caller = rig.ask(call(hour()));
        let leaver = spawn(leave(rig.service.clone()));
        assert_eq!(block_on(ended(caller)).expect("an answer"), 7);
        block_on(leaver).expect("no panic");
        settle(&rig);
        rig.ends(2);
    });
}

/// The leader is late already; those with time left ask again, once, and share that answer.
#[test]
fn a_refusal_ends_only_whom_it_is_meant_for() {
    explore(|| {
        let mut rig = rig(|call| match &call.waiters {
            Some(waiters) if waiters.latest() <= now() => {
                Err(PredictError::Late { model: id(), why: LateReason::Dropped })
            }
            _ => Ok(7),
        });
        let hurried = rig.ask(call(now()));
        let callers = [rig.ask(call(hour())), rig.ask(call(hour()))];
        for caller in callers {
            assert_eq!(block_on(ended(caller)).expect("an answer"), 7);
        }
        match block_on(ended(hurried)) {
            Ok(value) => assert_eq!(value, 7),
            Err(error) => assert!(matches!(error, PredictError::Late { .. }), "{error}"),
        }
        assert!(rig.ran() <= 2, "one refused, one answered");
        rig.ends(3);
    });
}

#[test]
fn a_failure_is_shared_and_never_kept() {
    explore(|| {
        let fails = Arc::new(AtomicBool::new(true));
        let failing = Arc::clone(&fails);
        let mut rig = rig(move |_| {
            if failing.load(Ordering::Relaxed) {
                Err(PredictError::Container { model: id(), why: "NaN".into() })
            } else {
                Ok(7)
            }
        });
        let callers: Vec<_> = (0..3).map(|_| rig.ask(call(hour()))).collect();
        for caller in callers {
            let error = block_on(ended(caller)).expect_err("the model fails");
            assert!(matches!(error, PredictError::Container { .. }), "{error}");
        }
        let ran = rig.ran();
        assert!((1..=3).contains(&ran), "one flight each at most: {ran}");
        assert_eq!(rig.layer.stats().store.entries, 0);
        fails.store(false, Ordering::Relaxed);
        let after = rig.ask(call(hour()));
        assert_eq!(block_on(ended(after)).expect("it was not kept"), 7);
        assert_eq!(rig.ran(), ran + 1);
        rig.ends(4);
    });
}

/// A build is replaced while it is asked: whoever asks after `drop_model` has returned gets the
/// new build's answer, and so does everybody from then on.
#[test]
fn an_answer_from_before_a_drop_is_neither_kept_nor_shared() {
    explore(|| {
        let build = Arc::new(AtomicU8::new(1));
        let running = Arc::clone(&build);
        let mut rig = rig(move |_| Ok(running.load(Ordering::Relaxed)));
        let before = [rig.ask(call(hour())), rig.ask(call(hour()))];
        let (layer, mut service) = (rig.layer.clone(), rig.service.clone());
        let replaced = spawn(async move {
            turn().await;
            build.store(2, Ordering::Relaxed);
            layer.drop_model(&id()).await;
            service.call(call(hour())).await
        });
        assert_eq!(block_on(ended(replaced)).expect("an answer"), 2, "shared, or kept");
        for caller in before {
            assert!(matches!(block_on(ended(caller)), Ok(1 | 2)));
        }
        let after = rig.ask(call(hour()));
        assert_eq!(block_on(ended(after)).expect("an answer"), 2, "kept");
        rig.ends(4);
    });
}
