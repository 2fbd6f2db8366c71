//! Which models there are, what a bare name stands for, and where a call goes.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use skysail_proto::{ModelCall, ModelId, ModelReply, ModelVersion, PredictError};
use tokio::sync::watch as watch_channel;
use tower::Service;

use crate::{
    config::ModelConfig,
    container::Container,
    error::{Build, ContainerError},
    model::{MaskReason, Model, ModelFuture},
    observer::{BatchObserver, NoObserver},
    onnx::OnnxContainer,
    registry::Registered,
    replica::{self, ContainerInfo, ContainerState, Factory, Replica, Spec},
    watch,
};

use catalogue::{Catalogue, Named};

mod catalogue;

/// All models of this process. Cheap to clone; every clone is the same.
///
/// As a `tower::Service` it is always ready: a model whose queue is full answers
/// [`PredictError::Overloaded`] at once and keeps no other model waiting.
#[derive(Clone)]
pub struct Models {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    /// What the hot path reads; replaced as a whole.
    catalogue: ArcSwap<Catalogue>,
    /// Taken by whoever replaces it.
    change: Mutex<Change>,
    /// Counts the changes of versions and containers.
    changes: watch_channel::Sender<u64>,
    pub(crate) observer: Arc<dyn BatchObserver>,
}

#[derive(Default)]
struct Change {
    threads: Vec<JoinHandle<()>>,
    tasks: tokio::task::JoinSet<()>,
    /// Versions that are being started.
    reserved: HashSet<ModelId>,
    closed: bool,
    /// Overdue batches and leases are looked at.
    watched: bool,
}

/// One model, for those who list them.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The version that the bare name stands for.
    pub current: Arc<str>,
    /// In the order of registration.
    pub versions: Vec<VersionInfo>,
}

/// One version of a model, for those who list them.
#[derive(Clone, Debug)]
pub struct VersionInfo {
    /// What its registration fixed.
    pub model: Arc<ModelVersion>,
    /// Its containers.
    pub containers: Vec<ContainerInfo>,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Models")
            .field("models", &self.shared.catalogue.load().models.keys())
            .finish()
    }
}

impl Default for Models {
    fn default() -> Self {
        Self::new()
    }
}

impl Models {
    /// No model yet, and nobody who hears of batches.
    pub fn new() -> Self {
        Self::with_observer(Arc::new(NoObserver))
    }

