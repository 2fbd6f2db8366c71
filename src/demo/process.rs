//! The server's process.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tonic::transport::Channel;

use crate::cli::ServerAddress;

/// A `skysail serve` of our own.
pub(super) struct Server {
    child: Child,
    /// Holds its state; removed at the end.
    _data: tempfile::TempDir,
    pub(super) grpc: String,
    pub(super) http: String,
    pub(super) channel: Channel,
}

impl Server {
    pub(super) async fn start(config: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let data = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .env("SKYSAIL_LOG", std::env::var("SKYSAIL_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the server")?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(Duration::from_secs(60), lines.next_line())
            .await
            .context("the server was not ready within a minute")??;
        let Some(ready) = ready else {
            let status = child.wait().await?;
            bail!("the server did not start ({status}); what it said stands above");
        };
        let address = |name: &str| {
            let found = ready.split(' ').find_map(|word| word.strip_prefix(name));
            found.map(str::to_owned).with_context(|| format!("no {name} in \"{ready}\""))
        };
        let (grpc, http) = (address("grpc=")?, address("http=")?);
        let channel = ServerAddress { server: grpc.clone() }.connect().await?;
        Ok(Self { child, _data: data, grpc, http, channel })
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.channel);
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            kill_process(pid, Signal::TERM).context("cannot end the server")?;
        }
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait())
            .await
            .context("the server did not end within a minute")??;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

/// What the server counted as replies to queries of the demo's application, by `/metrics`.
pub(super) async fn replies_counted(server: &Server) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(&server.http).await?;
    let request =
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.http);
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let ours = format!("application=\"{}\"", super::APPLICATION);
    let counts = text
        .lines()
        .filter(|line| line.starts_with("skysail_requests_total{") && line.contains(&ours))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}
