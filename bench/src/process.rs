//! Server processes that a measurement starts and ends.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use prost::Message as _;
use skysail_proto::pb::v1::PredictResponse;
use tempfile::TempDir;

use crate::{replay::Delay, sleeper::Speed};

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The `skysail` binary.
    pub skysail: PathBuf,
    /// This one, whose containers are started.
    pub bench: PathBuf,
}

impl Programs {
    /// This program, and `skysail` beside it unless another is named.
    ///
    /// # Errors
    ///
    /// The system does not tell where this program is.
    pub fn find(skysail: Option<PathBuf>) -> anyhow::Result<Self> {
        let bench = std::env::current_exe().context("finding this program")?;
        Ok(Self { skysail: skysail.unwrap_or_else(|| bench.with_file_name("skysail")), bench })
    }
}

/// What containers replay, and where.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// A file that [`replay::write`](crate::replay::write) wrote.
    pub recording: PathBuf,
    /// How long an answer takes; `None`: no time.
    pub delay: Option<Delay>,
    /// Delays are drawn from it.
    pub seed: u64,
    /// `host:port`; port 0 picks a free one.
    pub listen: String,
}

/// A server in a process of its own; it is killed and its folder removed when this is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// Where it listens, `host:port`.
    pub address: String,
    /// The same of its HTTP port; empty where it has none.
    pub http: String,
    _folder: TempDir,
}

impl ServerProcess {
    /// Starts the echo, which answers `canned`.
    ///
    /// # Errors
    ///
    /// It did not start.
    pub fn echo(program: &Path, canned: &PredictResponse) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let response = folder.path().join("response.bin");
        std::fs::File::create(&response)?.write_all(&canned.encode_to_vec())?;
        let mut command = Command::new(program);
        command.args(["echo", "--listen", "127.0.0.1:0", "--response"]).arg(response);
        Self::start(command, folder, Duration::from_secs(20))
    }

    /// Starts the container that only waits.
    ///
    /// # Errors
    ///
    /// It did not start.
    pub fn sleeper(program: &Path, speed: Speed) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        let time = |time: Duration| humantime::format_duration(time).to_string();
        command.arg("sleeper").arg("--row").arg(time(speed.row));
        command.arg("--batch").arg(time(speed.batch));
        Self::start(command, TempDir::new()?, Duration::from_secs(20))
    }

    /// Starts containers that replay a recording.
    ///
    /// # Errors
    ///
    /// They did not start.
    pub fn replay(program: &Path, options: &ReplayOptions) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("replay").arg("--recording").arg(&options.recording);
        command.args(["--listen", &options.listen, "--seed", &options.seed.to_string()]);
        if let Some(Delay { median, sigma }) = options.delay {
            command.arg("--median").arg(humantime::format_duration(median).to_string());
            command.arg("--sigma").arg(sigma.to_string());
        }
        Self::start(command, TempDir::new()?, Duration::from_secs(20))
    }

    /// Starts `skysail serve` on free ports, with a data folder that is removed afterwards.
    ///
    /// # Errors
    ///
    /// It was not ready within a minute.
    pub fn skysail(program: &Path, config: &Path, data_dir: Option<&Path>) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let data: PathBuf = data_dir.map_or_else(|| folder.path().join("data"), Path::to_path_buf);
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args([OsStr::new("--config"), config.as_os_str()])
            .args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .args([OsStr::new("--data-dir"), data.as_os_str()]);
        Self::start(command, folder, Duration::from_secs(60))
    }

    /// The same with `more` at the end of its configuration.
    ///
    /// # Errors
    ///
    /// The configuration cannot be read, or the server was not ready within a minute.
    pub fn skysail_with(program: &Path, config: &Path, more: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(config);
        let text = text.with_context(|| format!("reading {}", config.display()))?;
        // Beside the other one, since paths in it are relative.
        let folder = config.parent().unwrap_or(Path::new("."));
        let longer = tempfile::Builder::new().suffix(".toml").tempfile_in(folder)?;
        std::fs::write(longer.path(), format!("{text}\n{more}"))?;
        Self::skysail(program, longer.path(), None)
    }

    /// Starts `command` and waits for its line `ready grpc=HOST:PORT …`.
    fn start(mut command: Command, folder: TempDir, limit: Duration) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let output = child.stdout.take().context("its output is piped")?;
        let (tell, told) = mpsc::channel();
        // It reads on to the end, so that the server never waits for a full pipe.
        thread::Builder::new().name("server-output".into()).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = ready(&line, "grpc=") {
                    let _ = tell.send((address, ready(&line, "http=").unwrap_or_default()));
                }
            }
        })?;
        let mut process =
            Self { child, address: String::new(), http: String::new(), _folder: folder };
        (process.address, process.http) = told.recv_timeout(limit).map_err(|_| {
            anyhow!("{name} printed no line 'ready grpc=HOST:PORT' within {limit:?}")
        })?;
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `redis-server` of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct RedisProcess {
    child: Child,
    /// Where it listens, `host:port`.
    pub address: String,
    _folder: TempDir,
}

impl RedisProcess {
    /// From `redis-server` in the `bin` of a folder, beside it the `lib` it may need.
    ///
    /// # Errors
    ///
    /// It is not there, or did not answer within ten seconds.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let program = folder.join("bin/redis-server");
        ensure!(
            program.is_file(),
            "there is no {}: `cargo xtask setup` fetches it, or name its folder with --redis",
            program.display()
        );
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let data = TempDir::new()?;
        let child = Command::new(program)
            .env("LD_LIBRARY_PATH", folder.join("lib"))
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(data.path())
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let process = Self { child, address: format!("127.0.0.1:{port}"), _folder: data };
        let limit = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&process.address).is_err() {
            ensure!(Instant::now() < limit, "redis-server does not listen at {}", process.address);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RedisProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server says at `/metrics`.
///
/// # Errors
///
/// Nobody answers there.
pub fn metrics(http: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(http)?;
    let host = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(host.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("reading /metrics")?;
    Ok(text)
}

fn ready(line: &str, kind: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace();
    (words.next()? == "ready")
        .then(|| words.find_map(|word| word.strip_prefix(kind)))?
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::ready;

    #[test]
    fn the_ready_line_tells_the_port() {
        let line = "ready grpc=127.0.0.1:7400 http=127.0.0.1:7401";
        assert_eq!(ready(line, "grpc=").as_deref(), Some("127.0.0.1:7400"));
        assert_eq!(ready(line, "http=").as_deref(), Some("127.0.0.1:7401"));
        assert_eq!(ready("not ready grpc=1:2", "grpc="), None);
        assert_eq!(ready("ready http=1:2", "grpc="), None);
    }
}
