//! Containers in other processes: registration, batches over the wire, and failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod server;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use server::{LONG, Mood, Server, State, ask, call_within, container, numbers, states, until};
use skysail_containers::{
    BatchObserver, BatchReport, BatchStrategy, ContainerError, ContainerState, DropReason, Models,
    Stored,
};
use skysail_proto::{
    DataType, ModelId, PredictError, Signature, TensorSpec, open_inference::Contents,
};
use tower::Service as _;

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<(DropReason, u64)>>);

impl BatchObserver for Seen {
    fn batch(&self, _: &BatchReport<'_>) {}

    fn dropped(&self, _: &ModelId, reason: DropReason, queries: u64) {
        self.0.lock().push((reason, queries));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_go_over_the_wire_and_every_caller_gets_its_own_rows() {
    for contents in [Contents::Raw, Contents::Typed] {
        let server = Server::start(State { contents, ..State::default() }).await;
        let models = Models::new();
        let model = models.register(server.registration()).await.unwrap().model;
        *server.state.sleep.lock() = Duration::from_millis(1);
        let asked: Vec<_> = (1..200_i32)
            .map(|i| {
                let rows: Vec<i32> = (0..1 + i % 5).map(|row| 1000 * i + row).collect();
                (models.clone().call(call_within(&model, &rows, LONG)), rows)
            })
            .collect();
        for (i, (answer, rows)) in asked.into_iter().enumerate() {
            // Those who go disturb nobody.
            if i % 7 != 0 {
                assert_eq!(numbers(answer.await), rows);
            }
        }
        let batches = server.state.batches.lock().clone();
        assert!(batches.iter().all(|rows| *rows <= 8), "{batches:?}");
        assert!(batches.iter().any(|rows| *rows > 4), "{batches:?}");
        let (text, micros) = server.state.timeouts.lock().last().unwrap().clone();
        assert!(!text.is_empty() && micros > 0, "{text} {micros}");
        // One is computed, and at the most one is on its way.
        assert!(server.state.most.load(Ordering::SeqCst) <= 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_and_a_server_without_versions_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("socket").display());
    let server = Server::on(&address, State { versions: false, ..State::default() }).await;
    let models = Models::new();
    let model = models.register(server.registration()).await.unwrap().model;
    assert_eq!(numbers(ask(&models, &model, &[7]).await), [7]);
    assert_eq!(&*models.containers()[0].address, address);
    // One whose metadata would not tell: an inference does.
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        datatype: DataType::Int32,
        shape: vec![-1, -1],
    };
    let mut given = server.registration();
    given.signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    let model = models.register(given).await.unwrap().model;
    assert_eq!(numbers(ask(&models, &model, &[8]).await), [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_registration_fixes_what_a_version_is() {
    let server = Server::start(State::default()).await;
    let other = Server::start(State { width: 3, ..State::default() }).await;
    let models = Models::new();
    let registered = models.register(server.registration()).await.unwrap();
    let error = models.register(other.registration()).await.unwrap_err().to_string();
    for part in ["echo:1", "[any, any]", "[any, 3]", &server.address, &other.address] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let mut digest = server.registration();
    digest.digest = "abc".into();
    let error = models.register(digest).await.unwrap_err();
    assert!(matches!(error, ContainerError::AlreadyExists { .. }), "{error}");
    assert!(error.to_string().contains("digest abc"), "{error}");
    // With the last container goes what was fixed.
    models.deregister(&registered.id, Duration::ZERO).await.unwrap();
    assert!(models.list().is_empty());
    models.register(other.registration()).await.unwrap();
    assert_eq!(models.resolve("echo").unwrap().signature.inputs[0].shape, [-1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_serve_is_not_registered() {
    let models = Models::new();
    let server = Server::start(State::default()).await;
    for (mood, words) in [
        (Mood::Fail, "told to fail"),
        (Mood::Short, "expected 1 rows"),
        (Mood::WrongType, "expected datatype INT32, got UINT32"),
    ] {
        server.mood(mood);
        let error = models.register(server.registration()).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("test inference"), "{error}");
    }
    let mut unknown = server.registration();
    unknown.remote_model = "nobody".into();
    let error = models.register(unknown).await.unwrap_err().to_string();
    assert!(error.contains("nobody") && error.contains("give inputs and outputs"), "{error}");
    let mut nowhere = server.registration();
    nowhere.address = "127.0.0.1:1".parse().unwrap();
    let error = models.register(nowhere).await.unwrap_err();
    assert!(matches!(error, ContainerError::Lost(_)), "{error}");
    assert!(models.containers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_address_replaces_and_another_is_another_replica() {
    let (one, two) = (Server::start(State::default()).await, Server::start(State::default()).await);
    let models = Models::new();
    let first = models.register(one.registration()).await.unwrap();
    let second = models.register(one.registration()).await.unwrap();
    assert_ne!(first.id, second.id);
    until("the first is gone", || models.containers().len() == 1).await;
    assert_eq!(models.containers()[0].id, second.id);
    models.register(two.registration()).await.unwrap();
    let replicas: Vec<_> = models.containers().iter().map(|c| c.replica).collect();
    assert_eq!(replicas, [1, 0]);
    let unknown = models.deregister(&first.id, Duration::ZERO).await.unwrap_err();
    assert!(unknown.to_string().contains(&*second.id), "{unknown}");
    assert!(models.beat(&first.id).is_none() && models.beat(&second.id).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_container_is_seen_passed_by_and_comes_back() {
    let (good, bad) =
        (Server::start(State::default()).await, Server::start(State::default()).await);
    let models = Models::new();
    models.register(good.registration()).await.unwrap();
    let model = models.register(bad.registration()).await.unwrap().model;
    bad.mood(Mood::Fail);
    for i in 1..300 {
        assert_eq!(numbers(ask(&models, &model, &[i]).await), [i]);
    }
    until("it is broken", || states(&models)[&bad.address] == ContainerState::Broken).await;
    let reason = container(&models, &bad.address).reason;
    assert!(reason.contains("told to fail"), "{reason}");
    assert_eq!(states(&models)[&good.address], ContainerState::Ready);
    bad.mood(Mood::Echo);
    until("it is back", || states(&models)[&bad.address] == ContainerState::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_not_blamed_on_the_container() {
    let server = Server::start(State::default()).await;
    let models = Models::new();
    let model = models.register(server.registration()).await.unwrap().model;
    server.mood(Mood::FailReal);
    for i in 1..30 {
        let error = loop {
            match ask(&models, &model, &[i]).await.unwrap_err() {
                // It is being tried, which it passes.
                PredictError::Unavailable { .. } => tokio::task::yield_now().await,
                error => break error,
            }
        };
        assert!(matches!(error, PredictError::Container { .. }), "{error}");
    }
    server.mood(Mood::Echo);
    until("it is there", || states(&models)[&server.address] == ContainerState::Ready).await;
    assert_eq!(numbers(ask(&models, &model, &[5]).await), [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_asked_again_elsewhere() {
    let (one, two) = (Server::start(State::default()).await, Server::start(State::default()).await);
    let models = Models::new();
    models.register(one.registration()).await.unwrap();
    let model = models.register(two.registration()).await.unwrap().model;
    one.mood(Mood::Busy);
    for i in 1..50 {
        assert_eq!(numbers(ask(&models, &model, &[i]).await), [i]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_container_gives_up_what_it_has_and_comes_back() {
    let (good, bad) =
        (Server::start(State::default()).await, Server::start(State::default()).await);
    let models = Models::new();
    models.register(good.registration()).await.unwrap();
    let model = models.register(bad.registration()).await.unwrap().model;
    bad.mood(Mood::Hang);
    let asked: Vec<_> =
        (1..100).map(|i| (models.clone().call(call_within(&model, &[i], LONG)), i)).collect();
    for (answer, i) in asked {
        assert_eq!(numbers(answer.await), [i]);
    }
    until("it stalls", || states(&models)[&bad.address] == ContainerState::Stalled).await;
    bad.mood(Mood::Echo);
    until("it is back", || states(&models)[&bad.address] == ContainerState::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_container_is_waited_for_while_it_hangs() {
    let server = Server::start(State::default()).await;
    let models = Models::new();
    let model = models.register(server.registration()).await.unwrap().model;
    server.mood(Mood::Hang);
    let answer = models.clone().call(call_within(&model, &[3], LONG));
    until("it stalls", || states(&models)[&server.address] == ContainerState::Stalled).await;
    let refused = ask(&models, &model, &[4]).await.unwrap_err();
    assert!(matches!(refused, PredictError::Unavailable { .. }), "{refused}");
    server.mood(Mood::Echo);
    assert_eq!(numbers(answer.await), [3]);
    until("it is back", || states(&models)[&server.address] == ContainerState::Ready).await;
    assert_eq!(numbers(ask(&models, &model, &[5]).await), [5]);
}

/// A server whose sockets all close when it is dropped.
struct Mortal {
    server: Option<Server>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Mortal {
    fn start(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let address = address.to_owned();
        let task = runtime.spawn(async move { Server::on(&address, State::default()).await });
        let server = futures::executor::block_on(task).unwrap();
        Self { server: Some(server), runtime: Some(runtime) }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.server.take();
        self.runtime.take().unwrap().shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_container_is_seen_at_once_and_found_again() {
    let seen = Arc::new(Seen::default());
    let models = Models::with_observer(Arc::clone(&seen) as Arc<dyn BatchObserver>);
    let mortal = Mortal::start("127.0.0.1:0");
    let server = mortal.server.as_ref().unwrap();
    let address = server.address.clone();
    let model = models.register(server.registration()).await.unwrap().model;
    server.mood(Mood::Hang);
    let state = server.state.clone();
    let held = models.clone().call(call_within(&model, &[1], LONG));
    until("it has the query", || state.under_way.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    drop(mortal);
    let error = held.await.unwrap_err();
    assert!(matches!(error, PredictError::ReplicaLost { .. }), "{error}");
    // Well before anything is overdue or probed.
    assert!(begun.elapsed() < LONG);
    assert_eq!(states(&models)[&address], ContainerState::Broken);
    assert_eq!(*seen.0.lock(), [(DropReason::ReplicaLost, 1)]);
    let error = ask(&models, &model, &[2]).await.unwrap_err();
    assert!(matches!(error, PredictError::Unavailable { .. }), "{error}");
    let _again = Mortal::start(&address);
    until("it is found", || states(&models)[&address] == ContainerState::Ready).await;
    assert_eq!(numbers(ask(&models, &model, &[2]).await), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_container_had_is_computed_by_another() {
    let models = Models::new();
    let mortal = Mortal::start("127.0.0.1:0");
    let server = mortal.server.as_ref().unwrap();
    models.register(server.registration()).await.unwrap();
    let state = server.state.clone();
    server.mood(Mood::Hang);
    let model = models.resolve("echo").unwrap();
    let held = models.clone().call(call_within(&model, &[1], LONG));
    until("it has the query", || state.under_way.load(Ordering::SeqCst) == 1).await;
    let good = Server::start(State::default()).await;
    models.register(good.registration()).await.unwrap();
    drop(mortal);
    assert_eq!(numbers(held.await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_drains_finishes_what_it_has() {
    let server = Server::start(State::default()).await;
    let models = Models::new();
    let registered = models.register(server.registration()).await.unwrap();
    server.mood(Mood::Hang);
    let asked: Vec<_> = (1..20)
        .map(|i| (models.clone().call(call_within(&registered.model, &[i], LONG)), i))
        .collect();
    let gone = {
        let (models, id) = (models.clone(), Arc::clone(&registered.id));
        tokio::spawn(async move { models.deregister(&id, LONG).await })
    };
    until("it drains", || states(&models)[&server.address] == ContainerState::Draining).await;
    server.mood(Mood::Echo);
    for (answer, i) in asked {
        assert_eq!(numbers(answer.await), [i]);
    }
    gone.await.unwrap().unwrap();
    assert!(models.containers().is_empty() && models.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_come_back_after_a_restart() {
    let server = Server::start(State::default()).await;
    let before = Models::new();
    before.register(server.registration()).await.unwrap();
    let kept: Vec<Stored> = before.registrations();
    before.shutdown().await;
    assert_eq!(kept.len(), 1);
    let models = Models::new();
    let restored = models.restore(kept[0].clone()).unwrap();
    assert_eq!(restored.id, kept[0].id);
    until("it is tried", || states(&models)[&server.address] == ContainerState::Ready).await;
    assert_eq!(numbers(ask(&models, &restored.model, &[9]).await), [9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_and_deregistering_leaves_nothing_behind() {
    let server = Server::start(State::default()).await;
    let models = Models::new();
    for cycle in 0..50 {
        let mut registration = server.registration();
        registration.batch = BatchStrategy::Aimd;
        let registered = models.register(registration).await.unwrap();
        assert_eq!(numbers(ask(&models, &registered.model, &[cycle + 1]).await), [cycle + 1]);
        models.deregister(&registered.id, Duration::ZERO).await.unwrap();
    }
    assert!(models.containers().is_empty() && models.registrations().is_empty());
    assert!(models.resolve("echo").is_none() && models.resolve("echo:1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_name_stays_with_its_version_while_that_is_away() {
    let server = Server::start(State::default()).await;
    let models = Models::new();
    let first = models.register(server.registration()).await.unwrap();
    let mut second = server.registration();
    second.id = ModelId::new("echo", "2");
    second.remote_version = "1".into();
    models.register(second).await.unwrap();
    models.deregister(&first.id, Duration::ZERO).await.unwrap();
    assert!(models.resolve("echo").is_none() && models.resolve("echo:2").is_some());
    models.register(server.registration()).await.unwrap();
    assert_eq!(&*models.resolve("echo").unwrap().id.version, "1");
}
