//! Containers in other processes: how they come, how they are kept, how they go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{
    Inputs, ModelId, ModelVersion, Signature, TensorSpec, open_inference,
    pb::inference::ModelMetadataResponse,
};

use crate::{
    batch::LatencyProfile,
    config::{BatchStrategy, ModelConfig},
    error::{Build, ContainerError},
    model::Model,
    onnx::zeros,
    remote::{Address, Connection, Target},
    replica::{self, ContainerState, Replica, Spec, remote},
    router::Models,
};

/// A container that is not heard of for so long is removed. A beat is due every third of it.
pub const LEASE: Duration = Duration::from_secs(10);

/// How long what is replaced may finish what it has.
const REPLACED: Duration = Duration::from_secs(10);
/// How long a test inference may take: the first one of a server may load the model.
const TEST: Duration = Duration::from_secs(30);
/// The most bytes of input in a batch of several calls, so that the message stays below the
/// 64 MiB that containers take.
const MAX_BATCH_BYTES: usize = 60 << 20;

/// What a container, or somebody for it, tells of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Name and version of the model.
    pub id: ModelId,
    /// Where it listens.
    pub address: Address,
    /// What its server calls the model; empty: the model's name.
    pub remote_model: String,
    /// What its server calls the version; empty: the version, or whatever the server chooses where
    /// it refuses that one.
    pub remote_version: String,
    /// The most rows of one call; 0: no limit.
    pub max_batch_rows: usize,
    /// Where it computes; for those who list it.
    pub device: String,
    /// It has no lease: it is there until it is deregistered.
    pub persistent: bool,
    /// Both empty: its metadata says.
    pub signature: Signature,
    /// Input of the test inference; `None`: zeros, a free dimension as 1, strings empty.
    pub probe: Option<Arc<Inputs>>,
    /// sha256 of the build; may be empty.
    pub digest: String,
    /// Equal inputs give equal answers.
    pub cacheable: bool,
    /// The latency that a query may take as long as no application says; `None`: the default.
    pub objective: Option<Duration>,
    /// How the largest batch is found.
    pub batch: BatchStrategy,
    /// How long it is made to wait for a fuller batch.
    pub batch_wait: Duration,
}

/// A registration that was taken.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The container's name from now on.
    pub id: Arc<str>,
    /// After so long without a beat it is removed; `None`: never.
    pub lease: Option<Duration>,
    /// What it serves.
    pub model: Arc<ModelVersion>,
}

/// A registration to be kept over a restart.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The container's name.
    pub id: Arc<str>,
    /// As it was given, with the signature that was found.
    pub registration: Registration,
}

impl Models {
    /// Connects to a container, tries it, and gives it batches from then on. The first registration
    /// of a version fixes its signature and digest. The same (model, version, address) replaces:
    /// the new one takes over before the old one goes; another address is another replica.
    ///
    /// # Errors
    ///
    /// Something of it is not usable, it cannot be reached, it fails the test inference, or it
    /// differs from what the version is; the error shows both.
    pub async fn register(
        &self,
        mut registration: Registration,
    ) -> Result<Registered, ContainerError> {
        let config = config_of(&registration);
        config.check()?;
        let open = Connection::open(&registration.address).await?;
        let round_trip = complete(&mut registration, &open).await?;
        if let Some(model) = self.model(&registration.id) {
            refuse_other(&model, &registration)?;
        }
        let target = target_of(&registration)?;
        let profile = test(&target, &registration, &open).await?;
        let id = format!("{}/{:08x}", registration.id, rand::random::<u32>());
        let made = Made {
            id: id.into(),
            profile,
            round_trip,
            connection: Some(open),
            state: ContainerState::Ready,
        };
        self.admit(registration, config, target, made)
    }

