//! What the client commands share.

use std::time::Duration;

use anyhow::Context;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// Where the server is.
#[derive(Clone, Debug, clap::Args)]
pub struct ServerAddress {
    /// The server's gRPC address.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7400",
        env = "SKYSAIL_SERVER"
    )]
    pub server: String,
}

impl ServerAddress {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The address is none, or nobody answers there.
    pub async fn connect(&self) -> anyhow::Result<Channel> {
        let address = &self.server;
        Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("--server {address}: expected HOST:PORT"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect()
            .await
            .with_context(|| {
                format!("no server at {address}; start one with 'skysail serve', or name its address with --server")
            })
    }
}

/// Words a refusal for the person who typed the command.
pub(super) fn refused(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", crate::status::code_name(status.code()), status.message())
}
