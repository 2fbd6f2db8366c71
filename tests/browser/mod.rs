//! Chromium without a screen, by the WebDriver protocol: JSON over HTTP, of which we need little.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    future::Future,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

/// What is waited for comes within this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// One window. Browser and driver end when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    /// The browser's own process, which would outlive its driver where a test fails.
    process: Option<Pid>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let programs = setup().join("chromium/bin");
        let program = |name: &str| {
            let path = programs.join(name);
            assert!(path.exists(), "no {}; run `cargo xtask setup --all`", path.display());
            path
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let driver = Command::new(program("chromedriver"))
            .args([format!("--port={port}"), "--log-level=SEVERE".into()])
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let profile = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{port}");
        let mut this =
            Self { driver, address, session: String::new(), process: None, _profile: profile };
        let end = Instant::now() + PATIENCE;
        while this.send("GET", "/status", &Value::Null).await.is_err() {
            assert!(Instant::now() < end, "chromedriver does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let arguments = [
            "--headless".to_owned(),
            // There may be no user namespaces, and root has no sandbox.
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-dev-shm-usage".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            format!("--user-data-dir={}", this._profile.path().display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome-headless-shell",
            "goog:chromeOptions": { "binary": program("chromium"), "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = this.send("POST", "/session", &capabilities).await.unwrap();
        let process = session["capabilities"]["goog:processID"].as_i64();
        this.process = process.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        assert!(this.process.is_some(), "chromedriver tells no process: {session}");
        this.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        this
    }

    pub(crate) async fn open(&self, address: &str) {
        self.ask("POST", "/url", json!({ "url": address })).await;
    }

    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": { "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false },
        });
        self.ask("POST", "/goog/cdp/execute", size).await;
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// The text of an element that is shown; of one that is not, none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = format!(
            "const found = document.querySelector({});\
             return found && found.checkVisibility() ? found.innerText : '';",
            json!(selector)
        );
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Presses the mouse on an element.
    pub(crate) async fn click(&self, selector: &str) {
        let found = json!({ "using": "css selector", "value": selector });
        let found = self.ask("POST", "/element", found).await;
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.ask("POST", &format!("/element/{id}/click"), json!({})).await;
    }

    /// Types into an element.
    pub(crate) async fn enter(&self, selector: &str, text: &str) {
        let found = json!({ "using": "css selector", "value": selector });
        let found = self.ask("POST", "/element", found).await;
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        self.ask("POST", &format!("/element/{id}/value"), json!({ "text": text })).await;
    }

    /// Waits until an element's text is as it should be, and returns it.
    pub(crate) async fn until(
        &self,
        selector: &str,
        what: &str,
        reached: impl Fn(&str) -> bool,
    ) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector).await;
            if reached(&text) {
                return text;
            }
            assert!(Instant::now() < end, "waited in vain: {what}: {selector} is '{text}'");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What was written to the console since this was asked last, by severity.
    pub(crate) async fn console(&self) -> Vec<(String, String)> {
        let log = self.ask("POST", "/se/log", json!({ "type": "browser" })).await;
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
        let entries = log.as_array().unwrap().iter();
        entries.map(|entry| (text(entry, "level"), text(entry, "message"))).collect()
    }

    /// The addresses of all requests since this was asked last.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let log = self.ask("POST", "/se/log", json!({ "type": "performance" })).await;
        let entries = log.as_array().unwrap().iter();
        let messages = entries.map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()
        });
        messages
            .filter(|message| message["message"]["method"] == "Network.requestWillBeSent")
            .map(|message| {
                message["message"]["params"]["request"]["url"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    pub(crate) async fn close(mut self) {
        self.send("DELETE", &self.session, &Value::Null).await.unwrap();
        self.process = None;
        self.driver.kill().await.unwrap();
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> impl Future<Output = Value> {
        let path = format!("{}{path}", self.session);
        async move {
            self.send(method, &path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
        }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let reply = self.exchange(method, path, body).await.map_err(|error| error.to_string())?;
        let reply: Value = serde_json::from_slice(&reply).map_err(|error| error.to_string())?;
        match reply["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", reply["value"]["message"])),
            None => Ok(reply["value"].clone()),
        }
    }

    async fn exchange(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Vec<u8>> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        // The driver leaves the connection open, whatever it is asked.
        let mut stream = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while stream.read_line(&mut line).await? > 2 {
            let (name, value) = line.split_once(':').unwrap_or_default();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or_default();
            }
            line.clear();
        }
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            let _ = kill_process(process, Signal::KILL);
        }
    }
}

/// Where `cargo xtask setup` puts what it fetches: beside the program that is tested.
fn setup() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_skysail"));
    program.ancestors().nth(2).unwrap().join("setup")
}
