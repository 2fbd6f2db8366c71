//! The model repository: what there is, and that clients do not change it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};
use skysail_proto::pb::inference::{
    ModelRepositoryParameter, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, infer_parameter, model_repository_parameter::ParameterChoice,
};

use super::{
    Invalid, Rest, body, describe, json,
    object::Object,
    parameters::{self, Parameters},
    refusal::Refusal,
    target::Target,
};

#[derive(Default, Deserialize)]
struct Index {
    #[serde(default)]
    ready: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Control {
    #[serde(default, deserialize_with = "parameters::read")]
    parameters: Parameters,
}

pub(super) async fn index(
    State(rest): State<Arc<Rest>>,
    request: Request,
) -> Result<Response, Refusal> {
    let Index { ready } = read(&rest, request).await?;
    let ready = ready.unwrap_or(false);
    let index =
        rest.face.repository_index(&RepositoryIndexRequest { ready, ..Default::default() })?;
    Ok(json(StatusCode::OK, &describe::index(&index)))
}

pub(super) async fn load(
    State(rest): State<Arc<Rest>>,
    target: Target,
    request: Request,
) -> Result<Response, Refusal> {
    let control: Control = read(&rest, request).await?;
    rest.face.load(&RepositoryModelLoadRequest {
        model_name: target.model,
        parameters: of_repository(control.parameters),
        ..Default::default()
    })?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}

pub(super) async fn unload(
    State(rest): State<Arc<Rest>>,
    target: Target,
    request: Request,
) -> Result<Response, Refusal> {
    let control: Control = read(&rest, request).await?;
    rest.face.unload(&RepositoryModelUnloadRequest {
        model_name: target.model,
        parameters: of_repository(control.parameters),
        ..Default::default()
    })?;
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}

/// Clients leave the body out where they have nothing to say.
async fn read<T: DeserializeOwned + Default>(rest: &Rest, request: Request) -> Result<T, Refusal> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, rest.max_message_bytes).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    let read = serde_json::from_slice::<Object<T>>(&body);
    Ok(read.map_err(|error| Invalid(format!("the repository request: {error}")))?.0)
}

fn of_repository(
    parameters: Parameters,
) -> std::collections::HashMap<String, ModelRepositoryParameter> {
    use infer_parameter::ParameterChoice as Given;
    let choice = |given| match given {
        Given::BoolParam(value) => ParameterChoice::BoolParam(value),
        Given::Int64Param(value) => ParameterChoice::Int64Param(value),
        Given::StringParam(value) => ParameterChoice::StringParam(value),
        // Repositories have no other kinds.
        Given::DoubleParam(value) => ParameterChoice::StringParam(value.to_string()),
        Given::Uint64Param(value) => ParameterChoice::StringParam(value.to_string()),
    };
    let one = |(name, given): (String, skysail_proto::pb::inference::InferParameter)| {
        let parameter_choice = given.parameter_choice.map(choice);
        (name, ModelRepositoryParameter { parameter_choice })
    };
    parameters.into_iter().map(one).collect()
}
