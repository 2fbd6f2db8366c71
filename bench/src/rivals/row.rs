//! A result of the peers' driver.

use serde::{Deserialize, Serialize};

/// One server, protocol, model and depth. Named as the driver names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The server.
    pub peer: String,
    /// `rest`, `rest-v2` or `grpc-v2`.
    pub proto: String,
    /// The model.
    pub model: String,
    /// Queries under way.
    pub conc: usize,
    /// Answers per second.
    pub rps: f64,
    /// Latency in the closed loop.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Failures of all kinds.
    pub err: u64,
    /// CPU of the server's processes per request, in microseconds.
    pub srv_us: f64,
    /// The same of the client.
    pub cli_us: f64,
    /// Share of the machine that somebody else used; read nothing from a row above 0.1.
    pub foreign: f64,
    /// Until the first right answer.
    pub start_s: f64,
}