    /// No model yet.
    pub fn with_observer(observer: Arc<dyn BatchObserver>) -> Self {
        let shared = Shared {
            catalogue: ArcSwap::default(),
            change: Mutex::default(),
            changes: watch_channel::Sender::new(0),
            observer,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads an ONNX file, starts its replicas, tries each with zeros, and registers the version.
    ///
    /// # Errors
    ///
    /// The file, the library, the device or a setting is not usable, or the version exists.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends what was started and registers nothing.
    pub async fn load(&self, config: ModelConfig) -> Result<Arc<ModelVersion>, ContainerError> {
        config.check()?;
        let path = config.path.clone();
        let read = tokio::task::spawn_blocking(move || read_build(&path).map(|(_, digest)| digest));
        let digest = read.await.map_err(|error| ContainerError::Failed(error.to_string()))??;
        let (path, device, threads) = (config.path.clone(), config.device, config.threads);
        let expected = digest.clone();
        let open = move || -> Result<Box<dyn Container>, ContainerError> {
            // Read once for each replica, and again where one is opened again, instead of kept.
            let (file, digest) = read_build(&path)?;
            if digest != expected {
                let why = format!("it has changed: sha256 {digest}, at first {expected}");
                return Err(ContainerError::File { path: path.clone(), why });
            }
            Ok(Box::new(OnnxContainer::open(&file, device, threads)?))
        };
        self.start(config, digest, open).await
    }

    /// Starts replicas of any [`Container`] and registers the version. `open` is called once per
    /// replica, on the thread that will own the container. `digest` names the build; it may be
    /// empty.
    ///
    /// # Errors
    ///
    /// A container could not be opened or failed its trial, or the version exists.
    pub async fn start(
        &self,
        config: ModelConfig,
        digest: impl Into<Arc<str>>,
        open: impl Fn() -> Result<Box<dyn Container>, ContainerError> + Send + Sync + 'static,
    ) -> Result<Arc<ModelVersion>, ContainerError> {
        config.check()?;
        let digest = digest.into();
        let _reserved = self.reserve(&config, &digest)?;
        let open: Factory = Arc::new(open);
        let starting = (0..config.replicas)
            .map(|index| replica::start(&config, index, Arc::clone(&open)))
            .collect::<Result<Vec<_>, _>>()?;
        drop(open);
        let mut opened = Vec::with_capacity(starting.len());
        let mut deliver = Vec::with_capacity(starting.len());
        for start in starting {
            let told = start.opened.await.map_err(|_| {
                ContainerError::Failed("a replica's thread ended while it started".into())
            })?;
            opened.push(told?);
            deliver.push((start.model, start.thread));
        }
        let signature = opened.first().map(|first| first.signature.clone()).unwrap_or_default();
        let version = Arc::new(ModelVersion {
            id: config.id.clone(),
            digest,
            signature,
            cacheable: true,
            max_batch_rows: config.max_batch_rows,
        });
        let observer = Arc::clone(&self.shared.observer);
        let model = Arc::new(Model::new(Arc::clone(&version), config, observer));
        let mut change = self.shared.change.lock();
        if change.closed {
            return Err(ContainerError::ShuttingDown);
        }
        for ((send, thread), opened) in deliver.into_iter().zip(opened) {
            let replica = model.add(|index| {
                Replica::new(Spec {
                    id: format!("{}/{index}", version.id).into(),
                    index,
                    address: IN_PROCESS.into(),
                    device: model.config.device.to_string().into(),
                    sizer: replica::sizer_for(&model.config, &version.signature),
                    profile: opened.profile,
                    round_trip: None,
                    state: ContainerState::Ready,
                    lease: None,
                    registration: None,
                })
            });
            // The thread waits for exactly this.
            let _ = send.send((Arc::clone(&model), replica));
            change.threads.push(thread);
        }
        self.publish(&mut change, |catalogue| catalogue.add(model));
        Ok(version)
    }

    /// Replaces the catalogue, under the lock that `change` is.
    fn publish(&self, change: &mut Change, edit: impl FnOnce(&mut Catalogue)) {
        let mut catalogue = Catalogue::clone(&self.shared.catalogue.load());
        edit(&mut catalogue);
        self.shared.catalogue.store(Arc::new(catalogue));
        self.shared.changes.send_modify(|count| *count += 1);
        if !change.watched {
            change.watched = true;
            tokio::spawn(watch::run(Arc::downgrade(&self.shared)));
        }
    }

    pub(crate) fn model(&self, id: &ModelId) -> Option<Arc<Model>> {
        self.shared.catalogue.load().models.get(id).cloned()
    }

    /// Adds a container to its version, or a version with its first container; `add` tells which,
    /// and what the container's task is.
    pub(crate) fn with_model<F>(
        &self,
        id: &ModelId,
        add: impl FnOnce(
            Option<Arc<Model>>,
        ) -> Result<(Registered, Option<Arc<Model>>, F), ContainerError>,
    ) -> Result<Registered, ContainerError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut change = self.shared.change.lock();
        if change.closed {
            return Err(ContainerError::ShuttingDown);
        }
        let (registered, new, task) = add(self.model(id))?;
        // Those that have ended.
        while change.tasks.try_join_next().is_some() {}
        change.tasks.spawn(task);
        self.publish(&mut change, |catalogue| {
            if let Some(model) = new {
                catalogue.add(model);
            }
        });
        Ok(registered)
    }

    /// Forgets a container whose task has ended, and its version with the last one.
    pub(crate) fn gone(&self, model: &Arc<Model>, replica: &Replica) {
        let mut change = self.shared.change.lock();
        let last = model.remove(replica);
        if last {
            model.close("its last container was removed");
            model.replica_lost();
        }
        self.publish(&mut change, |catalogue| {
            if last && catalogue.is(model) {
                catalogue.remove(&model.version.id);
            }
        });
    }

    /// Counts the changes of versions and containers; changes with each.
    pub fn changes(&self) -> watch_channel::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// The version that an application's entry stands for: `name:version` is fixed; a bare name is
    /// what [`Models::set_version`] set, else the first version registered.
    pub fn resolve(&self, arm: &str) -> Option<Arc<ModelVersion>> {
        self.shared.catalogue.load().arms.get(arm).cloned()
    }

    /// Makes `version` what the bare name of `model` stands for.
    ///
    /// # Errors
    ///
    /// The model or the version is not known; the error names those that are.
    pub fn set_version(&self, model: &str, version: &str) -> Result<(), ContainerError> {
        let mut change = self.shared.change.lock();
        let mut set = Ok(());
        self.publish(&mut change, |catalogue| set = catalogue.set_version(model, version));
        set
    }

    /// What [`Models::set_version`] has set earlier, of a version that may not be there yet.
    pub fn pin(&self, model: &str, version: &str) {
        let mut change = self.shared.change.lock();
        self.publish(&mut change, |catalogue| catalogue.pin(ModelId::new(model, version)));
    }

    /// The version that the bare name of `model` stands for.
    pub fn current(&self, model: &str) -> Option<Arc<ModelVersion>> {
        let catalogue = self.shared.catalogue.load();
        let named = catalogue.names.iter().find(|named| &*named.name == model)?;
        catalogue.models.get(&named.current).map(|model| Arc::clone(&model.version))
    }

    /// All models, in the order of registration.
    pub fn list(&self) -> Vec<ModelInfo> {
        let catalogue = self.shared.catalogue.load();
        let info = |named: &Named| ModelInfo {
            name: Arc::clone(&named.name),
            current: Arc::clone(&named.current.version),
            versions: named
                .versions
                .iter()
                .filter_map(|id| catalogue.models.get(id))
                .map(|model| VersionInfo {
                    model: Arc::clone(&model.version),
                    containers: model.containers(),
                })
                .collect(),
        };
        catalogue.names.iter().filter(|named| !named.versions.is_empty()).map(info).collect()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<ContainerInfo> {
        let models = self.list().into_iter();
        models.flat_map(|model| model.versions).flat_map(|version| version.containers).collect()
    }

    /// Hands down what the strictest application asks of a version: its smallest objective, and
    /// the slack that goes with it. An unknown version is ignored.
    pub fn set_objective(&self, id: &ModelId, objective: Duration, slack: Duration) {
        if let Some(model) = self.shared.catalogue.load().models.get(id) {
            model.set_objective(objective, slack);
        }
    }

    /// Why the model could not answer a query of `rows` by `deadline`, if it could not.
    pub fn mask(&self, model: &ModelVersion, rows: usize, deadline: Instant) -> Option<MaskReason> {
        match self.shared.catalogue.load().models.get(&model.id) {
            Some(model) => model.mask(rows, deadline, Instant::now()),
            None => Some(MaskReason::NoLiveReplica),
        }
    }

    /// Lets no call in any more, finishes what is in, and ends the threads.
    pub async fn shutdown(&self) {
        let (threads, mut tasks) = {
            let mut change = self.shared.change.lock();
            change.closed = true;
            self.shared.close();
            (std::mem::take(&mut change.threads), std::mem::take(&mut change.tasks))
        };
        // One that stalls must not keep the others; it is let go of.
        let ended = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TASKS_END, ended).await;
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // Its panics have been caught and told inside.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }

    fn reserve(&self, config: &ModelConfig, digest: &str) -> Result<Reserved, ContainerError> {
        let mut change = self.shared.change.lock();
        if change.closed {
            return Err(ContainerError::ShuttingDown);
        }
        let build = |config: &ModelConfig, digest: &str| {
            Box::new(Build { from: config.path.display().to_string(), digest: digest.into() })
        };
        let refused = |have| ContainerError::AlreadyExists {
            id: config.id.clone(),
            have,
            got: build(config, digest),
        };
        if let Some(model) = self.shared.catalogue.load().models.get(&config.id) {
            return Err(refused(build(&model.config, &model.version.digest)));
        }
        if !change.reserved.insert(config.id.clone()) {
            let from = "a build that is just being started".into();
            return Err(refused(Box::new(Build { from, digest: String::new() })));
        }
        Ok(Reserved { shared: Arc::clone(&self.shared), id: config.id.clone() })
    }
}

/// What [`ContainerInfo::address`] says of replicas of this process.
const IN_PROCESS: &str = "in-process";

/// How long tasks of remote replicas may take to end.
const TASKS_END: Duration = Duration::from_secs(5);

fn read_build(path: &std::path::Path) -> Result<(Vec<u8>, String), ContainerError> {
    let file = std::fs::read(path)
        .map_err(|error| ContainerError::File { path: path.into(), why: error.to_string() })?;
    let digest = hex(&Sha256::digest(&file));
    Ok((file, digest))
}

/// Keeps a name and version from being started twice at once.
struct Reserved {
    shared: Arc<Shared>,
    id: ModelId,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.change.lock().reserved.remove(&self.id);
    }
}

impl Shared {
    /// All versions.
    pub(crate) fn models(&self) -> Vec<Arc<Model>> {
        self.catalogue.load().models.values().cloned().collect()
    }

    fn close(&self) {
        for model in self.catalogue.load().models.values() {
            model.close("it is being shut down");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Replicas would wait for calls for ever.
        self.close();
    }
}

impl Service<ModelCall> for Models {
    type Response = ModelReply;
    type Error = PredictError;
    type Future = ModelFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PredictError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: ModelCall) -> ModelFuture {
        match self.shared.catalogue.load().models.get(&call.model.id) {
            Some(model) => model.call(call, Instant::now()),
            None => ModelFuture::ready(PredictError::NotFound {
                kind: "model",
                name: call.model.id.to_string().into(),
                hint: "it is not registered with this front end".into(),
            }),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
