//! What a path names.

use axum::{
    extract::{FromRequestParts, Path},
    http::{StatusCode, request::Parts},
};
use serde::Deserialize;

use super::refusal::Refusal;

/// A model, which is an application, and maybe its version.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) model: String,
    /// Empty: the server's choice.
    #[serde(default)]
    pub(super) version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<Self>::from_request_parts(parts, state).await;
        // A name that is not UTF-8.
        path.map(|Path(target)| target)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.body_text()))
    }
}
