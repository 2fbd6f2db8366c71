//! `skysail-bench all`.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::{Context, ensure};
use clap::Args;

use super::Common;
use crate::{
    process::Programs,
    summary::{Part, Reported, Summary},
};

/// Options of `all`.
#[derive(Debug, Args)]
pub struct AllArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Subcommands, comma-separated; all unless given.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
}

/// In this order: the quick ones first, so that a broken set-up shows early.
const SUBCOMMANDS: [&str; 11] = [
    "early-drop",
    "overhead",
    "limits",
    "cache",
    "batching",
    "selection",
    "personalisation",
    "stragglers",
    "growth",
    "soak",
    "rivals",
];

impl AllArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.common.json.is_none(),
            "all writes a file per subcommand: name a folder with --out"
        );
        let unknown = self.only.iter().find(|name| !SUBCOMMANDS.contains(&name.as_str()));
        ensure!(
            unknown.is_none(),
            "--only: expected some of {}, got {unknown:?}",
            SUBCOMMANDS.join(", ")
        );
        let began = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let today = began.split('T').next().unwrap_or_default();
        let default = || Path::new("bench/results").join(today);
        let folder = self.common.out.clone().unwrap_or_else(default);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let programs = Programs::find(self.skysail.clone())?;
        let mut summary = Summary {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            seed: self.common.seed,
            began,
            parts: Vec::new(),
            left_out: self.left_out(),
        };
        for name in SUBCOMMANDS {
            let asked = self.only.is_empty() || self.only.iter().any(|only| only == name);
            if !asked || (name == "rivals" && self.common.peers.is_none()) {
                continue;
            }
            writeln!(io::stdout().lock(), "\n== {name}")?;
            summary.parts.push(self.part(&programs, name, &folder)?);
            // After each, so that a run that is broken off leaves what it had.
            fs::write(folder.join("summary.md"), summary.to_string())?;
        }
        let mut out = io::stdout().lock();
        let (held, missed, unmeasured) = summary.counts();
        writeln!(
            out,
            "\n{held} bars hold, {missed} do not, {unmeasured} were not measured: {}",
            folder.join("summary.md").display()
        )?;
        for reason in &summary.left_out {
            writeln!(out, "left out: {reason}")?;
        }
        let failed = summary.failed().join(", ");
        ensure!(
            failed.is_empty(),
            "failed: {failed}; {} says why",
            folder.join("summary.md").display()
        );
        Ok(())
    }

    fn left_out(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.common.peers.is_none() {
            reasons.push("rivals: --peers DIR was not given".to_owned());
        }
        if self.common.data.is_none() {
            let bars = "selection's bars on Clipper's recorded scores: --data DIR was not given";
            reasons.push(bars.to_owned());
        }
        if !self.only.is_empty() {
            reasons.push(format!("all but {}: --only", self.only.join(", ")));
        }
        reasons
    }

    /// Runs one subcommand in a process of its own: what it leaves behind ends with it.
    fn part(&self, programs: &Programs, name: &'static str, folder: &Path) -> anyhow::Result<Part> {
        let json = folder.join(format!("{name}.json"));
        // One of an earlier run must not pass for this one's.
        if json.exists() {
            fs::remove_file(&json)?;
        }
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(&programs.bench);
        command.arg(name).arg("--out").arg(folder);
        command.args(["--seed", &self.common.seed.to_string()]);
        command.args(self.common.choose(Some("--quick"), None, Some("--full")));
        for (flag, value) in [("--data", &self.common.data), ("--peers", &self.common.peers)] {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        }
        if name != "early-drop" {
            command.arg("--skysail").arg(&programs.skysail);
        }
        if name == "overhead" {
            command.args(["--config", "bench/scenarios/one-model.toml"]);
            command.args(["--model", "models/fashion-mnist/logreg.onnx"]);
        }
        let status = command.stderr(File::create(log.path())?).status();
        let status = status.with_context(|| format!("starting {name}"))?;
        let reported = json.exists().then(|| Reported::read(&json)).transpose()?;
        let fault = (!status.success()).then(|| {
            let said = fs::read_to_string(log.path()).unwrap_or_default();
            let line = said.lines().rev().find(|line| !line.trim().is_empty());
            format!("{status}: {}", line.unwrap_or("it said nothing"))
        });
        if let Some(fault) = &fault {
            writeln!(io::stdout().lock(), "{name} failed: {fault}")?;
        }
        Ok(Part { name, reported, fault })
    }
}
