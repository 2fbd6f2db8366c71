//! `Registry`: containers come, are heard of, and go.

use std::time::Duration;

use skysail_containers::{ContainerInfo, ContainerState};
use skysail_proto::pb::v1::{self, registry_server::Registry};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{registrations, status};

/// Serves `Registry`.
#[derive(Clone, Debug)]
pub struct RegistryService(pub Shared);

type Reply<T> = Result<Response<T>, Status>;

/// How long a container that is deregistered may finish what it has, unless told.
const DRAIN: Duration = Duration::from_secs(10);
/// The most that it may ask for.
const LONGEST_DRAIN: Duration = Duration::from_secs(600);

#[tonic::async_trait]
impl Registry for RegistryService {
    async fn register(&self, request: Request<v1::RegisterRequest>) -> Reply<v1::RegisterResponse> {
        let registration = registrations::from_wire(request.into_inner());
        let registration = registration.map_err(|error| status::of_predict(&error))?;
        let models = &self.0.models;
        let registered =
            models.register(registration).await.map_err(|error| status::of_container(&error))?;
        // Acknowledged only once a restart would not lose it.
        if let Err(error) = registrations::keep(models, &self.0.state, &registered.id).await {
            let _ = models.deregister(&registered.id, Duration::ZERO).await;
            return Err(Status::unavailable(error.to_string()));
        }
        // Its first query may come at once.
        self.0.applications.models_changed();
        let lease = registered.lease.and_then(|lease| lease.try_into().ok());
        let container_id = registered.id.as_ref().to_owned();
        tracing::info!(container = container_id, signature = %registered.model.signature, "registered");
        Ok(Response::new(v1::RegisterResponse { container_id, lease }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Reply<v1::HeartbeatResponse> {
        let lease = self.0.models.beat(&request.get_ref().container_id);
        Ok(Response::new(v1::HeartbeatResponse {
            known: lease.is_some(),
            lease: lease.and_then(|lease| lease.try_into().ok()),
        }))
    }

    async fn deregister(
        &self,
        request: Request<v1::DeregisterRequest>,
    ) -> Reply<v1::DeregisterResponse> {
        let request = request.get_ref();
        let drain = match request.drain.map(Duration::try_from) {
            None => DRAIN,
            Some(Ok(drain)) => drain.min(LONGEST_DRAIN),
            Some(Err(_)) => {
                return Err(Status::invalid_argument("drain: expected a duration of zero or more"));
            }
        };
        let deregistered = self.0.models.deregister(&request.container_id, drain).await;
        deregistered.map_err(|error| status::of_container(&error))?;
        let forgotten = self.0.state.delete_registration(&request.container_id).await;
        forgotten.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(v1::DeregisterResponse {}))
    }

    async fn list_containers(
        &self,
        _: Request<v1::ListContainersRequest>,
    ) -> Reply<v1::ListContainersResponse> {
        let containers = self.0.models.containers().iter().map(container).collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }
}

/// A container, as the wire shows it.
pub(super) fn container(info: &ContainerInfo) -> v1::Container {
    v1::Container {
        container_id: info.id.as_ref().to_owned(),
        model: info.model.as_ref().to_owned(),
        version: info.version.as_ref().to_owned(),
        address: info.address.as_ref().to_owned(),
        device: info.device.as_ref().to_owned(),
        state: match info.state {
            ContainerState::Starting => v1::ContainerState::Starting,
            ContainerState::Ready => v1::ContainerState::Ready,
            ContainerState::Broken => v1::ContainerState::Broken,
            ContainerState::Draining => v1::ContainerState::Draining,
            _ => v1::ContainerState::Stalled,
        }
        .into(),
        reason: info.reason.clone(),
        batch_limit: u32::try_from(info.batch_limit).unwrap_or(u32::MAX),
        in_flight: u32::try_from(info.in_flight).unwrap_or(u32::MAX),
        queue_rows: info.queue_rows as u64,
        feasible: info.feasible,
        since: Some(info.since.into()),
        batch: info.batch.to_string(),
        batch_wait: info.batch_wait.try_into().ok(),
        objective: info.objective.try_into().ok(),
        batch_target: info.batch_target.try_into().ok(),
        max_batch_rows: u32::try_from(info.max_batch_rows).unwrap_or(u32::MAX),
    }
}
