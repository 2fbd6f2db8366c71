//! Drivers: what sends a query and tells how it ended.
//!
//! A driver takes jobs without waiting, so that a slow server never slows the arrivals. Bounds:
//! [`Run`] admits no more jobs than `max_in_flight`, and a stream's queue has room for that many.

mod open_inference;
mod run;
mod stream;
mod unary;

use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _};
use skysail_proto::pb::v1;
use tokio::runtime::Handle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

pub use run::{Job, Run, RunConfig};

use crate::recorder::Outcome;

/// What the server is asked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// `skysail.v1.Prediction/Predict`, a call per query.
    Predict,
    /// `skysail.v1.Prediction/PredictStream`.
    PredictStream,
    /// `inference.GRPCInferenceService/ModelInfer` with raw contents: also other servers.
    ModelInfer,
}

/// Where to, and over how many connections and streams.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// `host:port`, or `unix:/path`.
    pub server: String,
    /// What to call.
    pub api: Api,
    /// TCP connections, at least 1; queries take turns.
    pub connections: usize,
    /// Streams over these connections, at least 1; only [`Api::PredictStream`] reads it.
    pub streams: usize,
}

impl TargetConfig {
    /// Makes the connections.
    pub(crate) async fn connect(&self) -> anyhow::Result<Vec<Channel>> {
        futures::stream::iter(0..self.connections.max(1))
            .map(|_| connect(&self.server))
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    /// How many lanes take turns: streams, or connections.
    pub(crate) fn lanes(&self) -> usize {
        match self.api {
            Api::PredictStream => self.streams.max(1),
            Api::Predict | Api::ModelInfer => self.connections.max(1),
        }
    }
}

/// Connections that are made at the same time: a server's queue of those to accept is short.
const AT_ONCE: usize = 32;

/// Sends queries.
#[derive(Debug)]
pub(crate) enum Driver {
    Unary(unary::Unary),
    Stream(stream::Streams),
    OpenInference(open_inference::OpenInference),
}

impl Driver {
    /// Over connections that were made.
    pub(crate) fn over(channels: Vec<Channel>, config: &TargetConfig, run: &Arc<Run>) -> Self {
        let (run, runtime) = (Arc::clone(run), Handle::current());
        match config.api {
            Api::Predict => Self::Unary(unary::Unary::new(channels, run, runtime)),
            Api::ModelInfer => {
                Self::OpenInference(open_inference::OpenInference::new(channels, run, runtime))
            }
            Api::PredictStream => {
                Self::Stream(stream::Streams::open(&channels, config.streams.max(1), &run))
            }
        }
    }

    /// Sends a job; never waits.
    pub(crate) fn submit(&self, job: Job) {
        match self {
            Self::Unary(driver) => driver.submit(job),
            Self::Stream(driver) => driver.submit(job),
            Self::OpenInference(driver) => driver.submit(job),
        }
    }
}

/// A connection to `host:port` or `unix:/path`.
///
/// # Errors
///
/// The address is none, or nothing listens there.
pub async fn connect(server: &str) -> anyhow::Result<Channel> {
    let uri = if server.contains(':') && !server.starts_with("unix:") && !server.contains("://") {
        format!("http://{server}")
    } else {
        server.to_owned()
    };
    let endpoint = Endpoint::from_shared(uri).with_context(|| format!("'{server}'"))?;
    endpoint.connect().await.with_context(|| format!("connecting to {server}"))
}

/// How a response of our own API ended the query, and the message of a refusal.
fn outcome(response: &v1::PredictResponse) -> (Outcome, &str) {
    if let Some(error) = &response.error {
        return (Outcome::Refused(Code::from(error.code)), &error.message);
    }
    match response.status() {
        v1::Status::Answered => (Outcome::Answered, ""),
        v1::Status::Partial => (Outcome::Partial, ""),
        v1::Status::Default => (Outcome::Default, ""),
        v1::Status::Unspecified => {
            (Outcome::Refused(Code::Unknown), "the response has neither a status nor an error")
        }
    }
}
