//! MLServer behind us, as anybody would register it: it answers what it answers when it is asked
//! directly, and what it does when it dies, stalls, is slow or fails, nobody has to wait for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "mlserver/process.rs"]
mod process;

use std::{
    collections::BTreeSet,
    path::Path,
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::Server;
use process::MlServer;
use rustix::process::Signal;
use skysail_proto::{DataType, Tensor, pb::v1};
use tokio::task::JoinHandle;
use v1::{ContainerState::Broken, ContainerState::Ready, ContainerState::Stalled, Outcome};

const EXACT: &str = r#"
[[application]]
name = "digits"
objective = "60s"
task = "classification"
label_output = "predict"
scores_output = "predict_proba"
links = [{ model = "digits" }]

[[application]]
name = "bare"
objective = "60s"
task = "classification"
label_output = "predict"
links = [{ model = "bare" }]

[[application]]
name = "echo"
objective = "60s"
task = "opaque"
links = [{ model = "echo" }]
"#;

/// MLServer and a model in this process, which say the same.
const MOODS: &str = r#"
[[model]]
name = "near"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[application]]
name = "both"
objective = "1s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{ model = "roots" }, { model = "near" }]

[[application]]
name = "alone"
objective = "1s"
task = "classification"
label_output = "label"
links = [{ model = "roots" }]

[[application]]
name = "patient"
objective = "60s"
task = "classification"
label_output = "label"
links = [{ model = "roots" }]
"#;

/// Held by each test: three MLServers that start at once would be slow for reasons of their own.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The objective of those in [`MOODS`] whose answers are timed, and what busy processors may add to it.
const OBJECTIVE: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(500);

async fn skysail(server: &Server, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_skysail"));
    command.args(arguments).args(["--server", &server.grpc]).output().await.unwrap()
}

