//! Servers in other processes that speak the Open Inference Protocol over gRPC.

mod address;
mod connection;
mod infer;

pub use address::Address;
pub(crate) use connection::Connection;
pub(crate) use infer::{Errand, Target};
