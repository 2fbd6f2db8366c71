//! `Admin`: applications, versions, and what was learned.

use skysail_proto::{
    ModelId, TensorSpec,
    pb::v1::{self, admin_server::Admin},
};
use skysail_selection::service::ArmView;
use tonic::{Request, Response, Status};

use super::{Shared, registry::container};
use crate::{applications::ChangeError, status};

/// Serves `Admin`.
#[derive(Clone, Debug)]
pub struct AdminService(pub Shared);

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn put_application(
        &self,
        request: Request<v1::PutApplicationRequest>,
    ) -> Reply<v1::PutApplicationResponse> {
        let application = request
            .into_inner()
            .application
            .ok_or_else(|| Status::invalid_argument("application: expected one, got none"))?;
        self.0.applications.put(application).await.map_err(|error| change(&error))?;
        Ok(Response::new(v1::PutApplicationResponse {}))
    }

    async fn get_application(
        &self,
        request: Request<v1::GetApplicationRequest>,
    ) -> Reply<v1::GetApplicationResponse> {
        let served = self.0.application(&request.get_ref().name)?;
        let application = Some(served.wire.clone());
        Ok(Response::new(v1::GetApplicationResponse { application }))
    }

    async fn list_applications(
        &self,
        _: Request<v1::ListApplicationsRequest>,
    ) -> Reply<v1::ListApplicationsResponse> {
        let served = self.0.applications.list();
        let applications = served.iter().map(|served| served.wire.clone()).collect();
        Ok(Response::new(v1::ListApplicationsResponse { applications }))
    }

    async fn delete_application(
        &self,
        request: Request<v1::DeleteApplicationRequest>,
    ) -> Reply<v1::DeleteApplicationResponse> {
        let name = &request.get_ref().name;
        self.0.applications.delete(name).await.map_err(|error| change(&error))?;
        Ok(Response::new(v1::DeleteApplicationResponse {}))
    }

    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Reply<v1::ListModelsResponse> {
        Ok(Response::new(v1::ListModelsResponse { models: self.0.list_models() }))
    }

    async fn set_version(
        &self,
        request: Request<v1::SetVersionRequest>,
    ) -> Reply<v1::SetVersionResponse> {
        let v1::SetVersionRequest { model, version, reset } = request.into_inner();
        let set = |error: skysail_containers::ContainerError| Status::not_found(error.to_string());
        let before = self.0.models.current(&model);
        self.0.models.set_version(&model, &version).map_err(set)?;
        if let Err(error) = self.0.state.set_version(&model, &version).await {
            // What is not stored must not hold either: a restart would take it back.
            if let Some(before) = before {
                let _ = self.0.models.set_version(&model, &before.id.version);
            }
            return Err(Status::internal(error.to_string()));
        }
        self.0.applications.hand_down_objectives();
        if reset {
            for served in self.0.applications.list() {
                let linked = served.wire.links.iter().any(|link| link.model == model);
                if linked && let Ok(selector) = self.0.applications.selector(&served).await {
                    selector
                        .forget_arm(&model)
                        .await
                        .map_err(|error| Status::unavailable(error.to_string()))?;
                }
            }
        }
        Ok(Response::new(v1::SetVersionResponse {}))
    }

    async fn get_selection(
        &self,
        request: Request<v1::GetSelectionRequest>,
    ) -> Reply<v1::GetSelectionResponse> {
        let request = request.get_ref();
        let selector = self.0.selector(&request.application).await?;
        let view = selector
            .selection(&request.context_id)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (shadow_policy, shadow_arms) =
            view.shadow.map(|shadow| (shadow.policy.to_string(), arms(shadow.arms))).unzip();
        Ok(Response::new(v1::GetSelectionResponse {
            policy: view.policy.as_ref().to_owned(),
            state_version: view.state_version,
            arms: arms(view.arms),
            shadow_policy: shadow_policy.unwrap_or_default(),
            shadow_arms: shadow_arms.unwrap_or_default(),
        }))
    }

    async fn reset_selection(
        &self,
        request: Request<v1::ResetSelectionRequest>,
    ) -> Reply<v1::ResetSelectionResponse> {
        let request = request.get_ref();
        let selector = self.0.selector(&request.application).await?;
        let context = (!request.context_id.is_empty()).then_some(request.context_id.as_str());
        selector.reset(context).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(v1::ResetSelectionResponse {}))
    }

    async fn drop_cache(
        &self,
        request: Request<v1::DropCacheRequest>,
    ) -> Reply<v1::DropCacheResponse> {
        let request = request.get_ref();
        let model = ModelId::new(request.model.as_str(), request.version.as_str());
        self.0.cache.drop_model(&model).await;
        Ok(Response::new(v1::DropCacheResponse {}))
    }
}

impl Shared {
    fn application(
        &self,
        name: &str,
    ) -> Result<std::sync::Arc<crate::applications::Served>, Status> {
        self.applications.get(name).map_err(|error| status::of_predict(&error))
    }

    async fn selector(&self, name: &str) -> Result<std::sync::Arc<crate::stack::Stack>, Status> {
        let served = self.application(name)?;
        self.applications.selector(&served).await.map_err(|error| status::of_predict(&error))
    }

    fn list_models(&self) -> Vec<v1::Model> {
        let models = self.models.list().into_iter();
        models
            .map(|model| v1::Model {
                name: model.name.as_ref().to_owned(),
                current: model.current.as_ref().to_owned(),
                versions: model
                    .versions
                    .iter()
                    .map(|version| {
                        let of = &version.model;
                        let specs =
                            |specs: &[TensorSpec]| specs.iter().cloned().map(Into::into).collect();
                        v1::ModelVersion {
                            version: of.id.version.as_ref().to_owned(),
                            inputs: specs(&of.signature.inputs),
                            outputs: specs(&of.signature.outputs),
                            digest: of.digest.as_ref().to_owned(),
                            cacheable: of.cacheable,
                            containers: version.containers.iter().map(container).collect(),
                        }
                    })
                    .collect(),
            })
            .collect()
    }
}

fn arms(arms: Vec<ArmView>) -> Vec<v1::ArmState> {
    let arm = |arm: ArmView| v1::ArmState {
        arm: arm.arm.as_ref().to_owned(),
        weight: arm.weight,
        mean_loss: arm.mean_loss,
        observations: arm.observations,
        availability: arm.availability,
    };
    arms.into_iter().map(arm).collect()
}

fn change(error: &ChangeError) -> Status {
    match error {
        ChangeError::Predict(error) => status::of_predict(error),
        ChangeError::State(error) => Status::unavailable(error.to_string()),
    }
}
