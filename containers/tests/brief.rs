//! Calls that take next to no time are computed where they are made, and nothing is lost by that.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_containers::{
    BatchStrategy, Container, ContainerError, ContainerState, ModelConfig, Models,
};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelReply, ModelVersion, PredictError, Signature,
    Tensor, TensorSpec,
};
use tower::Service;

/// What containers of one model did.
#[derive(Debug, Default)]
struct Seen {
    /// The thread of each batch, trials too.
    threads: Mutex<Vec<ThreadId>>,
    opened: AtomicUsize,
    /// Every batch fails, known input too.
    failing: AtomicBool,
}

/// Answers its input.
struct Echo {
    anywhere: bool,
    takes: Duration,
    seen: Arc<Seen>,
}

const PANIC: u8 = 200;

impl Container for Echo {
    fn signature(&self) -> Signature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            datatype: DataType::Uint8,
            shape: vec![-1],
        };
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
    }

    fn computes_anywhere(&self) -> bool {
        self.anywhere
    }

    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        _: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError> {
        self.seen.threads.lock().push(thread::current().id());
        if !self.takes.is_zero() {
            thread::sleep(self.takes);
        }
        if self.seen.failing.load(Ordering::Relaxed) {
            return Err(ContainerError::Failed("told to fail".into()));
        }
        let answer = |query: &Arc<Inputs>| {
            let tensor = query.get("x").unwrap();
            assert_ne!(tensor.data()[0], PANIC, "told to panic");
            let (shape, data) = (tensor.shape().to_vec(), tensor.data().clone());
            vec![Tensor::new("y", DataType::Uint8, shape, data).unwrap()]
        };
        Ok(batch.iter().map(answer).collect())
    }
}

#[derive(Clone)]
struct World {
    models: Models,
    model: Arc<ModelVersion>,
    seen: Arc<Seen>,
}

impl World {
    async fn new(anywhere: bool, takes: Duration) -> Self {
        let seen = Arc::new(Seen::default());
        let models = Models::new();
        let mut config = ModelConfig::new(ModelId::new("echo", "1"), "");
        config.batch = BatchStrategy::Fixed(64);
        let kept = Arc::clone(&seen);
        let open = move || -> Result<Box<dyn Container>, ContainerError> {
            kept.opened.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Echo { anywhere, takes, seen: Arc::clone(&kept) }))
        };
        let model = models.start(config, "", open).await.unwrap();
        seen.threads.lock().clear();
        Self { models, model, seen }
    }

    async fn ask(&self, value: u8) -> Result<ModelReply, PredictError> {
        let tensor = Tensor::new("x", DataType::Uint8, [1], vec![value]).unwrap();
        let call = ModelCall {
            model: Arc::clone(&self.model),
            inputs: Arc::new(Inputs::new(vec![tensor]).unwrap()),
            identity: [0; 32],
            outputs: vec!["y".into()].into(),
            deadline: Instant::now() + Duration::from_secs(30),
            max_age: None,
            waiters: None,
            trace: None,
        };
        self.models.clone().call(call).await
    }

    /// Asks again and again, far enough apart, until that many were computed on this thread: a
    /// busy machine may make one of them seem long.
    async fn ask_until_computed_here(&self, times: usize) {
        let this = thread::current().id();
        let here = || self.seen.threads.lock().iter().filter(|id| **id == this).count();
        let already = here();
        for asked in 0_u8.. {
            if here() >= already + times {
                return;
            }
            assert!(asked < 100, "computed here: {} of {asked}", here() - already);
            assert_eq!(self.ask(asked).await.unwrap().outputs[0].data()[0], asked);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn state(&self) -> ContainerState {
        self.models.containers()[0].state
    }
}

// On one thread each, the test's, so that another one can only be the replica's.

#[tokio::test]
async fn a_lone_brief_call_wakes_no_thread() {
    World::new(true, Duration::ZERO).await.ask_until_computed_here(10).await;
}

#[tokio::test]
async fn a_call_that_takes_long_or_cannot_move_does_not_keep_its_thread() {
    for (anywhere, takes) in [(true, Duration::from_millis(1)), (false, Duration::ZERO)] {
        let world = World::new(anywhere, takes).await;
        for value in 0..20 {
            world.ask(value).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let threads = world.seen.threads.lock().clone();
        assert_eq!(threads.len(), 20);
        assert!(threads.iter().all(|id| *id == threads[0] && *id != thread::current().id()));
    }
}

#[tokio::test]
async fn calls_that_come_together_are_batched_by_the_replica() {
    let world = World::new(true, Duration::ZERO).await;
    let all = (0..64).map(|value| world.ask(value));
    for (value, reply) in (0..).zip(futures::future::join_all(all).await) {
        assert_eq!(reply.unwrap().outputs[0].data()[0], value);
    }
    let threads = world.seen.threads.lock().clone();
    let elsewhere = threads.iter().filter(|id| **id != thread::current().id()).count();
    assert!(elsewhere > 0 && threads.len() < 32, "{elsewhere} of {} batches", threads.len());
}

/// Pauses about as long as the bounds between here and elsewhere, so that callers and the
/// replica's thread meet in every order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_is_answered_once_wherever_it_is_computed() {
    const CALLERS: u64 = 8;
    const CALLS: u64 = 1500;
    let world = World::new(true, Duration::ZERO).await;
    let caller = |seed: u64| {
        let world = world.clone();
        tokio::spawn(async move {
            let mut random = seed;
            for call in 0..CALLS {
                let value = (call % 100) as u8;
                let asked = tokio::time::timeout(Duration::from_secs(20), world.ask(value));
                let reply = asked.await.expect("nobody is forgotten").unwrap();
                assert_eq!(reply.outputs[0].data()[0], value);
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pause = Duration::from_micros(random >> 56);
                let until = Instant::now() + pause;
                while Instant::now() < until {
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    let callers: Vec<_> = (0..CALLERS).map(caller).collect();
    for caller in callers {
        caller.await.unwrap();
    }
    // The replica's own thread and the runtime's.
    let mut threads = world.seen.threads.lock().clone();
    assert!(threads.len() as u64 <= CALLERS * CALLS);
    threads.sort_by_key(|id| format!("{id:?}"));
    threads.dedup();
    assert!(threads.len() > 1, "{threads:?}");
}

#[tokio::test]
async fn a_container_that_panics_here_is_opened_again() {
    let world = World::new(true, Duration::ZERO).await;
    world.ask_until_computed_here(3).await;
    let error = world.ask(PANIC).await.unwrap_err();
    assert!(error.to_string().contains("told to panic"), "{error}");
    while world.seen.opened.load(Ordering::Relaxed) < 2 || world.state() != ContainerState::Ready {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.ask_until_computed_here(3).await;
}

#[tokio::test]
async fn a_container_that_fails_here_is_tried_by_its_own_thread() {
    let world = World::new(true, Duration::ZERO).await;
    world.ask_until_computed_here(3).await;
    world.seen.failing.store(true, Ordering::Relaxed);
    for value in 0..5 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        world.ask(value).await.unwrap_err();
    }
    while world.state() != ContainerState::Broken {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The trial came last.
    assert_ne!(*world.seen.threads.lock().last().unwrap(), thread::current().id());
    world.seen.failing.store(false, Ordering::Relaxed);
    while world.state() != ContainerState::Ready {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.ask_until_computed_here(3).await;
}

#[tokio::test]
async fn a_model_that_is_shut_down_ends() {
    let world = World::new(true, Duration::ZERO).await;
    world.ask_until_computed_here(3).await;
    world.models.shutdown().await;
    let error = world.ask(1).await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
}
