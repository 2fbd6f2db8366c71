//! A real server in a process of its own, and clients of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{path::Path, process::Stdio, time::Duration};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use skysail_proto::pb::v1::{
    self, admin_client::AdminClient, feedback_client::FeedbackClient, observe_request,
    prediction_client::PredictionClient, registry_client::RegistryClient,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};
use tonic::transport::{Channel, Endpoint};

/// Two arms over one small model: its two versions are the same build under two names.
pub(crate) const ROOT: &str = r#"
[[model]]
name = "a"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[model]]
name = "b"
version = "1"
path = "ROOT/tests/models/root.onnx"

[[application]]
name = "app"
objective = "2s"
task = "classification"
label_output = "label"
scores_output = "scores"
links = [{ model = "a" }, { model = "b" }]

[[application]]
name = "one"
objective = "2s"
task = "classification"
label_output = "label"
scores_output = "scores"
policy = { name = "exp3" }
links = [{ model = "a" }]
"#;

/// A process that a test signals and ends; it is killed when this is dropped.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
        kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Kills it at once, as `kill -9` does.
    async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }

    /// Waits for its end and says whether that was a good one.
    async fn ended(mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.0.wait()).await;
        ended.expect("it did not end").unwrap().success()
    }
}

pub(crate) struct Server {
    process: Process,
    pub(crate) grpc: String,
    pub(crate) http: String,
    pub(crate) channel: Channel,
}

impl Server {
    /// Starts it on free ports; `folder` holds its state and outlives it.
    pub(crate) async fn start(config: &str, folder: &Path) -> Self {
        Self::start_with(config, folder, &[]).await
    }

    /// With these variables in its environment.
    pub(crate) async fn start_with(
        config: &str,
        folder: &Path,
        variables: &[(&str, &Path)],
    ) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        Self::listening(&listen, config, folder, variables, Stdio::inherit()).await
    }

    /// Starts it with its log in a file.
    pub(crate) async fn logging(config: &str, folder: &Path, log: &Path) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let log = std::fs::File::create(log).unwrap();
        Self::listening(&listen, config, folder, &[], log.into()).await
    }

    /// Starts it where the configuration says.
    pub(crate) async fn start_as_configured(config: &str, folder: &Path) -> Self {
        Self::listening(&["--http", "127.0.0.1:0"], config, folder, &[], Stdio::inherit()).await
    }

    /// Starts it with HTTP at that address.
    pub(crate) async fn start_with_http(http: &str, config: &str, folder: &Path) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--http", http];
        Self::listening(&listen, config, folder, &[], Stdio::inherit()).await
    }

    async fn listening(
        listen: &[&str],
        config: &str,
        folder: &Path,
        variables: &[(&str, &Path)],
        log: Stdio,
    ) -> Self {
        let path = folder.join("skysail.toml");
        std::fs::write(&path, config.replace("ROOT", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_skysail"))
            .arg("serve")
            .args(listen)
            .arg("--config")
            .arg(&path)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env("SKYSAIL_LOG", "warn")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next_line().await.unwrap();
        let ready = ready.expect(
            "the server did not start, see above; where ONNX Runtime is missing, run `cargo xtask setup`",
        );
        let address = |name: &str| {
            ready.split(' ').find_map(|word| word.strip_prefix(name)).expect(&ready).to_owned()
        };
        let (grpc, http) = (address("grpc="), address("http="));
        let endpoint = Endpoint::from_shared(format!("http://{grpc}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { process: Process(child), grpc, http, channel }
    }

    pub(crate) fn prediction(&self) -> PredictionClient<Channel> {
        PredictionClient::new(self.channel.clone())
    }

    pub(crate) fn feedback(&self) -> FeedbackClient<Channel> {
        FeedbackClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone())
    }

    /// State and reason of each container, by its address.
    pub(crate) async fn containers(&self) -> Vec<v1::Container> {
        let listed = self.registry().list_containers(v1::ListContainersRequest {}).await;
        listed.unwrap().into_inner().containers
    }

    /// Waits until the containers are as they should be.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&[v1::Container]) -> bool) {
        let end = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let now = self.containers().await;
            if reached(&now) {
                return;
            }
            assert!(std::time::Instant::now() < end, "waited in vain: {what}: {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it at once, as `kill -9` does.
    pub(crate) async fn kill(self) {
        self.process.kill().await;
    }

    /// Ends it in order and says whether it ended well.
    pub(crate) async fn stop(self) -> bool {
        self.signal(Signal::TERM);
        drop(self.channel);
        self.process.ended().await
    }

    /// What `/metrics` says, summed over the lines that begin with `start`.
    pub(crate) async fn metric(&self, start: &str) -> f64 {
        let text = self.get("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.get_with(path, &[]).await
    }

    /// With these headers.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> String {
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.unwrap();
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

/// A `skysail container` in a process of its own.
pub(crate) struct Container {
    process: Process,
    pub(crate) address: String,
}

impl Container {
    /// Starts one of the root model; it is registered when this returns.
    pub(crate) async fn start(name: &str, version: &str, front_ends: &[&str]) -> Self {
        Self::with(name, version, front_ends, &[]).await
    }

    pub(crate) async fn with(
        name: &str,
        version: &str,
        front_ends: &[&str],
        more: &[&str],
    ) -> Self {
        let mut command = Self::command(name, version, front_ends, more);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next_line().await.unwrap().expect("the container did not start");
        let address = ready.strip_prefix("ready grpc=").expect(&ready).to_owned();
        Self { process: Process(child), address }
    }

    pub(crate) fn command(
        name: &str,
        version: &str,
        front_ends: &[&str],
        more: &[&str],
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skysail"));
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/root.onnx");
        command.args(["container", "--model", model, "--name", name, "--version", version]);
        for front_end in front_ends {
            command.args(["--register", front_end]);
        }
        command.args(more).env("SKYSAIL_LOG", "error");
        command
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(crate) async fn kill(self) {
        self.process.kill().await;
    }

    /// Ends it in order and says whether it ended well.
    pub(crate) async fn stop(self) -> bool {
        self.signal(Signal::TERM);
        self.process.ended().await
    }
}

pub(crate) fn fp32(values: &[f32]) -> Bytes {
    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
}

/// A query of `rows` to `app`, under the request id `id`.
pub(crate) fn query(application: &str, id: &str, rows: &[[f32; 2]]) -> v1::PredictRequest {
    v1::PredictRequest {
        application: application.into(),
        request_id: id.into(),
        inputs: vec![v1::Tensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![rows.len() as i64, 2],
            data: fp32(rows.as_flattened()),
        }],
        ..Default::default()
    }
}

/// The truth about the rows of a decision.
pub(crate) fn label(application: &str, decision_id: &str, labels: &[i64]) -> v1::ObserveRequest {
    let data: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    v1::ObserveRequest {
        application: application.into(),
        request_id: decision_id.into(),
        target: Some(observe_request::Target::DecisionId(decision_id.into())),
        value: Some(observe_request::Value::Label(v1::Tensor {
            name: "label".into(),
            datatype: "INT64".into(),
            shape: vec![labels.len() as i64],
            data: data.into(),
        })),
        ..Default::default()
    }
}

pub(crate) fn labels(response: &v1::PredictResponse) -> Vec<i64> {
    let output = response.outputs.iter().find(|output| output.name == "label").unwrap();
    output.data.chunks_exact(8).map(|chunk| i64::from_le_bytes(chunk.try_into().unwrap())).collect()
}
