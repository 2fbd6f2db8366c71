//! Containers in processes of their own, under load through the front door: they are killed,
//! stopped, broken, replaced, and come back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "../containers/tests/server/mod.rs"]
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Container, Server, query};
use rustix::process::Signal;
use server::{Mood, State};
use skysail_proto::pb::v1;
use tokio::task::JoinHandle;
use v1::ContainerState::{Broken, Ready, Stalled};

const ROOT_APP: &str = r#"
[[application]]
name = "app"
objective = "2s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{ model = "root" }]
"#;

/// The container that `server::State` is.
const ECHO_APP: &str = r#"
[[application]]
name = "echo"
objective = "2s"
task = "opaque"
links = [{ model = "echo" }]
"#;

/// Asks again and again, never the same twice.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<v1::PredictResponse>>,
    answered: Arc<AtomicU32>,
}

impl Load {
    fn start(server: &Server, make: fn(u32) -> v1::PredictRequest) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let mut client = server.prediction();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            // A few hundred in a second, which busy processors can do in time, none of them waiting
            // for another's answer.
            let requests = futures::stream::unfold(0_u32, move |i| {
                let stopped = Arc::clone(&stopped);
                async move {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    (!stopped.load(Ordering::Relaxed)).then(|| (make(i), i + 1))
                }
            });
            let mut stream = client.predict_stream(requests).await.unwrap().into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await.unwrap() {
                count.fetch_add(1, Ordering::Relaxed);
                answers.push(answer);
            }
            answers
        });
        Self { stop, task, answered }
    }

    /// Waits for so many answers more.
    async fn more(&self, answers: u32) {
        let begun = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < begun + answers {
            assert!(!self.task.is_finished(), "the stream has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> Vec<v1::PredictResponse> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

fn unique(i: u32) -> v1::PredictRequest {
    query("app", &i.to_string(), &[[i as f32, 0.5]])
}

fn echo(i: u32) -> v1::PredictRequest {
    v1::PredictRequest {
        application: "echo".into(),
        request_id: i.to_string(),
        inputs: vec![v1::Tensor {
            name: "x".into(),
            datatype: "INT32".into(),
            shape: vec![1, 1],
            data: (i + 1).to_le_bytes().to_vec().into(),
        }],
        ..Default::default()
    }
}

/// Those without an answer, with their errors.
fn failed(answers: &[v1::PredictResponse]) -> Vec<String> {
    let failed = answers.iter().filter_map(|answer| answer.error.as_ref());
    failed.map(|error| error.message.clone()).collect()
}

fn state_of(containers: &[v1::Container], address: &str) -> Option<v1::ContainerState> {
    containers.iter().find(|container| container.address == address).map(|c| c.state())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_killed_or_stopped_loses_at_most_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT_APP, folder.path()).await;
    let front_end = [server.grpc.as_str()];
    let good = Container::start("root", "1", &front_end).await;
    let frozen = Container::start("root", "1", &front_end).await;
    let killed = Container::start("root", "1", &front_end).await;
    let load = Load::start(&server, unique);
    load.more(500).await;

    frozen.signal(Signal::STOP);
    let stalled = |all: &[v1::Container]| state_of(all, &frozen.address) == Some(Stalled);
    server.until("it stalls", stalled).await;
    load.more(500).await;
    frozen.signal(Signal::CONT);
    let ready = |all: &[v1::Container]| state_of(all, &frozen.address) == Some(Ready);
    server.until("it is back", ready).await;

    let address = killed.address.clone();
    killed.kill().await;
    let broken = |all: &[v1::Container]| state_of(all, &address) == Some(Broken);
    server.until("it is lost", broken).await;
    load.more(500).await;
    let _again = Container::with("root", "1", &front_end, &["--listen", &address]).await;
    let ready = |all: &[v1::Container]| state_of(all, &address) == Some(Ready);
    server.until("it is back", ready).await;
    load.more(500).await;

    let answers = load.stop().await;
    // With two others and two seconds, all that was sent to the lost ones is passed on.
    assert_eq!(failed(&answers), [""; 0]);
    assert!(answers.iter().all(|answer| answer.status() == v1::Status::Answered));
    let lost = r#"skysail_drops_total{model="root",reason="replica_lost"}"#;
    assert!(server.metric(lost).await < f64::EPSILON);
    assert!(good.stop().await && frozen.stop().await);
    server.until("they have gone", |all| all.len() == 1).await;
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_container_had_is_lost_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT_APP, folder.path()).await;
    let container = Container::start("root", "1", &[&server.grpc]).await;
    server.prediction().predict(unique(0)).await.unwrap();
    container.signal(Signal::STOP);
    let mut waiting = Vec::new();
    for i in 1..=5 {
        let mut client = server.prediction();
        waiting.push(tokio::spawn(async move { client.predict(unique(i)).await }));
    }
    server.until("it has queries", |all| all[0].in_flight > 0).await;
    container.kill().await;
    let mut codes = Vec::new();
    for call in waiting {
        codes.push(call.await.unwrap().unwrap_err().code());
    }
    assert_eq!(codes, [tonic::Code::Unavailable; 5]);
    // Those that were sent, and those that waited for it.
    let lost = r#"skysail_drops_total{model="root",reason="replica_lost"}"#;
    let lost = server.metric(lost).await;
    assert!((1.0..=5.0).contains(&lost), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_only_fails_is_seen_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let front_end = Server::start(ECHO_APP, folder.path()).await;
    let good = server::Server::start(State::default()).await;
    let bad = server::Server::start(State::default()).await;
    for container in [&good, &bad] {
        let request = v1::RegisterRequest {
            model: "echo".into(),
            version: "1".into(),
            address: container.address.clone(),
            persistent: true,
            ..Default::default()
        };
        front_end.registry().register(request).await.unwrap();
    }
    let load = Load::start(&front_end, echo);
    load.more(300).await;
    bad.mood(Mood::Fail);
    let broken = |all: &[v1::Container]| state_of(all, &bad.address) == Some(Broken);
    front_end.until("it is broken", broken).await;
    let reason = front_end.containers().await;
    let reason = reason.iter().find(|container| container.address == bad.address).unwrap();
    assert!(reason.reason.contains("told to fail"), "{}", reason.reason);
    load.more(300).await;
    bad.mood(Mood::Echo);
    let ready = |all: &[v1::Container]| state_of(all, &bad.address) == Some(Ready);
    front_end.until("it is back", ready).await;
    load.more(300).await;
    let answers = load.stop().await;
    assert_eq!(failed(&answers), [""; 0]);
    for answer in &answers {
        let number: u32 = answer.request_id.parse().unwrap();
        assert_eq!(&answer.outputs[0].data[..], (number + 1).to_le_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_replaced_under_load_fails_no_query() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(ROOT_APP, folder.path()).await;
    let front_end = [server.grpc.as_str()];
    let mut old = Container::start("root", "1", &front_end).await;
    let load = Load::start(&server, unique);
    load.more(300).await;
    for version in ["2", "3"] {
        // It has answered a test inference when it is ready.
        let new = Container::start("root", version, &front_end).await;
        let set =
            v1::SetVersionRequest { model: "root".into(), version: version.into(), reset: false };
        server.admin().set_version(set).await.unwrap();
        assert!(old.stop().await);
        old = new;
        load.more(300).await;
    }
    let answers = load.stop().await;
    assert_eq!(failed(&answers), [""; 0]);
    let versions: std::collections::BTreeSet<_> =
        answers.iter().map(|answer| answer.contributions[0].version.as_str()).collect();
    assert_eq!(versions, ["1", "2", "3"].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_in_a_batch_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let front_end = Server::start(ECHO_APP, folder.path()).await;
    let container = server::Server::start(State::default()).await;
    let request = v1::RegisterRequest {
        model: "echo".into(),
        version: "1".into(),
        address: container.address.clone(),
        batch: "16".into(),
        ..Default::default()
    };
    front_end.registry().register(request).await.unwrap();
    *container.state.sleep.lock() = Duration::from_millis(100);
    let mut waiting = Vec::new();
    for i in 0..24 {
        let mut client = front_end.prediction();
        let call = tokio::spawn(async move { client.predict(echo(i)).await });
        if i == 0 {
            // It is computed; the others share the next batch.
            server::until("it is there", || !container.state.batches.lock().is_empty()).await;
        }
        waiting.push(call);
    }
    server::until("a batch of many is computed", || {
        container.state.batches.lock().iter().any(|rows| *rows > 8)
    })
    .await;
    for call in waiting.iter().step_by(3) {
        call.abort();
    }
    for (i, call) in waiting.into_iter().enumerate().filter(|(i, _)| i % 3 != 0) {
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!(&answer.outputs[0].data[..], (u32::try_from(i).unwrap() + 1).to_le_bytes());
    }
    assert_eq!(state_of(&front_end.containers().await, &container.address), Some(Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_front_ends_share_a_container_and_it_finds_one_that_was_restarted() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Server::start(ROOT_APP, one.path()).await;
    let second = Server::start(ROOT_APP, two.path()).await;
    let container = Container::start("root", "1", &[&first.grpc, &second.grpc]).await;
    for server in [&first, &second] {
        server
            .until("it is registered", |all| state_of(all, &container.address) == Some(Ready))
            .await;
        server.prediction().predict(unique(1)).await.unwrap();
    }
    // A restart with its state: it is known at once, and was never away for the other.
    let id = first.containers().await[0].container_id.clone();
    first.kill().await;
    let first = Server::start(ROOT_APP, one.path()).await;
    first.until("it is tried", |all| state_of(all, &container.address) == Some(Ready)).await;
    assert_eq!(first.containers().await[0].container_id, id);
    first.prediction().predict(unique(2)).await.unwrap();
    second.prediction().predict(unique(2)).await.unwrap();
    assert!(container.stop().await);
    assert!(second.containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_registrations_leave_memory_flat() {
    let folder = tempfile::tempdir().unwrap();
    let front_end = Server::start(ECHO_APP, folder.path()).await;
    let container = server::Server::start(State::default()).await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", front_end.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    let mut after = Vec::new();
    for cycle in 0..500_u32 {
        let request = v1::RegisterRequest {
            model: "echo".into(),
            version: "1".into(),
            address: container.address.clone(),
            ..Default::default()
        };
        let registered = front_end.registry().register(request).await.unwrap().into_inner();
        front_end.prediction().predict(echo(cycle)).await.unwrap();
        let gone = v1::DeregisterRequest {
            container_id: registered.container_id,
            drain: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        };
        front_end.registry().deregister(gone).await.unwrap();
        if cycle % 100 == 99 {
            after.push(resident());
        }
    }
    assert!(front_end.containers().await.is_empty());
    // The first hundred fill pools and caches; a leak of ten kilobytes a cycle would show.
    assert!(after[4] - after[0] < 4.0, "{after:?} MiB");
}

/// What a new user sees when it goes wrong: one line that says what to do, and an exit code.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let front_end = Server::start(ROOT_APP, folder.path()).await;
    let running = Container::start("root", "1", &[&front_end.grpc]).await;
    let cnn = concat!(env!("CARGO_MANIFEST_DIR"), "/models/fashion-mnist/tree.onnx");
    let said = |arguments: &[&str]| {
        let mut command = Container::command("root", "1", &[front_end.grpc.as_str()], arguments);
        async move {
            let output = command.output().await.unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        }
    };
    let of = |code, words: &'static [&'static str]| (Some(code), words);
    let cases = [
        (vec!["--listen", &running.address], of(1, &["cannot listen on", "--listen"])),
        (vec!["--listen", "nonsense"], of(1, &["cannot listen on nonsense"])),
        (vec!["--device", "cuda"], of(1, &["lacks the provider", "onnxruntime-gpu"])),
        (vec!["--device", "tensorrt"], of(1, &["lacks the provider", "onnxruntime-gpu"])),
        (vec!["--device", "gpu"], of(1, &["unknown device 'gpu'", "cpu, cuda or tensorrt"])),
        (vec!["--batch", "lots"], of(1, &["'lots'", "quantile"])),
        (vec!["--bogus"], of(2, &["--bogus"])),
    ];
    for (arguments, (code, words)) in cases {
        let (got, text) = said(&arguments).await;
        assert_eq!(got, code, "{arguments:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{arguments:?}: {text}");
    }
    // Another signature under the same name and version, shown beside the first one.
    let mut command = Container::command("root", "1", &[], &[]);
    let output = command.args(["--model", "nowhere.onnx"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "a flag given twice");
    let mut other = tokio::process::Command::new(env!("CARGO_BIN_EXE_skysail"));
    other.args(["container", "--model", cnn, "--name", "root", "--version", "1"]);
    let output = other.args(["--register", &front_end.grpc]).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in ["ALREADY_EXISTS", "root:1", "[any, 784]", "[any, 2]", "another version"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let mut missing = tokio::process::Command::new(env!("CARGO_BIN_EXE_skysail"));
    missing.args(["container", "--model", "nowhere.onnx", "--name", "a", "--version", "1"]);
    let output = missing.output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("cannot read the model file nowhere.onnx"), "{text}");
    let mut nothing = tokio::process::Command::new(env!("CARGO_BIN_EXE_skysail"));
    let output = nothing.arg("container").output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--model, --name and --version are needed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_waits_for_a_front_end_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    // A port that is free now, and will be.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = free.to_string();
    let start = tokio::spawn({
        let address = address.clone();
        async move { Container::start("root", "1", &[&address]).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!start.is_finished());
    let config = format!("[server]\nlisten = \"{address}\"\n{ROOT_APP}");
    let server = Server::start_as_configured(&config, folder.path()).await;
    let container = start.await.unwrap();
    server.until("it is there", |all| state_of(all, &container.address) == Some(Ready)).await;
}
