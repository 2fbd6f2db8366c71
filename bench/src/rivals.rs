//! Other model servers, side by side with Skysail: the same ONNX files, the same clients, one server at
//! a time.
//!
//! The rivals, their start scripts and the closed-loop driver (`load/bench_all.py`, over `wrk` and
//! `h2load`) lie in a folder of their own, given by `--peers`. Skysail joins as the peer `server`.

mod judge;
mod row;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tempfile::TempDir;

pub use row::Row;

use crate::{
    arrivals::{Arrivals, Shape},
    load::{Pace, Plan, run},
    process::ServerProcess,
    report::{Bar, figure, print_bars},
    target::{Api, TargetConfig},
    workload::{Workload, WorkloadConfig},
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The `skysail` binary.
    pub skysail: PathBuf,
    /// Where the rivals were installed.
    pub peers: PathBuf,
    /// The rivals; none: those that are installed there.
    pub rivals: Vec<String>,
    /// Alternations of Skysail and Triton on the first model; the first one also has all rivals and
    /// models, the others only where `thorough`.
    pub repeats: usize,
    /// Every alternation has every rival and model.
    pub thorough: bool,
    /// What counts of a block, in whole seconds.
    pub seconds: u64,
    /// Queries under way.
    pub depths: Vec<usize>,
    /// Threads of our own driver.
    pub threads: usize,
    /// Inputs of our own driver are drawn from it.
    pub seed: u64,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Rivals {
    /// As the driver wrote them, by alternation.
    pub passes: Vec<Vec<Row>>,
    /// Our own driver on Skysail, open loop, at half of its closed rate.
    pub own: Vec<Own>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// What `skysail-bench load` says of the same server: answers are decoded, and latency runs from the
/// intended start.
#[derive(Debug, Serialize)]
pub struct Own {
    /// The model.
    pub model: String,
    /// Queries per second in a closed loop, the most of `depths` under way.
    pub closed_per_s: f64,
    /// Answers of all that was asked there.
    pub closed_answered: f64,
    /// Queries per second of the open loop.
    pub rate: f64,
    /// Over all offered; null where that is a miss.
    pub p50_ms: Option<f64>,
    /// The same.
    pub p99_ms: Option<f64>,
    /// Within 20 ms, of all offered.
    pub goodput_ratio: f64,
}

/// The models that the peers' scripts build.
pub const MODELS: [&str; 3] = ["m1", "m2", "m3"];
/// The peer that stands for Skysail.
pub(crate) const SERVER: &str = "server";
pub(crate) const TRITON: &str = "triton";
/// Of the applications, and for the throughput that counts.
pub(crate) const OBJECTIVE: Duration = Duration::from_millis(20);

/// How long the driver waits for a quiet machine before each block.
const QUIET_WAIT: Duration = Duration::from_secs(5);

/// Those that can be told from their folder.
const RIVALS: [(&str, &str); 7] = [
    (TRITON, "pytriton/venv"),
    ("mosec", "mosec/venv"),
    ("mlserver", "mlserver/venv"),
    ("litserve", "litserve/venv"),
    ("bentoml", "bentoml/venv"),
    ("ray", "ray/venv"),
    ("pytriton", "pytriton/venv"),
];

const NOTES: [&str; 4] = [
    "closed loops of wrk (REST) and h2load (gRPC), one row a query, one server at a time, client and \
     server on the same processors; CPU is that of all processes of a server, per request",
    "Skysail's applications have an objective of 20 ms, the policy static and no cache; records and \
     metrics are on",
    "within the objective: the highest rate over all depths and protocols of a server whose p99 is at \
     most 20 ms; differences below 1.5 times are ties",
    "h2load counts any HTTP 200 as an answer: `own` says how many of Skysail's hold one, and only \
     that share counts in the bars",
];

/// Runs all of it.
///
/// # Errors
///
/// The peers, `wrk`, `h2load` or Skysail are missing, or Skysail does not answer.
pub fn measure(settings: &Settings) -> anyhow::Result<Rivals> {
    let driver = settings.peers.join("load/bench_all.py");
    ensure!(
        driver.is_file() && settings.peers.join("models/m1.onnx").is_file(),
        "{} holds no installed rivals: their install.sh lays them out in a folder",
        settings.peers.display()
    );
    for (tool, package) in [("wrk", "wrk"), ("h2load", "nghttp2-client")] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).output();
        ensure!(found.is_ok(), "there is no {tool}: it is in the Debian package {package}");
    }
    ensure!(settings.skysail.is_file(), "there is no {}", settings.skysail.display());
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    let installed = |name: &str| {
        let own = RIVALS.iter().find(|(rival, _)| *rival == name);
        own.is_some_and(|(_, venv)| settings.peers.join(venv).is_dir())
    };
    let rivals: Vec<&str> = match settings.rivals.as_slice() {
        [] => RIVALS.iter().map(|(name, _)| *name).filter(|name| installed(name)).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let absent: Vec<_> =
        RIVALS.iter().map(|(name, _)| *name).filter(|name| !rivals.contains(name)).collect();
    if !absent.is_empty() {
        notes.push(format!("not installed, or not asked for: {}", absent.join(", ")));
    }
    let server = Joining::new(settings)?;
    let own = own(settings, &server)?;
    let mut passes = Vec::new();
    for pass in 0..settings.repeats.max(1) {
        let all = pass == 0 || settings.thorough;
        let mut peers = vec![SERVER];
        peers.extend(rivals.iter().filter(|name| all || **name == TRITON));
        if pass % 2 == 1 {
            peers.reverse();
        }
        let models = if all { MODELS.as_slice() } else { &MODELS[..1] };
        let rows = drive(settings, &server, &peers, models, pass, &mut notes)?;
        ensure!(rows.iter().any(|row| row.peer == SERVER), "Skysail gave no result: see the notes");
        passes.push(rows);
    }
    Ok(Rivals { passes, own, notes })
}

/// A folder from which the driver can start Skysail.
struct Joining {
    folder: TempDir,
    grpc: u16,
    http: u16,
}

impl Joining {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let joining = Self { grpc: free()?, http: free()?, folder };
        fs::write(joining.config(), configuration(&settings.peers)?)?;
        let script = joining.folder.path().join("start.sh");
        fs::write(
            &script,
            format!(
                "#!/bin/sh\nexec '{}' serve --config '{}' --listen 127.0.0.1:{} --http 127.0.0.1:{} \
                 --data-dir '{}'\n",
                std::path::absolute(&settings.skysail)?.display(),
                joining.config().display(),
                joining.grpc,
                joining.http,
                joining.folder.path().join("data").display(),
            ),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(joining)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("skysail.toml")
    }
}

fn configuration(peers: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    for model in MODELS {
        let path = std::path::absolute(peers.join(format!("models/{model}.onnx")))?;
        text.push_str(&format!(
            r#"[[model]]
name = "{model}"
version = "1"
path = {path:?}
[[application]]
name = "{model}"
objective = "{}ms"
task = "opaque"
policy = {{ name = "static" }}
links = [{{ model = "{model}" }}]
cache = {{ enabled = false }}
"#,
            OBJECTIVE.as_millis()
        ));
    }
    Ok(text)
}

/// Starts the peers one after the other and loads them.
fn drive(
    settings: &Settings,
    server: &Joining,
    peers: &[&str],
    models: &[&str],
    pass: usize,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<Row>> {
    let depths: Vec<_> = settings.depths.iter().map(ToString::to_string).collect();
    let rest = format!("http://127.0.0.1:{}/v2/models/{{m}}/infer", server.http);
    let mut child = Command::new("python3")
        .arg("load/bench_all.py")
        .args([peers.join(","), models.join(",")])
        .current_dir(&settings.peers)
        .env("SERVER_DIR", server.folder.path())
        .env("SERVER_REST", rest)
        .env("SERVER_GRPC", format!("http://127.0.0.1:{}", server.grpc))
        .env("CONC", depths.join(","))
        .env("DUR", settings.seconds.to_string())
        .env("RUNS", "1")
        // Where somebody else is busy; `foreign` of a row says whether that helped.
        .env("QUIETWAIT", QUIET_WAIT.as_secs().to_string())
        .env("TAG", format!("skysail-bench-{pass}"))
        .stdout(Stdio::piped())
        .spawn()
        .context("starting python3")?;
    let output = child.stdout.take().context("its output is piped")?;
    let mut rows = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        match serde_json::from_str::<Row>(&line) {
            Ok(row) => rows.push(row),
            // It says which peer did not start, and which block failed.
            Err(_) => notes.push(format!("repeat {pass}: {line}")),
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "load/bench_all.py ended with {status}; is another one running?");
    Ok(rows)
}

/// Loads Skysail with our own driver.
fn own(settings: &Settings, server: &Joining) -> anyhow::Result<Vec<Own>> {
    let process = ServerProcess::skysail(&settings.skysail, &server.config(), None)?;
    let depth = settings.depths.iter().copied().max().unwrap_or(16);
    MODELS.iter().map(|model| own_of(settings, &process, model, depth)).collect()
}

fn own_of(
    settings: &Settings,
    process: &ServerProcess,
    model: &str,
    depth: usize,
) -> anyhow::Result<Own> {
    let load = |pace| {
        let duration = Duration::from_secs(settings.seconds);
        let workload = Workload::new(WorkloadConfig {
            application: model.into(),
            repeat: 256,
            seed: settings.seed,
            ..Default::default()
        })?;
        let server = process.address.clone();
        let plan = Plan {
            target: TargetConfig { server, api: Api::ModelInfer, connections: depth, streams: 1 },
            workload,
            pace,
            warm_up: duration / 4,
            duration,
            drain: Duration::from_secs(2),
            objective: OBJECTIVE,
            max_in_flight: 20_000,
            server_pid: Some(process.pid()),
            threads: settings.threads,
        };
        run(plan).with_context(|| format!("our own driver on {model}"))
    };
    let closed = load(Pace::Closed(depth))?.tally;
    ensure!(
        closed.good + closed.late > 0,
        "Skysail answers no ModelInfer of {model}: {:?}",
        closed.refusals
    );
    let rate = (closed.answered_per_s / 2.0).max(1.0);
    let arrivals = Arrivals::new(Shape::Poisson, rate, 1.0, settings.seed)?;
    let open = load(Pace::Open(Box::new(arrivals)))?.tally;
    Ok(Own {
        model: model.into(),
        closed_per_s: closed.answered_per_s,
        closed_answered: (closed.good + closed.late) as f64 / closed.offered.max(1) as f64,
        rate,
        p50_ms: open.latency_ms.p50,
        p99_ms: open.latency_ms.p99,
        goodput_ratio: open.goodput_ratio,
    })
}

impl Rivals {
    /// Each figure beside the bar that it must meet.
    pub fn bars(&self) -> Vec<Bar> {
        judge::bars(&self.passes, &self.own)
    }
}

/// Prints the rows and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, rivals: &Rivals, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{:<10}{:<9}{:<6}{:>6}{:>12}{:>10}{:>10}{:>12}{:>8}{:>9}",
        "peer",
        "protocol",
        "model",
        "depth",
        "per second",
        "p50 ms",
        "p99 ms",
        "CPU us",
        "errors",
        "others"
    )?;
    for row in rivals.passes.iter().flatten() {
        writeln!(
            out,
            "{:<10}{:<9}{:<6}{:>6}{:>12}{:>10}{:>10}{:>12}{:>8}{:>9}",
            row.peer,
            row.proto,
            row.model,
            row.conc,
            figure(row.rps),
            figure(row.p50_ms),
            figure(row.p99_ms),
            figure(row.srv_us),
            row.err,
            figure(row.foreign)
        )?;
    }
    for own in &rivals.own {
        let say = |value: Option<f64>| value.map_or_else(|| "none".into(), figure);
        writeln!(
            out,
            "own driver, {}: closed {} /s ({:.1} % answered); open at {} /s: p50 {} ms, p99 {} ms, \
             {:.1} % within 20 ms",
            own.model,
            figure(own.closed_per_s),
            own.closed_answered * 100.0,
            figure(own.rate),
            say(own.p50_ms),
            say(own.p99_ms),
            own.goodput_ratio * 100.0
        )?;
    }
    print_bars(out, bars)?;
    for note in &rivals.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
