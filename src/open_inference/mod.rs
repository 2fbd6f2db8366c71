//! The Open Inference Protocol in front, whichever way it is carried: an application is a model of
//! version "1".
//!
//! # Layout
//!
//! - [`Face`]: what each call answers; gRPC and REST carry it
//! - `describe`: an application in the protocol's words
//! - `parameters`: the parameters that mean something here
//! - `request`, `response`: between the protocol's messages and the front door
//! - `statistics`: what is counted of an application for the protocol
//!
//! # What it does not do
//!
//! It checks no tensor against a signature and counts no reply: `predict` does, for every door.

pub(crate) mod describe;
pub(crate) mod parameters;
mod request;
mod response;
mod statistics;

use std::{collections::HashSet, sync::Arc};

use skysail_containers::ContainerState;
use skysail_proto::{
    ModelId, PredictError,
    open_inference::Contents,
    pb::inference::{
        ModelConfig, ModelInferRequest, ModelInferResponse, ModelMetadataResponse,
        ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
        RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerMetadataResponse,
        repository_index_response::ModelIndex,
    },
};
use skysail_selection::{Application, Arm};
use tonic::Status;

use crate::{applications::Served, grpc::Shared, predict::Arrival, status};

pub(crate) use statistics::Statistics;

/// The one version of an application.
pub const VERSION: &str = "1";

/// What of the protocol and its extensions works here, by the names that clients look for.
const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"];

/// Answers the calls of the protocol. Cloning it shares everything.
#[derive(Clone, Debug)]
pub struct Face(pub Shared);

impl Face {
    /// One query. Its reply is counted once, under the door that it came by.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an unknown application or another version than "1"; INVALID_ARGUMENT for wrong
    /// tensors or parameters; else as for `Predict` of `skysail.v1`.
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped is counted as cancelled.
    pub async fn infer(
        &self,
        mut request: ModelInferRequest,
        arrival: Arrival,
    ) -> Result<ModelInferResponse, Status> {
        let name = std::mem::take(&mut request.model_name);
        let id = std::mem::take(&mut request.id);
        let mut contents = Contents::default();
        let read = || {
            version(&name, &request.model_version)?;
            let (asked, form) = request::asked(request)?;
            contents = form;
            Ok(asked)
        };
        let prediction = self.0.predict(&name, &id, read, arrival).await?;
        Ok(response::response(name, id, prediction, contents))
    }

