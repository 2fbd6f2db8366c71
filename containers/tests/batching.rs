//! Queues, batches and replicas with containers that do as they are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skysail_containers::{
    BatchObserver, BatchReport, BatchStrategy, Container, ContainerError, ContainerState,
    DropReason, MaskReason, ModelConfig, Models, Release,
};
use skysail_proto::{
    DataType, Inputs, ModelCall, ModelId, ModelVersion, PredictError, Signature, Tensor,
    TensorSpec, Waiters, error::LateReason,
};
use tower::Service;

/// Answers each row's number; the first element of a query says what else it does.
struct Echo {
    /// Takes a token for each batch, where there is one: the test says when a batch ends.
    gate: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    sleep: fn(usize) -> Duration,
    batches: Arc<AtomicUsize>,
}

const PANIC: u8 = 200;
const FAIL: u8 = 201;
const SHORT: u8 = 202;

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: DataType::Uint8, shape: vec![-1, -1] }
}

impl Container for Echo {
    fn signature(&self) -> Signature {
        Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
    }

    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError> {
        let asked = |command| batch.iter().any(|q| q.get("x").unwrap().data()[0] == command);
        // Zeros are the warm-up, which no test waits for.
        if let Some(gate) = self.gate.as_ref().filter(|_| !asked(0)) {
            let _ = gate.lock().recv();
        }
        std::thread::sleep((self.sleep)(batch.iter().map(|q| q.rows()).sum()));
        self.batches.fetch_add(1, Ordering::Relaxed);
        assert!(!asked(PANIC), "told to panic");
        if asked(FAIL) {
            return Err(ContainerError::Failed("told to fail".into()));
        }
        let mut answers: Vec<Vec<Tensor>> = batch
            .iter()
            .map(|query| {
                let tensor = query.get("x").unwrap();
                let name = outputs[0].to_string();
                let (shape, data) = (tensor.shape().to_vec(), tensor.data().clone());
                vec![Tensor::new(name, DataType::Uint8, shape, data).unwrap()]
            })
            .collect();
        if asked(SHORT) {
            answers.pop();
        }
        Ok(answers)
    }
}

#[derive(Debug, Default)]
struct Seen {
    batches: Mutex<Vec<(usize, Release, bool)>>,
    drops: Mutex<Vec<(DropReason, u64)>>,
}

impl BatchObserver for Seen {
    fn batch(&self, report: &BatchReport<'_>) {
        self.batches.lock().push((report.rows, report.release, report.failed));
    }

    fn dropped(&self, _: &ModelId, reason: DropReason, queries: u64) {
        self.drops.lock().push((reason, queries));
    }
}

struct World {
    models: Models,
    model: Arc<ModelVersion>,
    seen: Arc<Seen>,
    batches: Arc<AtomicUsize>,
    /// Lets one batch end.
    gate: mpsc::Sender<()>,
}

impl World {
    async fn new(gated: bool, change: impl FnOnce(&mut ModelConfig)) -> Self {
        Self::sleeping(gated, |_| Duration::ZERO, change).await
    }

