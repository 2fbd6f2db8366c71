//! Runs models: a queue by deadline per model version, batches whose size is learned, and
//! replicas that compute them.
//!
//! On the request path this is the last crate: a [`ModelCall`](skysail_proto::ModelCall) that no
//! layer above could answer enters through [`Models`], a `tower::Service` that is always ready. A
//! full queue is an immediate error. A replica that is free pulls; only then is the batch formed.
//!
//! # Layout
//!
//! - [`router`]: [`Models`]: which models there are, what a bare name stands for, where a call goes
//! - `model`: one model version: its queue, its replicas, what a mask must know
//! - [`queue`]: the queue by earliest deadline, and the rule by which a batch is formed; pure,
//!   and public for measurements that drive it in virtual time
//! - [`batch`]: how large a batch may be ([`BatchSizer`]) and how long it takes
//!   ([`LatencyProfile`]); pure
//! - `replica`: the thread or task of one replica, and what becomes of the batches it had
//! - [`registry`]: containers in other processes: registration, leases, removal
//! - [`remote`]: the connection to such a container, and a batch over the wire
//! - `watch`: what is looked at several times in a second: overdue batches, leases
//! - [`container`]: [`Container`], what computes a batch
//! - [`onnx`]: the container that runs an ONNX model in this process
//! - [`runtime`]: finds the ONNX Runtime library
//! - [`observer`]: what is told of batches and losses, once per batch
//! - [`config`], [`error`]: what a model is started with, and what may go wrong then
//!
//! # What it does not do
//!
//! It knows no application and no policy: the objective of a model version is handed down by the
//! front end. It keeps no answer. It reads no environment variable. It stores no registration:
//! [`Models::registrations`] tells what is to be kept, [`Models::restore`] takes it back.

pub mod batch;
pub mod config;
pub mod container;
pub mod error;
mod model;
pub mod observer;
pub mod onnx;
pub mod queue;
pub mod registry;
pub mod remote;
mod replica;
pub mod router;
pub mod runtime;
mod watch;

pub use batch::{BatchSample, BatchSizer, LatencyProfile};
pub use config::{BatchStrategy, Device, ModelConfig};
pub use container::Container;
pub use error::ContainerError;
pub use model::{MaskReason, ModelFuture};
pub use observer::{BatchObserver, BatchReport, BatchTrace, DropReason, NoObserver, Release};
pub use registry::{LEASE, Registered, Registration, Stored};
pub use remote::Address;
pub use replica::{ContainerInfo, ContainerState};
pub use router::{ModelInfo, Models, VersionInfo};
pub use runtime::{OnnxRuntimeMissing, init_onnx_runtime};