    /// Name, version, and the extensions that work.
    pub fn server_metadata(&self) -> ServerMetadataResponse {
        ServerMetadataResponse {
            name: "skysail".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_owned).into(),
        }
    }

    /// False once the server is stopping.
    pub fn ready(&self) -> bool {
        !*self.0.stopping.borrow()
    }

    /// Whether the application can be answered by a model: its signature is known, one of its arms
    /// has a live replica, and the server is not stopping. A default alone is not ready.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an unknown application or another version than "1".
    pub fn model_ready(&self, name: &str, version: &str) -> Result<bool, Status> {
        let served = self.find(name, version)?;
        Ok(self.why_not_ready(&served).is_none())
    }

    /// The application's signature.
    ///
    /// # Errors
    ///
    /// NOT_FOUND as above; FAILED_PRECONDITION as long as no linked model's signature is known.
    pub fn metadata(&self, name: &str, version: &str) -> Result<ModelMetadataResponse, Status> {
        Ok(describe::metadata(&*self.application(name, version)?))
    }

    /// The application as Triton's configuration would describe it.
    ///
    /// # Errors
    ///
    /// As for [`metadata`](Self::metadata).
    pub fn config(&self, name: &str, version: &str) -> Result<ModelConfig, Status> {
        let application = self.application(name, version)?;
        let arms = application.arms.iter();
        let versions = arms.filter_map(|arm| self.0.models.resolve(&arm.name));
        let limits = versions.map(|version| version.max_batch_rows).filter(|rows| *rows > 0);
        Ok(describe::config(&application, limits.min()))
    }

    /// What was counted of an application since it was put, by all doors; `name` empty: of all.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an unknown application or another version than "1".
    pub fn statistics(&self, name: &str, version: &str) -> Result<ModelStatisticsResponse, Status> {
        let served = if name.is_empty() {
            self::version("", version).map_err(|error| status::of_predict(&error))?;
            self.0.applications.list()
        } else {
            vec![self.find(name, version)?]
        };
        let of_one = |served: &Arc<Served>| served.statistics.wire(&served.wire.name);
        Ok(ModelStatisticsResponse { model_stats: served.iter().map(of_one).collect() })
    }

    /// All applications, with the reason of those that are not ready.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT where a repository is named: there are none.
    pub fn repository_index(
        &self,
        request: &RepositoryIndexRequest,
    ) -> Result<RepositoryIndexResponse, Status> {
        no_repository(&request.repository_name)?;
        let entry = |served: Arc<Served>| {
            let why_not = self.why_not_ready(&served);
            ModelIndex {
                name: served.wire.name.clone(),
                version: VERSION.into(),
                state: if why_not.is_none() { "READY" } else { "UNAVAILABLE" }.into(),
                reason: why_not.unwrap_or_default(),
            }
        };
        let models = self.0.applications.list().into_iter().map(entry);
        let models = models.filter(|model| !request.ready || model.state == "READY").collect();
        Ok(RepositoryIndexResponse { models })
    }

    /// Changes nothing: applications are put by Admin or declared in the configuration file. It
    /// confirms that one is ready, so that clients that load before they ask work.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an unknown application; FAILED_PRECONDITION where it is not ready, or where
    /// the request brings a configuration; INVALID_ARGUMENT where a repository is named.
    pub fn load(&self, request: &RepositoryModelLoadRequest) -> Result<(), Status> {
        let name = &request.model_name;
        no_repository(&request.repository_name)?;
        let served = self.find(name, "")?;
        if let Some(parameter) = request.parameters.keys().min() {
            return Err(Status::failed_precondition(format!(
                "'{name}' is an application and is not configured by loading it (parameter \
                 '{parameter}'); change it with skysail.v1.Admin/PutApplication"
            )));
        }
        match self.why_not_ready(&served) {
            None => Ok(()),
            Some(reason) => Err(Status::failed_precondition(format!(
                "'{name}' is an application; it cannot be loaded and is not ready: {reason}"
            ))),
        }
    }

    /// Is always refused.
    ///
    /// # Errors
    ///
    /// NOT_FOUND for an unknown application, else FAILED_PRECONDITION.
    pub fn unload(&self, request: &RepositoryModelUnloadRequest) -> Result<(), Status> {
        let name = &request.model_name;
        no_repository(&request.repository_name)?;
        self.find(name, "")?;
        Err(Status::failed_precondition(format!(
            "'{name}' is an application and cannot be unloaded; delete it with \
             skysail.v1.Admin/DeleteApplication, or from the configuration file that declares it"
        )))
    }

    fn find(&self, name: &str, version: &str) -> Result<Arc<Served>, Status> {
        let served = self.0.applications.get(name);
        let served = served.and_then(|served| self::version(name, version).map(|()| served));
        served.map_err(|error| status::of_predict(&error))
    }

    fn application(&self, name: &str, version: &str) -> Result<Arc<Application>, Status> {
        let served = self.find(name, version)?;
        let application = self.0.applications.complete_application(&served);
        application.map_err(|error| status::of_predict(&error))
    }

    fn why_not_ready(&self, served: &Served) -> Option<String> {
        if !self.ready() {
            return Some("the server is stopping".into());
        }
        let application = match self.0.applications.complete_application(served) {
            Ok(application) => application,
            Err(error) => return Some(error.to_string()),
        };
        let live: HashSet<_> = self
            .0
            .models
            .containers()
            .into_iter()
            .filter(|container| container.state == ContainerState::Ready)
            .map(|container| ModelId { name: container.model, version: container.version })
            .collect();
        let is_live = |arm: &Arm| {
            let model = self.0.models.resolve(&arm.name);
            model.is_some_and(|model| live.contains(&model.id))
        };
        let arms = &application.arms;
        (!arms.iter().any(is_live)).then(|| {
            let arms: Vec<_> = arms.iter().map(|arm| &*arm.name).collect();
            format!("none of its models has a live replica ({})", arms.join(", "))
        })
    }
}

/// Refuses other versions than the one that there is; empty is our choice, which is that one.
fn version(name: &str, version: &str) -> Result<(), PredictError> {
    if version.is_empty() || version == VERSION {
        return Ok(());
    }
    Err(PredictError::NotFound {
        kind: "model",
        name: format!("{name}:{version}").into(),
        hint: "an application has the one version \"1\": leave the version empty or say that"
            .into(),
    })
}

fn no_repository(name: &str) -> Result<(), Status> {
    if name.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "there are no repositories, so none of the name '{name}'; leave repository_name empty"
    )))
}