    /// Takes back a registration of an earlier run. It is tried in the background; its lease begins
    /// now.
    ///
    /// # Errors
    ///
    /// It differs from what the version is by now, or is not usable.
    pub fn restore(&self, stored: Stored) -> Result<Registered, ContainerError> {
        let registration = stored.registration;
        let config = config_of(&registration);
        config.check()?;
        let target = target_of(&registration)?;
        let made = Made {
            id: stored.id,
            profile: LatencyProfile::default(),
            round_trip: Duration::ZERO,
            connection: None,
            state: ContainerState::Starting,
        };
        self.admit(registration, config, target, made)
    }

    /// A container has been heard of; answers its lease, or `None` where it is not known and
    /// should register again.
    pub fn beat(&self, container: &str) -> Option<Duration> {
        let (_, replica) = self.container(container)?;
        replica.registration.as_ref()?;
        if replica.drain_until().is_some() {
            return None;
        }
        replica.renew(Instant::now() + LEASE);
        Some(LEASE)
    }

    /// Gives a container no more, and removes it when it has finished what it has, or after
    /// `drain`. Returns when it is gone.
    ///
    /// # Errors
    ///
    /// It is not known, or runs in this process.
    pub async fn deregister(&self, container: &str, drain: Duration) -> Result<(), ContainerError> {
        let Some((model, replica)) = self.container(container) else {
            let known: Vec<_> = self.containers().into_iter().map(|c| c.id.to_string()).collect();
            return Err(ContainerError::Unknown {
                kind: "container",
                name: container.into(),
                known: known.join(", "),
            });
        };
        if replica.registration.is_none() {
            return Err(ContainerError::Invalid(format!(
                "container '{container}' runs in this process: take the model out of the \
                 configuration file"
            )));
        }
        let mut changes = self.changes();
        replica.drain(Instant::now() + drain, "deregistered");
        while model.replicas().iter().any(|other| other.serial == replica.serial) {
            if changes.changed().await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// What is to be kept over a restart: all containers in other processes.
    pub fn registrations(&self) -> Vec<Stored> {
        let models = self.shared.models();
        let replicas = models.iter().flat_map(|model| model.replicas().to_vec());
        let kept = replicas.filter(|replica| replica.drain_until().is_none());
        let stored = kept.filter_map(|replica| {
            let registration = Registration::clone(replica.registration.as_deref()?);
            Some(Stored { id: Arc::clone(&replica.id), registration })
        });
        stored.collect()
    }

    fn container(&self, id: &str) -> Option<(Arc<Model>, Arc<Replica>)> {
        self.shared.models().into_iter().find_map(|model| {
            let replicas = model.replicas();
            let replica = replicas.iter().find(|replica| &*replica.id == id)?;
            Some((Arc::clone(&model), Arc::clone(replica)))
        })
    }

    /// Adds a container that was tried, or will be.
    fn admit(
        &self,
        registration: Registration,
        config: ModelConfig,
        target: Target,
        made: Made,
    ) -> Result<Registered, ContainerError> {
        let lease = (!registration.persistent).then_some(LEASE);
        let registration = Arc::new(registration);
        self.with_model(&registration.id, |model| {
            let (model, new) = match model {
                Some(model) => {
                    refuse_other(&model, &registration)?;
                    (model, None)
                }
                None => {
                    let model = self.new_model(&registration, config);
                    (Arc::clone(&model), Some(model))
                }
            };
            let before = model.replicas();
            let replica = model.add(|index| {
                Replica::new(Spec {
                    id: Arc::clone(&made.id),
                    index,
                    address: registration.address.to_string().into(),
                    device: registration.device.as_str().into(),
                    sizer: replica::sizer_for(&model.config, &model.version.signature),
                    profile: made.profile,
                    round_trip: Some(made.round_trip),
                    state: made.state,
                    lease: lease.map(|lease| Instant::now() + lease),
                    registration: Some(Arc::clone(&registration)),
                })
            });
            let same = |other: &&Arc<Replica>| {
                let of = other.registration.as_ref();
                of.is_some_and(|of| of.address == registration.address)
            };
            for old in before.iter().filter(same) {
                old.drain(Instant::now() + REPLACED, "registered again");
            }
            let registered = Registered { id: made.id, lease, model: Arc::clone(&model.version) };
            let shared = Arc::downgrade(&self.shared);
            let task = async move {
                remote::run(&model, &replica, &target, made.connection).await;
                if let Some(shared) = shared.upgrade() {
                    Models { shared }.gone(&model, &replica);
                }
            };
            Ok((registered, new, task))
        })
    }

    fn new_model(&self, registration: &Registration, config: ModelConfig) -> Arc<Model> {
        let version = ModelVersion {
            id: registration.id.clone(),
            digest: registration.digest.as_str().into(),
            signature: registration.signature.clone(),
            cacheable: registration.cacheable,
            max_batch_rows: registration.max_batch_rows,
        };
        Arc::new(Model::new(Arc::new(version), config, Arc::clone(&self.shared.observer)))
    }
}

/// What a new replica starts with.
struct Made {
    id: Arc<str>,
    profile: LatencyProfile,
    round_trip: Duration,
    connection: Option<Connection>,
    state: ContainerState,
}

fn config_of(registration: &Registration) -> ModelConfig {
    let mut config = ModelConfig::new(registration.id.clone(), "");
    config.objective = registration.objective;
    config.batch = registration.batch;
    config.batch_wait = registration.batch_wait;
    config.max_batch_rows = registration.max_batch_rows;
    config.max_batch_bytes = MAX_BATCH_BYTES;
    config
}

fn target_of(registration: &Registration) -> Result<Target, ContainerError> {
    let probe = match &registration.probe {
        Some(probe) => Arc::clone(probe),
        None => Arc::new(zeros(&registration.signature.inputs, 1)?),
    };
    for spec in &registration.signature.inputs {
        let tensor = probe.get(&spec.name).ok_or_else(|| {
            ContainerError::Invalid(format!("the probe lacks the input '{}'", spec.name))
        })?;
        spec.check(tensor)?;
    }
    Ok(Target {
        address: registration.address.clone(),
        model: registration.remote_model.clone(),
        version: registration.remote_version.clone(),
        signature: registration.signature.clone(),
        probe,
        largest: (MAX_BATCH_BYTES + (4 << 20)).max(64 << 20),
    })
}

/// Fills in what was left out: what the server calls the model, and the signature. Answers one
/// round trip, as well as it can be told without another kind of call.
async fn complete(
    registration: &mut Registration,
    open: &Connection,
) -> Result<Duration, ContainerError> {
    if registration.remote_model.is_empty() {
        registration.remote_model = registration.id.name.as_ref().into();
    }
    let version_is_ours = registration.remote_version.is_empty();
    if version_is_ours {
        registration.remote_version = registration.id.version.as_ref().into();
    }
    if !registration.signature.inputs.is_empty() && !registration.signature.outputs.is_empty() {
        if version_is_ours {
            choose_version(registration, open).await?;
        }
        // A connection is made in one round trip.
        return Ok(open.round_trip);
    }
    let asked = |version: String| {
        let name = registration.remote_model.clone();
        async move { open.metadata(&name, &version).await }
    };
    let mut answer = asked(registration.remote_version.clone()).await;
    let refused = |s: &tonic::Status| s.code() != tonic::Code::DeadlineExceeded;
    if version_is_ours && answer.as_ref().is_err_and(refused) {
        // Many servers know a model without versions, or with numbers only, and say so by various
        // codes.
        let again = asked(String::new()).await;
        if again.is_ok() {
            registration.remote_version.clear();
            answer = again;
        }
    }
    let metadata = answer.map_err(|status| {
        ContainerError::Failed(format!(
            "{} does not tell the signature of the model '{}', version '{}' ({:?}: {}); give \
             inputs and outputs with the registration",
            registration.address,
            registration.remote_model,
            registration.remote_version,
            status.code(),
            status.message()
        ))
    })?;
    registration.signature = signature_of(metadata, registration)?;
    let mut round_trip = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        let _ = open.metadata(&registration.remote_model, &registration.remote_version).await;
        round_trip = round_trip.min(begun.elapsed());
    }
    Ok(round_trip)
}

/// Drops a version that is only ours where the server answers without it alone. Without metadata
/// an inference must tell.
async fn choose_version(
    registration: &mut Registration,
    open: &Connection,
) -> Result<(), ContainerError> {
    let mut target = target_of(registration)?;
    let ask = |target: &Target| {
        let end = Instant::now() + TEST;
        tokio::time::timeout_at(end.into(), target.probe(open, Arc::clone(&target.probe), end))
    };
    if !matches!(ask(&target).await, Ok(Err(ContainerError::Failed(_)))) {
        return Ok(());
    }
    target.version.clear();
    if matches!(ask(&target).await, Ok(Ok(()))) {
        registration.remote_version.clear();
    }
    Ok(())
}

fn signature_of(
    metadata: ModelMetadataResponse,
    registration: &Registration,
) -> Result<Signature, ContainerError> {
    let specs = |tensors: Vec<_>| -> Result<Vec<TensorSpec>, ContainerError> {
        Ok(tensors.into_iter().map(open_inference::spec).collect::<Result<_, _>>()?)
    };
    let signature =
        Signature { inputs: specs(metadata.inputs)?, outputs: specs(metadata.outputs)? };
    if signature.inputs.is_empty() || signature.outputs.is_empty() {
        return Err(ContainerError::Invalid(format!(
            "the metadata of '{}' at {} has no inputs or no outputs; give them with the \
             registration",
            registration.remote_model, registration.address
        )));
    }
    Ok(signature)
}

/// The first registration fixes what a version is.
fn refuse_other(model: &Model, registration: &Registration) -> Result<(), ContainerError> {
    let (have, got) = (&model.version, registration);
    let sorted = |specs: &[TensorSpec]| {
        let mut specs = specs.to_vec();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs
    };
    let same = sorted(&have.signature.inputs) == sorted(&got.signature.inputs)
        && sorted(&have.signature.outputs) == sorted(&got.signature.outputs)
        && *have.digest == *got.digest;
    if same {
        return Ok(());
    }
    let from = |address: &str, signature: &Signature| format!("{address} with {signature}");
    let at = model.replicas().first().map(|replica| replica.address.to_string());
    Err(ContainerError::AlreadyExists {
        id: registration.id.clone(),
        have: Box::new(Build {
            from: from(&at.unwrap_or_else(|| "a container that has gone".into()), &have.signature),
            digest: have.digest.to_string(),
        }),
        got: Box::new(Build {
            from: from(&got.address.to_string(), &got.signature),
            digest: got.digest.clone(),
        }),
    })
}

/// Has the known input computed, and learns what a row takes. The first answer of a server may
/// include what it does once; two rows show whether outputs follow rows.
async fn test(
    target: &Target,
    registration: &Registration,
    open: &Connection,
) -> Result<LatencyProfile, ContainerError> {
    let mut profile = LatencyProfile::default();
    let probe = Arc::clone(&target.probe);
    let mut inputs = vec![Arc::clone(&probe)];
    let may_be_two = registration.max_batch_rows != 1 && replica::free_rows(&target.signature);
    if registration.probe.is_none() && may_be_two {
        inputs.push(Arc::new(zeros(&target.signature.inputs, 2)?));
    }
    inputs.push(probe);
    let last = inputs.len() - 1;
    for (at, inputs) in inputs.into_iter().enumerate() {
        let (rows, begun) = (inputs.rows(), Instant::now());
        let tried = target.probe(open, inputs, begun + TEST);
        let tried = tokio::time::timeout(TEST, tried).await;
        let failed = |why: String| {
            let hint = if registration.probe.is_some() {
                "the probe of the registration"
            } else {
                "zeros; give a probe with the registration if the model refuses those"
            };
            let id = &registration.id;
            ContainerError::Failed(format!(
                "the test inference of {id} at {} failed: {why} (input: {rows} rows of {hint})",
                registration.address
            ))
        };
        match tried {
            Ok(Ok(())) if at == last => {
                let now = Instant::now();
                profile.observe(rows, now - begun, now);
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {TEST:?}"))),
        }
    }
    Ok(profile)
}
