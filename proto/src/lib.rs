//! What all Skysail crates share: the wire types of every protocol that the product speaks, and
//! the few domain types that pass between the layers of the request path.
//!
//! This crate is the ground floor: it knows nothing of policies, caches or containers.
//!
//! # Layout
//!
//! - [`pb`]: generated code: `skysail.v1`, the Open Inference Protocol, `google.rpc.Status`,
//!   `grpc.health.v1`
//! - [`tensor`]: [`Tensor`], [`DataType`], and the checks that a tensor passes before it travels on
//! - [`spec`]: [`TensorSpec`] and [`Signature`]: what a model or an application takes and gives
//! - [`call`]: [`ModelCall`] and [`ModelReply`]: what passes below `select`
//! - [`waiters`]: what a queue may know of those who wait for a call
//! - [`model`]: [`ModelId`], [`ModelVersion`]
//! - [`open_inference`]: tensors as the Open Inference Protocol carries them
//! - [`trace`]: what a sampled query takes along
//! - [`error`]: [`PredictError`], the one error that crosses the prediction stack
//!
//! # What it does not do
//!
//! It maps no error to a status of a protocol; `src/status.rs` of the front end alone does.

pub mod call;
pub mod error;
pub mod model;
pub mod open_inference;
mod private;
pub mod spec;
pub mod tensor;
pub mod trace;
pub mod waiters;

pub use call::{Digest, Inputs, ModelCall, ModelReply};
pub use error::{Code, PredictError};
pub use model::{ModelId, ModelVersion};
pub use spec::{Signature, TensorSpec};
pub use tensor::{DataType, Tensor, TensorError};
pub use trace::Trace;
pub use waiters::Waiters;

/// Generated code.
pub mod pb {
    #![allow(
        missing_docs,
        unreachable_pub,
        missing_debug_implementations,
        clippy::all,
        clippy::unwrap_used,
        clippy::panic,
        reason = "generated; the .proto files hold the comments"
    )]

    /// Packages `skysail.*`, nested as the generated code refers to them.
    pub mod skysail {
        /// Package `skysail.v1`.
        pub mod v1 {
            tonic::include_proto!("skysail.v1");
        }
    }
    pub use skysail::v1;

    /// Package `inference`: the Open Inference Protocol.
    pub mod inference {
        tonic::include_proto!("inference");
    }

    /// Package `google.rpc`.
    pub mod google {
        /// Package `google.rpc`.
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }

    /// Package `grpc.health.v1`.
    pub use tonic_health::pb as health;

    /// All of the above as an encoded `FileDescriptorSet`, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
