//! A real MLServer on free ports, with models that the test makes.

use std::{
    fs::File,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use skysail_proto::{
    Tensor, open_inference,
    pb::inference::{
        ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::InferInputTensor,
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long it may take to start: it imports scikit-learn, twice.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its processes, and where they listen.
pub(crate) struct MlServer {
    leader: Child,
    folder: PathBuf,
    /// gRPC, HTTP and metrics.
    ports: [u16; 3],
}

impl MlServer {
    /// Makes the models of this set in the folder, and serves them.
    pub(crate) async fn start(set: &str, folder: &Path) -> Self {
        let made = python().arg(source()).arg(set).arg(folder).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // Held until all three are chosen, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.map(|port| port.local_addr().unwrap().port());
        Self { leader: launch(folder, ports), folder: folder.into(), ports }.ready().await
    }

    /// Starts it again where it was.
    pub(crate) async fn again(mut self) -> Self {
        self.leader = launch(&self.folder, self.ports);
        self.ready().await
    }

    /// Waits for all its models. Over HTTP, so that its log of gRPC calls shows what others called.
    async fn ready(self) -> Self {
        let end = Instant::now() + PATIENCE;
        let entries = std::fs::read_dir(&self.folder).unwrap().map(Result::unwrap);
        for model in entries.filter(|entry| entry.path().join("model-settings.json").exists()) {
            while !self.is_ready(model.file_name().to_str().unwrap()).await {
                assert!(Instant::now() < end, "MLServer did not start: {}", self.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self
    }

    async fn is_ready(&self, model: &str) -> bool {
        let connect = tokio::net::TcpStream::connect(("127.0.0.1", self.ports[1]));
        let Ok(mut stream) = connect.await else { return false };
        let path = format!("/v2/models/{model}/ready");
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut said = String::new();
        stream.write_all(ask.as_bytes()).await.is_ok()
            && stream.read_to_string(&mut said).await.is_ok()
            && said.starts_with("HTTP/1.1 200")
    }

    /// Where it listens for gRPC.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// To all its processes: those that compute are not the one that listens.
    pub(crate) fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.leader.id().try_into().unwrap()).unwrap();
        kill_process_group(group, signal).unwrap();
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.leader.wait().unwrap();
    }

    /// What it wrote from its first start on.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("mlserver.log")).unwrap()
    }

    /// Has the model answer so slowly, in seconds for a batch and for a row, and fail above `most`.
    pub(crate) fn mood(&self, once: f64, each: f64, most: f64) {
        let (place, new) = (self.folder.join("roots/mood.json"), self.folder.join("mood.new"));
        std::fs::write(&new, format!(r#"{{"once": {once}, "each": {each}, "most": {most}}}"#))
            .unwrap();
        std::fs::rename(new, place).unwrap();
    }

    /// What it answers when nobody is between.
    pub(crate) async fn infer(
        &self,
        model: &str,
        inputs: &[Tensor],
        outputs: &[&str],
    ) -> Vec<Tensor> {
        let requested = outputs.iter().map(|name| {
            skysail_proto::pb::inference::model_infer_request::InferRequestedOutputTensor {
                name: (*name).into(),
                ..Default::default()
            }
        });
        let request = ModelInferRequest {
            model_name: model.into(),
            inputs: inputs.iter().map(head).collect(),
            outputs: requested.collect(),
            raw_input_contents: inputs.iter().map(|tensor| tensor.data().clone()).collect(),
            ..Default::default()
        };
        let address = format!("http://{}", self.address());
        let mut client = GrpcInferenceServiceClient::connect(address).await.unwrap();
        let answer = client.model_infer(request).await.unwrap().into_inner();
        open_inference::outputs(answer).unwrap()
    }
}

impl Drop for MlServer {
    fn drop(&mut self) {
        if self.leader.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill();
        }
    }
}

fn head(tensor: &Tensor) -> InferInputTensor {
    InferInputTensor {
        name: tensor.name().into(),
        datatype: tensor.datatype().name().into(),
        shape: tensor.shape().to_vec(),
        ..Default::default()
    }
}

fn launch(folder: &Path, [grpc, http, metrics]: [u16; 3]) -> Child {
    let log = File::options().append(true).create(true).open(folder.join("mlserver.log")).unwrap();
    python()
        .arg(packages().join("bin/mlserver"))
        .arg("start")
        .arg(folder)
        .current_dir(folder)
        .env("MLSERVER_HOST", "127.0.0.1")
        .env("MLSERVER_GRPC_PORT", grpc.to_string())
        .env("MLSERVER_HTTP_PORT", http.to_string())
        .env("MLSERVER_METRICS_PORT", metrics.to_string())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

fn python() -> Command {
    let (packages, source) = (packages(), source());
    assert!(packages.exists(), "no {}: run `cargo xtask setup --all`", packages.display());
    let mut command = Command::new("python3");
    let path = std::env::join_paths([packages.as_path(), source.parent().unwrap()]).unwrap();
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn source() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/mlserver_models.py"))
}

fn packages() -> PathBuf {
    // Cargo's target folder, wherever it is.
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("setup/mlserver")
}
