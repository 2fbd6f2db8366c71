//! `cargo xtask`: sets the project up, demonstrates it, tests it.
//!
//! A developer's tool beside the product; no request passes through it, and no other crate knows it.
//!
//! # Layout
//!
//! - [`setup`]: what is fetched and where it lies; [`onnxruntime`], [`fashion_mnist`], [`redis`],
//!   [`chromium`], [`open_bandit`] and [`python`] each look after one thing, [`apt`] and [`command`] are what they share
//! - [`checks`]: the list of checks that `cargo xtask test` runs
//! - [`sizes`]: the size check, one of them
//!
//! It does not build release artefacts, and never needs root.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: these lines are its output"
)]

mod apt;
mod checks;
mod chromium;
mod command;
mod fashion_mnist;
mod onnxruntime;
mod open_bandit;
mod python;
mod redis;
mod setup;
mod sizes;
mod workspace;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use setup::Parts;
use workspace::Workspace;

const USAGE: &str = "\
cargo xtask COMMAND

  setup [--all]  fetch what is missing: ONNX Runtime, Fashion-MNIST; for the tests Redis, Python packages, logs;
                 --all: MLServer, KServe's SDK, Rotel and Chromium, too
  demo [ARG]...  set up what the demo needs, build skysail and run `skysail demo ARG...`
  test [--all]   set up everything, then run every check and test; --all: what is slow or large, too
  check-sizes    only the check of file sizes

Everything fetched lies in the cargo target directory, under setup/. Nothing needs root.";

enum Task {
    Help,
    Setup { all: bool },
    Demo(Vec<OsString>),
    Test { all: bool },
    CheckSizes,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(task) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match perform(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the arguments ask for; `None` if they make no sense.
fn parse(arguments: &[OsString]) -> Option<Task> {
    let (name, rest) = arguments.split_first()?;
    match (name.to_str()?, rest) {
        ("help" | "--help" | "-h", _) => Some(Task::Help),
        ("setup", []) => Some(Task::Setup { all: false }),
        ("setup", [flag]) if flag == "--all" => Some(Task::Setup { all: true }),
        ("demo", _) => {
            // Cargo hands a `--` on.
            let rest = rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest);
            Some(Task::Demo(rest.to_vec()))
        }
        ("test", []) => Some(Task::Test { all: false }),
        ("test", [flag]) if flag == "--all" => Some(Task::Test { all: true }),
        ("check-sizes", []) => Some(Task::CheckSizes),
        _ => None,
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Help => println!("{USAGE}"),
        Task::Setup { all } => {
            let parts = if all { Parts::All } else { Parts::Tests };
            setup::run(&Workspace::locate()?, parts)?;
        }
        Task::Demo(arguments) => demo(&Workspace::locate()?, &arguments)?,
        Task::Test { all } => checks::run(&Workspace::locate()?, all)?,
        Task::CheckSizes => sizes::check(&Workspace::locate()?.root)?,
    }
    Ok(())
}

/// Becomes `skysail demo`, so that its exit code and the terminal's signals are its own.
fn demo(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    setup::run(workspace, Parts::Demo)?;
    println!("build: skysail, optimised (the first time takes minutes)");
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--package", "skysail"]);
    command::attached(&mut build)?;

    let binary = workspace.target.join("release/skysail");
    let error =
        Command::new(&binary).arg("demo").args(arguments).current_dir(&workspace.root).exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}