/// Registers it by the command line; answers what that says where it fails.
async fn register(server: &Server, behind: &MlServer, model: &str, more: &[&str]) -> String {
    let address = behind.address();
    let mut arguments = vec!["model", "register", "--persistent", "--name", model];
    arguments.extend(["--version", "1", "--address", &address]);
    arguments.extend(more);
    let output = skysail(server, &arguments).await;
    assert_eq!(output.status.success(), output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn request(application: &str, id: usize, inputs: &[Tensor]) -> v1::PredictRequest {
    v1::PredictRequest {
        application: application.into(),
        request_id: id.to_string(),
        inputs: inputs.iter().cloned().map(Into::into).collect(),
        ..Default::default()
    }
}

async fn ask(server: &Server, application: &str, inputs: &[Tensor]) -> Vec<Tensor> {
    let answer = server.prediction().predict(request(application, 0, inputs)).await;
    tensors(&answer.unwrap().into_inner())
}

fn tensors(answer: &v1::PredictResponse) -> Vec<Tensor> {
    answer.outputs.iter().cloned().map(|output| output.try_into().unwrap()).collect()
}

fn fp32(name: &str, columns: usize, values: &[f32]) -> Tensor {
    let shape = [values.len() / columns, columns].map(|n| i64::try_from(n).unwrap());
    Tensor::new(name, DataType::Fp32, shape, common::fp32(values)).unwrap()
}

/// Rows of scikit-learn's pictures, as MLServer's model takes them.
fn digits(folder: &Path) -> Tensor {
    let data = std::fs::read(folder.join("digits.f32")).unwrap();
    let rows = i64::try_from(data.len() / 4 / 64).unwrap();
    Tensor::new("image", DataType::Fp32, [rows, 64], data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MLServer: cargo xtask test --all"]
async fn predictions_equal_those_of_mlserver_itself() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let (models, own) = (folder.path().join("models"), folder.path().join("own"));
    std::fs::create_dir(&models).unwrap();
    std::fs::create_dir(&own).unwrap();
    let behind = MlServer::start("exact", &models).await;
    let server = Server::start(EXACT, &own).await;
    let said = register(&server, &behind, "nothing", &[]).await;
    assert!(said.contains("'nothing'") && said.contains("not found"), "{said}");
    assert_eq!(register(&server, &behind, "digits", &[]).await, "");
    assert_eq!(register(&server, &behind, "echo", &[]).await, "");

    let (all, both) = (digits(&models), ["predict", "predict_proba"]);
    for (from, rows) in [(0, 1), (1, 2), (3, 50), (100, 500)] {
        let image = [all.slice_rows(from, rows).unwrap()];
        let direct = behind.infer("digits", &image, &both).await;
        // To the last bit, names, datatypes and shapes too.
        assert_eq!(ask(&server, "digits", &image).await, direct, "{rows} rows");
    }
    callers_get_their_own(&server, &behind, &all).await;
    every_datatype_passes(&server, &behind).await;
    metadata_that_lacks_it_is_made_up_for(&server, &behind, &all).await;

    let log = behind.log();
    let calls = log.lines().filter_map(|line| line.split_once("/inference.GRPCInferenceService/"));
    let calls: BTreeSet<&str> = calls.map(|(_, method)| method.trim()).collect();
    assert_eq!(calls, ["ModelInfer", "ModelMetadata"].into());
}

/// Many callers with a row each: we form the batches, and cut the answers.
async fn callers_get_their_own(server: &Server, behind: &MlServer, all: &Tensor) {
    let (from, rows) = (700, 300);
    let image = all.slice_rows(from, rows).unwrap();
    let direct = behind.infer("digits", &[image], &["predict", "predict_proba"]).await;
    let calls = (0..rows).map(|row| {
        let image = all.slice_rows(from + row, 1).unwrap();
        let mut client = server.prediction();
        tokio::spawn(async move { client.predict(request("digits", row, &[image])).await })
    });
    let (mut largest, calls) = (0, calls.collect::<Vec<_>>());
    for (row, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap().unwrap().into_inner();
        largest = largest.max(answer.contributions[0].batch_rows);
        let got = tensors(&answer);
        assert_eq!(got[0].data(), direct[0].slice_rows(row, 1).unwrap().data(), "row {row}");
        // Numerics may sum in another order in another batch.
        for (got, direct) in numbers(&got[1]).iter().zip(numbers(&direct[1])[row * 10..].iter()) {
            assert!((got - direct).abs() < 1e-5, "row {row}: {got}, not {direct}");
        }
    }
    assert!(largest > 1, "no batch was formed");
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

async fn every_datatype_passes(server: &Server, behind: &MlServer) {
    let names = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
        "FP32", "FP64", "BYTES",
    ];
    let again = names.map(|name| format!("{name}-again"));
    for rows in [1, 3] {
        let inputs = names.map(|name| {
            let datatype = DataType::parse(name, name).unwrap();
            let Some(size) = datatype.size() else {
                let words: Vec<String> = (0..rows).map(|row| "é".repeat(row)).collect();
                let words = Tensor::from_strings(name, &words);
                let shape = [i64::try_from(rows).unwrap(), 1];
                return Tensor::new(name, datatype, shape, words.data().clone()).unwrap();
            };
            let bytes = 0..rows * 3 * size;
            let data = match datatype {
                DataType::Bool => bytes.map(|at| (at % 2) as u8).collect::<Vec<_>>(),
                // All values up to the largest, none of them a NaN or an infinity.
                _ => bytes.map(|at| (at * 37 % 113) as u8).collect(),
            };
            Tensor::new(name, datatype, [i64::try_from(rows).unwrap(), 3], data).unwrap()
        });
        let direct = behind.infer("echo", &inputs, &again.each_ref().map(String::as_str)).await;
        let got = ask(server, "echo", &inputs).await;
        assert_eq!(got, direct);
        for (sent, got) in inputs.iter().zip(&got) {
            assert_eq!(sent.data(), got.data(), "{}", sent.name());
        }
    }
}

async fn metadata_that_lacks_it_is_made_up_for(server: &Server, behind: &MlServer, all: &Tensor) {
    let said = register(server, behind, "bare", &[]).await;
    assert!(said.contains("give them with the registration"), "{said}");
    let given = ["--input", "image:FP32:-1,64", "--output", "predict:INT64:-1,1"];
    assert_eq!(register(server, behind, "bare", &given).await, "");
    let image = [all.slice_rows(40, 9).unwrap()];
    let direct = behind.infer("digits", &image, &["predict"]).await;
    assert_eq!(ask(server, "bare", &image).await, direct);
}

/// Asks for both, never the same twice, and takes the time of each answer.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<Vec<JoinHandle<Answer>>>,
}

type Answer = (Duration, Result<v1::PredictResponse, tonic::Status>);

impl Load {
    fn start(server: &Server) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let client = server.prediction();
        let task = tokio::spawn(async move {
            let mut calls = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let (id, mut client, count) = (calls.len(), client.clone(), Arc::clone(&count));
                calls.push(tokio::spawn(async move {
                    let begun = Instant::now();
                    let x = fp32("x", 2, &[id as f32, 0.5]);
                    let answer = client.predict(request("both", id, &[x])).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    (begun.elapsed(), answer.map(tonic::Response::into_inner))
                }));
            }
            calls
        });
        Self { stop, answered, task }
    }

    /// Waits for so many answers more.
    async fn more(&self, answers: usize) {
        let begun = self.answered.load(Ordering::Relaxed);
        while self.answered.load(Ordering::Relaxed) < begun + answers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All answers, each of them in time and right.
    async fn stop(self) -> Vec<v1::PredictResponse> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for (id, call) in self.task.await.unwrap().into_iter().enumerate() {
            let (took, answer) = call.await.unwrap();
            let answer = answer.expect("another arm answers");
            assert!(took < OBJECTIVE + BUSY, "query {id} took {took:?}: {answer:?}");
            assert_ne!(answer.status(), v1::Status::Default, "{answer:?}");
            let label = if id == 0 { 1 } else { 0 };
            assert_eq!(common::labels(&answer), [label], "{answer:?}");
            answers.push(answer);
        }
        answers
    }
}

