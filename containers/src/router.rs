//! Which models there are, what a bare name stands for, and where a call goes.

use std::{
    collections::HashSet,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use skysail_proto::{ModelCall, ModelId, ModelReply, ModelVersion, PredictError};
use tower::Service;

use crate::{
    config::ModelConfig,
    container::Container,
    error::{Build, ContainerError},
    model::{MaskReason, Model, ModelFuture},
    observer::{BatchObserver, NoObserver},
    onnx::OnnxContainer,
    replica::{self, ContainerInfo, Factory, Replica},
};

use catalogue::{Catalogue, Named};

mod catalogue;

/// All models of this process. Cheap to clone; every clone is the same.
///
/// As a `tower::Service` it is always ready: a model whose queue is full answers
/// [`PredictError::Overloaded`] at once and keeps no other model waiting.
#[derive(Clone)]
pub struct Models {
    shared: Arc<Shared>,
}

struct Shared {
    /// What the hot path reads; replaced as a whole.
    catalogue: ArcSwap<Catalogue>,
    /// Taken by whoever replaces it.
    change: Mutex<Change>,
    observer: Arc<dyn BatchObserver>,
}

#[derive(Default)]
struct Change {
    threads: Vec<JoinHandle<()>>,
    /// Versions that are being started.
    reserved: HashSet<ModelId>,
    closed: bool,
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
        let shared = Shared { catalogue: ArcSwap::default(), change: Mutex::default(), observer };
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
        let read = tokio::task::spawn_blocking(move || {
            let file = std::fs::read(&path)
                .map_err(|error| ContainerError::File { path, why: error.to_string() })?;
            let digest = hex(&Sha256::digest(&file));
            Ok::<_, ContainerError>((file, digest))
        });
        let (file, digest) =
            read.await.map_err(|error| ContainerError::Failed(error.to_string()))??;
        let (device, threads) = (config.device, config.threads);
        let open = move || -> Result<Box<dyn Container>, ContainerError> {
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
        let replicas = opened.into_iter().enumerate().map(|(index, opened)| {
            let sizer = replica::sizer_for(&config, &signature);
            Replica::new(index, config.device, sizer, opened.profile)
        });
        let replicas = replicas.collect();
        let version = Arc::new(ModelVersion {
            id: config.id.clone(),
            digest,
            signature,
            cacheable: true,
            max_batch_rows: config.max_batch_rows,
        });
        let observer = Arc::clone(&self.shared.observer);
        let model = Arc::new(Model::new(Arc::clone(&version), config, replicas, observer));
        let mut change = self.shared.change.lock();
        if change.closed {
            return Err(ContainerError::ShuttingDown);
        }
        for (send, thread) in deliver {
            // The thread waits for exactly this.
            let _ = send.send(Arc::clone(&model));
            change.threads.push(thread);
        }
        let mut catalogue = Catalogue::clone(&self.shared.catalogue.load());
        catalogue.add(model);
        self.shared.catalogue.store(Arc::new(catalogue));
        Ok(version)
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
        let _change = self.shared.change.lock();
        let mut catalogue = Catalogue::clone(&self.shared.catalogue.load());
        catalogue.set_version(model, version)?;
        self.shared.catalogue.store(Arc::new(catalogue));
        Ok(())
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
        catalogue.names.iter().map(info).collect()
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
        let threads = {
            let mut change = self.shared.change.lock();
            change.closed = true;
            self.shared.close();
            std::mem::take(&mut change.threads)
        };
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
