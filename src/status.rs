//! The one place that makes a gRPC status of an error of ours.

use skysail_containers::ContainerError;
use skysail_proto::{Code, PredictError, pb::google::rpc};
use skysail_selection::observe::ObserveError;
use tonic::Status;

/// The gRPC status of a failed prediction.
pub fn of_predict(error: &PredictError) -> Status {
    let status = Status::new(grpc_code(error.code()), error.to_string());
    if let PredictError::Overloaded { retry_after_ms, .. } = error {
        return with_retry_after(status, *retry_after_ms);
    }
    status
}

/// The gRPC status of refused feedback.
pub fn of_observe(error: &ObserveError) -> Status {
    match error {
        ObserveError::InvalidArgument(_) => Status::invalid_argument(error.to_string()),
        ObserveError::FailedPrecondition(_) => Status::failed_precondition(error.to_string()),
        ObserveError::Predict(error) => of_predict(error),
        // Nothing was acknowledged; the client may send it again.
        _ => Status::unavailable(error.to_string()),
    }
}

/// The gRPC status of a refused registration, or of a version that cannot be set.
pub fn of_container(error: &ContainerError) -> Status {
    let code = match error {
        ContainerError::AlreadyExists { .. } => tonic::Code::AlreadyExists,
        ContainerError::Invalid(_) | ContainerError::Tensor(_) => tonic::Code::InvalidArgument,
        ContainerError::Unknown { .. } => tonic::Code::NotFound,
        ContainerError::ShuttingDown => tonic::Code::Unavailable,
        // The container must be mended or reached first.
        _ => tonic::Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// What a stream carries in place of a status, since it goes on.
pub fn in_stream(status: &Status) -> rpc::Status {
    rpc::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    }
}

/// A code's name as metrics and clients write it.
pub fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn grpc_code(code: Code) -> tonic::Code {
    match code {
        Code::NotFound => tonic::Code::NotFound,
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::Cancelled => tonic::Code::Cancelled,
        // Code is non-exhaustive: what we do not know of is a fault of ours.
        _ => tonic::Code::Internal,
    }
}

fn with_retry_after(mut status: Status, milliseconds: u64) -> Status {
    if let Ok(value) = milliseconds.to_string().parse() {
        status.metadata_mut().insert("retry-after-ms", value);
    }
    status
}
