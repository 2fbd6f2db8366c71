//! Registrations between the wire, the models and the state file.

use std::{collections::HashSet, sync::Arc, time::Duration};

use skysail_containers::{BatchStrategy, Models, Registration, Stored};
use skysail_proto::{Inputs, ModelId, PredictError, Signature, Tensor, TensorSpec, pb::v1};

use crate::{
    applications::Applications,
    state::{StateError, StateFile},
};

/// Reads a registration off the wire.
///
/// # Errors
///
/// INVALID_ARGUMENT for the first field that is wrong.
pub fn from_wire(request: v1::RegisterRequest) -> Result<Registration, PredictError> {
    let invalid = |why: String| PredictError::invalid(format!("registration: {why}"));
    let probe = match request.probe {
        probe if probe.is_empty() => None,
        probe => {
            let tensors = probe.into_iter().map(Tensor::try_from).collect::<Result<_, _>>()?;
            Some(Arc::new(Inputs::new(tensors)?))
        }
    };
    let specs = |specs: Vec<v1::TensorSpec>| -> Result<Vec<TensorSpec>, PredictError> {
        Ok(specs.into_iter().map(TensorSpec::try_from).collect::<Result<_, _>>()?)
    };
    let signature = Signature { inputs: specs(request.inputs)?, outputs: specs(request.outputs)? };
    if signature.inputs.is_empty() != signature.outputs.is_empty() {
        return Err(invalid("expected both inputs and outputs, or neither; got one".into()));
    }
    let time =
        |field: &str, value: Option<prost_types::Duration>| match value.map(Duration::try_from) {
            None => Ok(None),
            Some(Ok(duration)) => Ok(Some(duration)),
            Some(Err(_)) => Err(invalid(format!("{field}: expected a duration of zero or more"))),
        };
    let batch = match request.batch.as_str() {
        "" => BatchStrategy::default(),
        text => text.parse().map_err(|error| invalid(format!("{error}")))?,
    };
    let objective = time("objective", request.objective)?.filter(|objective| !objective.is_zero());
    Ok(Registration {
        id: ModelId::new(request.model, request.version),
        address: request.address.parse().map_err(|error| invalid(format!("{error}")))?,
        remote_model: request.remote_model,
        remote_version: request.remote_version,
        max_batch_rows: usize::try_from(request.max_batch_rows).unwrap_or(usize::MAX),
        device: if request.device.is_empty() { "unknown".into() } else { request.device },
        persistent: request.persistent,
        signature,
        probe,
        digest: request.digest,
        cacheable: request.cacheable.unwrap_or(true),
        objective,
        batch,
        batch_wait: time("batch_wait", request.batch_wait)?.unwrap_or_default(),
    })
}

/// Writes a registration as it is kept: complete, so that it can be taken back while the container
/// is away.
fn to_wire(registration: &Registration) -> v1::RegisterRequest {
    let of = registration.clone();
    let specs = |specs: Vec<TensorSpec>| specs.into_iter().map(Into::into).collect();
    let probe = of.probe.iter().flat_map(|probe| probe.tensors());
    v1::RegisterRequest {
        model: of.id.name.as_ref().to_owned(),
        version: of.id.version.as_ref().to_owned(),
        address: of.address.to_string(),
        remote_model: of.remote_model,
        remote_version: of.remote_version,
        max_batch_rows: u32::try_from(of.max_batch_rows).unwrap_or(u32::MAX),
        device: of.device,
        persistent: of.persistent,
        inputs: specs(of.signature.inputs),
        outputs: specs(of.signature.outputs),
        probe: probe.map(|tensor| tensor.clone().into()).collect(),
        digest: of.digest,
        cacheable: Some(of.cacheable),
        objective: of.objective.and_then(|objective| objective.try_into().ok()),
        batch: of.batch.to_string(),
        batch_wait: of.batch_wait.try_into().ok(),
    }
}

/// Takes back what was registered in an earlier run. What cannot be taken back is said and
/// forgotten.
///
/// # Errors
///
/// The state file failed.
pub async fn restore(models: &Models, state: &StateFile) -> Result<(), StateError> {
    for (id, request) in state.registrations()? {
        let stored = from_wire(request).map_err(|error| error.to_string());
        let restored = stored.and_then(|registration| {
            let stored = Stored { id: id.as_str().into(), registration };
            models.restore(stored).map_err(|error| error.to_string())
        });
        match restored {
            Ok(registered) => {
                tracing::info!(container = id, model = %registered.model.id, "registered earlier");
            }
            Err(error) => {
                tracing::warn!(container = id, error, "an earlier registration is not taken back");
                state.delete_registration(&id).await?;
            }
        }
    }
    Ok(())
}

/// Keeps a registration, so that a restart does not lose it.
///
/// # Errors
///
/// The state file failed.
pub async fn keep(models: &Models, state: &StateFile, id: &str) -> Result<(), StateError> {
    let all = models.registrations();
    match all.iter().find(|stored| &*stored.id == id) {
        Some(stored) => state.put_registration(id, to_wire(&stored.registration)).await,
        // It has been replaced or removed meanwhile.
        None => Ok(()),
    }
}

/// Follows the containers that come and go: forgets the registrations of those that have gone, and
/// tells the applications.
pub async fn follow(models: Models, state: StateFile, applications: Applications) {
    let mut changes = models.changes();
    loop {
        applications.models_changed();
        let there: HashSet<Arc<str>> =
            models.registrations().into_iter().map(|stored| stored.id).collect();
        match state.registrations() {
            Ok(kept) => {
                for (id, _) in kept.into_iter().filter(|(id, _)| !there.contains(id.as_str())) {
                    if let Err(error) = state.delete_registration(&id).await {
                        tracing::warn!(container = id, %error, "cannot forget a registration");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the registrations"),
        }
        if changes.changed().await.is_err() {
            return;
        }
        // Several together.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
