//! The one error that crosses the prediction stack.

use std::{sync::Arc, time::Duration};

use crate::{ModelId, TensorError};

/// Why a prediction could not be made.
///
/// `Clone`, since one failed batch or flight answers many callers. The facts are in the fields;
/// [`PredictError::code`] says what kind of failure it is, and the front end alone makes a status
/// of a protocol of that.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// The application or model is not known.
    #[error("{kind} '{name}' is not known; {hint}")]
    NotFound {
        /// `application` or `model`.
        kind: &'static str,
        /// What was asked for.
        name: Arc<str>,
        /// What to do.
        hint: Arc<str>,
    },
    /// The request is wrong in a way that repeating it does not mend.
    #[error("{0}")]
    InvalidArgument(Arc<str>),
    /// Something must be set up first.
    #[error("{0}")]
    FailedPrecondition(Arc<str>),
    /// A queue or an admission bound is full, or the time left is too short to begin.
    #[error("{what}; retry after {retry_after_ms} ms")]
    Overloaded {
        /// What is full.
        what: Arc<str>,
        /// When trying again may help.
        retry_after_ms: u64,
    },
    /// The query was accepted and its deadline passed before the answer was there.
    #[error("{model} did not answer in time: {why}")]
    Late {
        /// Who was asked.
        model: ModelId,
        /// Where it was when time ran out.
        why: LateReason,
    },
    /// The model version has no replica that could take the call.
    #[error("{model} has no live replica: {why}")]
    Unavailable {
        /// Who was asked.
        model: ModelId,
        /// What became of the replicas.
        why: Arc<str>,
    },
    /// The replica was lost with the call in it; another one may answer.
    #[error("{model}: the replica was lost while it held the query: {why}")]
    ReplicaLost {
        /// Who was asked.
        model: ModelId,
        /// How it was lost.
        why: Arc<str>,
    },
    /// The container itself failed on this input.
    #[error("{model} failed: {why}")]
    Container {
        /// Who was asked.
        model: ModelId,
        /// The container's own words.
        why: Arc<str>,
    },
    /// What the application has learned cannot be read, and it has not been read before.
    #[error("{0}; nothing can be drawn before it is read, try again")]
    State(Arc<str>),
    /// Everybody who waited for the call has gone.
    #[error("the call was given up by all who waited for it")]
    Cancelled,
    /// A fault of this program.
    #[error("internal: {0}")]
    Internal(Arc<str>),
}

/// Where a late call was when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LateReason {
    /// It expired in the queue.
    #[error("expired in the queue")]
    Queued,
    /// The sliding-window rule gave it up for those behind it.
    #[error("dropped, since no replica could finish it by its deadline")]
    Dropped,
    /// It was in a container.
    #[error("still computing at the deadline")]
    Computing,
}

/// The kind of a failure; one value for each code that a client may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// Unknown application or model.
    NotFound,
    /// A wrong tensor or parameter.
    InvalidArgument,
    /// An application with no model or no known signature.
    FailedPrecondition,
    /// Overload.
    ResourceExhausted,
    /// Too late.
    DeadlineExceeded,
    /// No live replica, or no state.
    Unavailable,
    /// A container's own failure, or ours.
    Internal,
    /// The caller has gone.
    Cancelled,
}

impl PredictError {
    /// The kind of this failure.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::FailedPrecondition(_) => Code::FailedPrecondition,
            Self::Overloaded { .. } => Code::ResourceExhausted,
            Self::Late { .. } => Code::DeadlineExceeded,
            Self::Unavailable { .. } | Self::ReplicaLost { .. } | Self::State(_) => {
                Code::Unavailable
            }
            Self::Container { .. } | Self::Internal(_) => Code::Internal,
            Self::Cancelled => Code::Cancelled,
        }
    }

    /// A refusal for want of room, with a time after which a retry may help.
    pub fn overloaded(what: impl Into<Arc<str>>, retry_after: Duration) -> Self {
        let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX).max(1);
        Self::Overloaded { what: what.into(), retry_after_ms }
    }

    /// An INVALID_ARGUMENT that says what was expected and what came.
    pub fn invalid(message: impl Into<Arc<str>>) -> Self {
        Self::InvalidArgument(message.into())
    }
}

impl From<TensorError> for PredictError {
    fn from(error: TensorError) -> Self {
        Self::InvalidArgument(error.to_string().into())
    }
}