    async fn sleeping(
        gated: bool,
        sleep: fn(usize) -> Duration,
        change: impl FnOnce(&mut ModelConfig),
    ) -> Self {
        let seen = Arc::new(Seen::default());
        let models = Models::with_observer(Arc::clone(&seen) as Arc<dyn BatchObserver>);
        let mut config = ModelConfig::new(ModelId::new("echo", "1"), "");
        config.batch = BatchStrategy::Fixed(4);
        change(&mut config);
        let (gate, gate_in) = mpsc::channel();
        let gate_in = Arc::new(Mutex::new(gate_in));
        let batches = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&batches);
        let open = move || -> Result<Box<dyn Container>, ContainerError> {
            let gate = gated.then(|| Arc::clone(&gate_in));
            Ok(Box::new(Echo { gate, sleep, batches: Arc::clone(&counter) }))
        };
        let model = models.start(config, "", open).await.unwrap();
        batches.store(0, Ordering::Relaxed);
        Self { models, model, seen, batches, gate }
    }

    fn call(&self, rows: &[u8], within: Duration) -> ModelCall {
        self.call_of(1, rows, within)
    }

    fn call_of(&self, width: usize, rows: &[u8], within: Duration) -> ModelCall {
        let shape = [i64::try_from(rows.len()).unwrap(), i64::try_from(width).unwrap()];
        let data: Vec<u8> = rows.iter().flat_map(|row| vec![*row; width]).collect();
        let tensor = Tensor::new("x", DataType::Uint8, shape, data).unwrap();
        ModelCall {
            model: Arc::clone(&self.model),
            inputs: Arc::new(Inputs::new(vec![tensor]).unwrap()),
            outputs: ["y".into()].into(),
            identity: [0; 32],
            deadline: Instant::now() + within,
            max_age: None,
            waiters: None,
            trace: None,
        }
    }

    fn send(&self, call: ModelCall) -> skysail_containers::ModelFuture {
        self.models.clone().call(call)
    }

    /// A query that keeps the replica busy until the gate lets it go.
    async fn busy(&self) -> skysail_containers::ModelFuture {
        let first = self.send(self.call(&[1], LONG));
        self.until(|world| world.models.containers()[0].in_flight == 1).await;
        first
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !reached(self) {
            assert!(begun.elapsed() < LONG, "waited in vain");
            tokio::task::yield_now().await;
        }
    }

    fn let_go(&self, batches: usize) {
        for _ in 0..batches {
            self.gate.send(()).unwrap();
        }
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_its_own_rows_whatever_the_mix() {
    let world = World::new(false, |config| config.replicas = 2).await;
    let mut answers = Vec::new();
    for i in 0..400_usize {
        let byte = u8::try_from(1 + i % 150).unwrap();
        let rows = vec![byte; 1 + i % 6];
        answers.push((world.send(world.call_of(1 + i % 3, &rows, LONG)), i, byte));
    }
    for (answer, i, byte) in answers {
        if i % 7 == 0 {
            drop(answer);
            continue;
        }
        let reply = answer.await.unwrap();
        let rows = i64::try_from(1 + i % 6).unwrap();
        assert_eq!(reply.outputs[0].shape(), [rows, i64::try_from(1 + i % 3).unwrap()]);
        assert!(reply.outputs[0].data().iter().all(|got| *got == byte));
        assert!(reply.batch_rows <= 4 || reply.batch_rows == u32::try_from(rows).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_replica_is_busy_rides_the_next_batch() {
    let world = World::new(true, |_| {}).await;
    let first = world.busy().await;
    let others: Vec<_> = (2..8).map(|i| world.send(world.call(&[i], LONG))).collect();
    let cancelled = world.send(world.call(&[99], LONG));
    drop(cancelled);
    assert_eq!(world.models.containers()[0].queue_rows, 7);
    world.let_go(3);
    assert_eq!(first.await.unwrap().batch_rows, 1);
    let mut sizes = Vec::new();
    for other in others {
        sizes.push(other.await.unwrap().batch_rows);
    }
    assert_eq!(sizes, [4, 4, 4, 4, 2, 2]);
    let releases: Vec<_> = world.seen.batches.lock().iter().map(|b| (b.0, b.1)).collect();
    assert_eq!(releases, [(1, Release::Idle), (4, Release::Full), (2, Release::Idle)]);
    assert_eq!(*world.seen.drops.lock(), [(DropReason::Abandoned, 1)]);
    assert_eq!(world.batches.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_query_fails_alone() {
    let world = World::new(true, |_| {}).await;
    for command in [FAIL, SHORT] {
        let first = world.busy().await;
        let good = world.send(world.call(&[7], LONG));
        let bad = world.send(world.call(&[command], LONG));
        let also = world.send(world.call(&[8], LONG));
        world.let_go(5);
        first.await.unwrap();
        assert_eq!(good.await.unwrap().outputs[0].data()[0], 7);
        assert_eq!(also.await.unwrap().outputs[0].data()[0], 8);
        let error = bad.await.unwrap_err();
        assert!(matches!(error, PredictError::Container { .. }), "{error}");
        world.until(|world| world.models.containers()[0].in_flight == 0).await;
    }
    assert_eq!(world.models.containers()[0].state, ContainerState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_replica_and_nobody_waits_for_it() {
    let world = World::new(true, |config| config.batch = BatchStrategy::None).await;
    let first = world.send(world.call(&[PANIC], LONG));
    world.until(|world| world.models.containers()[0].in_flight == 1).await;
    let waiting = world.send(world.call(&[1], LONG));
    world.let_go(1);
    let error = first.await.unwrap_err();
    assert!(error.to_string().contains("told to panic"), "{error}");
    let error = waiting.await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
    let container = world.models.containers().remove(0);
    assert_eq!(container.state, ContainerState::Broken);
    assert!(container.reason.contains("told to panic"));
    let deadline = Instant::now() + LONG;
    assert_eq!(world.models.mask(&world.model, 1, deadline), Some(MaskReason::NoLiveReplica));
    let error = world.send(world.call(&[1], LONG)).await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
    assert!(world.seen.drops.lock().contains(&(DropReason::ReplicaLost, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_when_one_is_lost() {
    let world = World::new(false, |config| config.replicas = 2).await;
    world.send(world.call(&[PANIC], LONG)).await.unwrap_err();
    for i in 1..50 {
        world.send(world.call(&[i], LONG)).await.unwrap();
    }
    let states: Vec<_> = world.models.containers().iter().map(|c| c.state).collect();
    assert!(states.contains(&ContainerState::Broken) && states.contains(&ContainerState::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_panicked_is_opened_again() {
    let world = World::new(false, |_| {}).await;
    world.send(world.call(&[PANIC], LONG)).await.unwrap_err();
    world.until(|world| world.models.containers()[0].state == ContainerState::Ready).await;
    assert_eq!(world.send(world.call(&[7], LONG)).await.unwrap().outputs[0].data()[0], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_in_one_replica_is_computed_by_another() {
    let world = World::new(true, |config| config.replicas = 2).await;
    let held = world.send(world.call(&[1], LONG));
    let states = |world: &World| -> Vec<_> {
        world.models.containers().iter().map(|container| container.state).collect()
    };
    world.until(|world| states(world).contains(&ContainerState::Stalled)).await;
    world.until(|world| world.models.containers().iter().any(|c| c.in_flight == 1)).await;
    // Both have begun with it by now. Each takes a token; the answer is the second one's.
    world.let_go(2);
    assert_eq!(held.await.unwrap().outputs[0].data()[0], 1);
    world.until(|world| states(world) == [ContainerState::Ready; 2]).await;
    assert_eq!(*world.seen.drops.lock(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_objective_below_the_floor_is_said_to_be_infeasible() {
    let sleep = |_| Duration::from_millis(30);
    let world = World::sleeping(false, sleep, |config| config.batch = BatchStrategy::Aimd).await;
    let (objective, slack) = (Duration::from_millis(20), Duration::from_millis(1));
    assert!(world.models.containers()[0].feasible);
    world.models.set_objective(&world.model.id, objective, slack);
    let container = world.models.containers().remove(0);
    assert!(!container.feasible);
    assert_eq!((container.objective, container.batch), (objective, BatchStrategy::Aimd));
    assert_eq!(container.batch_target, (objective - slack) / 2);
    let reason = world.models.mask(&world.model, 1, Instant::now() + objective - slack);
    assert!(matches!(reason, Some(MaskReason::Infeasible { .. })), "{reason:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let world = World::new(true, |config| config.queue_rows = 3).await;
    let first = world.busy().await;
    let waiting = world.send(world.call(&[1, 2, 3], LONG));
    let error = world.send(world.call(&[4], LONG)).await.unwrap_err();
    assert!(matches!(error, PredictError::Overloaded { .. }), "{error}");
    assert_eq!(*world.seen.drops.lock(), [(DropReason::Full, 1)]);
    // What nobody waits for makes room.
    drop(waiting);
    let begun = Instant::now();
    let last = loop {
        let mut next = world.send(world.call(&[4], LONG));
        match futures::poll!(&mut next) {
            std::task::Poll::Pending => break next,
            std::task::Poll::Ready(answer) => assert!(answer.is_err()),
        }
        assert!(begun.elapsed() < LONG, "waited in vain");
    };
    world.let_go(2);
    first.await.unwrap();
    last.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_call_is_dropped_and_a_joiner_keeps_one_alive() {
    let world = World::new(true, |_| {}).await;
    let first = world.busy().await;
    let late = world.send(world.call(&[2], Duration::from_millis(1)));
    let mut flight = world.call(&[3], Duration::from_millis(1));
    let (waiters, leader) = Waiters::new(flight.deadline);
    flight.waiters = Some(Arc::clone(&waiters));
    let flight = world.send(flight);
    let _joiner = waiters.join(Instant::now() + LONG);
    drop(leader);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    world.let_go(2);
    first.await.unwrap();
    let error = late.await.unwrap_err();
    assert!(matches!(error, PredictError::Late { why: LateReason::Queued, .. }), "{error}");
    assert_eq!(flight.await.unwrap().outputs[0].data()[0], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mask_knows_of_the_queue() {
    let sleep = |_| Duration::from_millis(20);
    let world = World::sleeping(false, sleep, |config| config.batch = BatchStrategy::None).await;
    let soon = || Instant::now() + Duration::from_millis(60);
    assert_eq!(world.models.mask(&world.model, 1, soon()), None);
    let queued: Vec<_> = (1..10).map(|i| world.send(world.call(&[i], LONG))).collect();
    let reason = world.models.mask(&world.model, 1, soon());
    assert!(matches!(reason, Some(MaskReason::QueueTooLong { .. })), "{reason:?}");
    for answer in queued {
        answer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_wait_holds_a_busy_replicas_batch_open_but_not_an_idle_ones() {
    let wait = Duration::from_millis(50);
    let world = World::new(true, |config| config.batch_wait = wait).await;
    let first = world.busy().await;
    let second = world.send(world.call(&[2], LONG));
    world.let_go(1);
    first.await.unwrap();
    let third = world.send(world.call(&[3], LONG));
    world.let_go(1);
    let (second, third) = (second.await.unwrap(), third.await.unwrap());
    assert_eq!((second.batch_rows, third.batch_rows), (2, 2));
    assert!(second.queue >= wait);
    let releases: Vec<_> = world.seen.batches.lock().iter().map(|b| (b.0, b.1)).collect();
    assert_eq!(releases, [(1, Release::Idle), (2, Release::Timer)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn aimd_finds_its_limit_under_load() {
    let sleep = |rows| Duration::from_micros(1_000 + 100 * rows as u64);
    let objective = Duration::from_millis(21);
    let world = World::sleeping(false, sleep, |config| {
        config.batch = BatchStrategy::Aimd;
        config.objective = Some(objective);
    })
    .await;
    // Target 10 ms: 90 rows. The machine may be busy, so the bounds are wide.
    for _ in 0..40 {
        let round: Vec<_> = (0..300).map(|_| world.send(world.call(&[5], LONG))).collect();
        for answer in round {
            answer.await.unwrap();
        }
    }
    let limit = world.models.containers()[0].batch_limit;
    assert!((30..=110).contains(&limit), "{limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_finishes_what_was_accepted() {
    let world = World::new(true, |_| {}).await;
    let first = world.busy().await;
    let queued: Vec<_> = (1..20).map(|i| world.send(world.call(&[i], LONG))).collect();
    let models = world.models.clone();
    let ending = tokio::spawn(async move { models.shutdown().await });
    // One batch that runs, and nineteen queries in batches of four.
    world.let_go(6);
    ending.await.unwrap();
    first.await.unwrap();
    for answer in queued {
        answer.await.unwrap();
    }
    let error = world.send(world.call(&[1], LONG)).await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
    assert_eq!(world.models.containers()[0].state, ContainerState::Draining);
}