/// What became of MLServer in an answer.
fn outcome(answer: &v1::PredictResponse) -> Outcome {
    answer.contributions.iter().find(|c| c.arm == "roots").unwrap().outcome()
}

async fn until(server: &Server, what: &str, state: v1::ContainerState) -> v1::Container {
    let is = |c: &&v1::Container| c.model == "roots" && c.state() == state;
    server.until(what, |all| all.iter().any(|c| is(&c))).await;
    server.containers().await.into_iter().find(|c| c.model == "roots").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MLServer: cargo xtask test --all"]
async fn killed_stalled_and_restarted_under_load() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let (models, own) = (folder.path().join("models"), folder.path().join("own"));
    std::fs::create_dir(&models).unwrap();
    std::fs::create_dir(&own).unwrap();
    let mut behind = MlServer::start("moods", &models).await;
    let server = Server::start(MOODS, &own).await;
    assert_eq!(register(&server, &behind, "roots", &[]).await, "");
    let id = until(&server, "it is there", Ready).await.container_id;
    let load = Load::start(&server);
    load.more(200).await;

    behind.kill();
    let killed = Instant::now();
    until(&server, "it is lost", Broken).await;
    let seen = killed.elapsed();
    assert!(seen < Duration::from_secs(1), "its death was seen after {seen:?}");
    let x = [fp32("x", 2, &[1.0, 2.0])];
    let begun = Instant::now();
    let error = server.prediction().predict(request("alone", 0, &x)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error:?}");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    load.more(200).await;

    // Registered no more than the once.
    let mut behind = behind.again().await;
    let back = until(&server, "it is back", Ready).await;
    assert_eq!(back.container_id, id);
    load.more(100).await;
    assert_eq!(ask(&server, "alone", &x).await.len(), 2);

    behind.signal(Signal::STOP);
    until(&server, "it stalls", Stalled).await;
    let begun = Instant::now();
    let error = server.prediction().predict(request("alone", 0, &x)).await.unwrap_err();
    assert!(begun.elapsed() < OBJECTIVE + BUSY, "{error:?}");
    load.more(200).await;
    behind.signal(Signal::CONT);
    until(&server, "it goes on", Ready).await;
    load.more(100).await;

    let answers = load.stop().await;
    let used = |answers: &[v1::PredictResponse]| {
        answers.iter().filter(|answer| outcome(answer) == Outcome::Used).count()
    };
    // Before, between and after, it answered; and the other two times all went without it.
    assert!(used(&answers[..200]) > 100, "{}", used(&answers[..200]));
    assert!(used(&answers[answers.len() - 100..]) > 50, "{}", used(&answers));
    let masked = answers.iter().filter(|answer| outcome(answer) == Outcome::Masked).count();
    assert!(masked > 200, "{masked}");

    // The front end forgets nothing of it, be it there or not.
    behind.kill();
    server.kill().await;
    let server = Server::start(MOODS, &own).await;
    let gone = until(&server, "it is known", Broken).await;
    assert_eq!(gone.container_id, id);
    let _behind = behind.again().await;
    until(&server, "it is back", Ready).await;
    assert_eq!(ask(&server, "alone", &x).await.len(), 2);
    assert!(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MLServer: cargo xtask test --all"]
async fn slow_and_failing_moments_are_nobody_elses() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let (models, own) = (folder.path().join("models"), folder.path().join("own"));
    std::fs::create_dir(&models).unwrap();
    std::fs::create_dir(&own).unwrap();
    let behind = MlServer::start("moods", &models).await;
    let server = Server::start(MOODS, &own).await;
    assert_eq!(register(&server, &behind, "roots", &[]).await, "");

    // Of a batch only the query that it refuses fails, with its own words.
    behind.mood(0.01, 0.0, 1000.0);
    let calls = (0..20_usize).map(|i| {
        let large = if i % 10 == 3 { 5000.0 } else { 0.0 };
        let x = fp32("x", 2, &[i as f32 + large, 0.5]);
        let mut client = server.prediction();
        tokio::spawn(async move { client.predict(request("patient", i, &[x])).await })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(answer) => {
                assert_ne!(i % 10, 3, "{answer:?}");
                assert_eq!(common::labels(answer.get_ref()), [i64::from(i == 0)]);
            }
            Err(error) => {
                let said = error.message().contains("is more than 1000");
                assert!(i % 10 == 3 && said, "{i}: {error:?}");
            }
        }
    }
    until(&server, "it is as well as before", Ready).await;

    // 20 ms a row: what a second holds is learned.
    behind.mood(0.0, 0.02, 1e30);
    let load = Load::start(&server);
    load.more(800).await;
    let container = until(&server, "it is in use", Ready).await;
    let limit = container.batch_limit;
    assert!((1..=50).contains(&limit), "{container:?}");

    // Then longer than anybody may wait, though it goes on answering.
    behind.mood(3.0, 0.0, 1e30);
    let slow = |c: &v1::Container| c.model == "roots" && (!c.feasible || c.state() == Stalled);
    server.until("it is known to be too slow", |all| all.iter().any(slow)).await;
    load.more(200).await;
    behind.mood(0.0, 0.0, 1e30);
    server.until("it is itself again", |all| !all.iter().any(slow)).await;
    load.more(300).await;
    let answers = load.stop().await;
    let last = answers[answers.len() - 100..].iter();
    let used = last.filter(|answer| outcome(answer) == Outcome::Used).count();
    assert!(used > 50, "{used}");
}
