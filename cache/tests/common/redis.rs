//! A real redis-server on a free port, in a folder of its own.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a test waits for what must come, before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct RedisServer {
    child: Child,
    pub(crate) port: u16,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With more arguments than port and folder; nothing is ever written to the disk.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        // Another process may take the free port before Redis does.
        let (port, child) = (0..10)
            .find_map(|_| {
                let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                start(port, &arguments, folder.path()).map(|child| (port, child))
            })
            .expect("redis-server starts on one of ten ports");
        Self { child, port, arguments, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Says a command with redis-cli.
    pub(crate) fn say(&self, words: &[&str]) -> String {
        let port = self.port.to_string();
        let said = command("redis-cli").args(["-p", &port]).args(words).output().unwrap();
        assert!(said.status.success(), "{words:?}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// How many there are.
    pub(crate) fn keys(&self) -> u64 {
        self.say(&["dbsize"]).parse().unwrap()
    }

    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its port, empty.
    pub(crate) fn restart(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(child) = start(self.port, &self.arguments, self.folder.path()) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < end, "redis-server did not start again");
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(port: u16, arguments: &[String], folder: &std::path::Path) -> Option<Child> {
    let mut child = command("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .arg("--dir")
        .arg(folder)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server can be started: `cargo xtask setup` fetches it");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            // Somebody else may listen there.
            std::thread::sleep(Duration::from_millis(20));
            return child.try_wait().unwrap().is_none().then_some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// `redis-server` or `redis-cli`, from SKYSAIL_TEST_REDIS or as `cargo xtask setup` fetched them.
pub(crate) fn command(program: &str) -> Command {
    let setup = std::env::var_os("SKYSAIL_TEST_REDIS").map(PathBuf::from).unwrap_or_else(|| {
        // Cargo's target folder, wherever it is.
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("setup/redis")
    });
    let mut command = Command::new(setup.join("bin").join(program));
    command.env("LD_LIBRARY_PATH", setup.join("lib"));
    command
}

/// Waits until something holds; what it waits for has no time of its own, only an end.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
