//! What `cargo xtask test` runs, in order: what fails soonest comes first.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{attached, succeeds};
use crate::python::{self, Python};
use crate::setup::{self, Parts};
use crate::sizes;
use crate::workspace::Workspace;

/// A check: its headline, and what it runs.
type Check = (&'static str, fn(&Workspace) -> Result<()>);

const CHECKS: [Check; 10] = [
    ("format", |workspace| cargo(workspace, "fmt --all --check")),
    ("file sizes", |workspace| sizes::check(&workspace.root)),
    ("lints", |workspace| cargo(workspace, "clippy --workspace --all-targets -- -D warnings")),
    // The whole-system tests start the binary that this builds.
    ("build", |workspace| cargo(workspace, "build --workspace")),
    ("tests", tests),
    ("documentation tests", |workspace| cargo(workspace, "test --workspace --doc")),
    ("documentation", documentation),
    ("Python client", python_client),
    ("foreign clients", foreign_clients),
    ("Python containers", python_containers),
];

/// What `--all` adds: it is slow or large.
const MORE: [Check; 1] = [("Redis Cluster, MLServer, KServe's SDK, Rotel and Chromium", left_out)];

/// Sets everything up and runs all checks; the first that fails ends it.
///
/// # Errors
/// Names the check that failed and those that were not run.
pub(crate) fn run(workspace: &Workspace, all: bool) -> Result<()> {
    let start = Instant::now();
    setup::run(workspace, if all { Parts::All } else { Parts::Tests })?;
    let checks: Vec<&Check> = CHECKS.iter().chain(MORE.iter().filter(|_| all)).collect();
    for (index, (name, check)) in checks.iter().enumerate() {
        println!("\n== {name}");
        let begun = Instant::now();
        if let Err(error) = check(workspace) {
            let left: Vec<&str> = checks[index + 1..].iter().map(|(name, _)| *name).collect();
            println!("\nchecks: {index} passed, 1 failed, {} skipped", left.len());
            if !left.is_empty() {
                println!("not run: {}", left.join(", "));
            }
            return Err(error).with_context(|| format!("the check \"{name}\" failed"));
        }
        println!("== {name}: passed ({:.1} s)", begun.elapsed().as_secs_f64());
    }
    println!("\nall checks passed in {:.0} s", start.elapsed().as_secs_f64());
    println!("checks: {} passed, 0 failed", checks.len());
    Ok(())
}

fn cargo(workspace: &Workspace, arguments: &str) -> Result<()> {
    attached(workspace.cargo().args(arguments.split(' ')))
}

fn tests(workspace: &Workspace) -> Result<()> {
    if succeeds(workspace.cargo().args(["nextest", "--version"])) {
        cargo(workspace, "nextest run --workspace")
    } else {
        println!("cargo-nextest is not installed; cargo test runs them instead");
        cargo(workspace, "test --workspace --lib --bins --tests")
    }
}

/// The tests that are left out otherwise: of three masters, of a server and of a client that we did
/// not write.
fn left_out(workspace: &Workspace) -> Result<()> {
    cargo(workspace, "test --package skysail-cache --package skysail --tests -- --ignored")
}

fn documentation(workspace: &Workspace) -> Result<()> {
    attached(
        workspace
            .cargo()
            .args(["doc", "--no-deps", "--workspace"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// A client made from the `.proto` files alone, against the server as it was built above.
fn python_client(workspace: &Workspace) -> Result<()> {
    let binary = workspace.target.join("debug/skysail");
    if !binary.exists() {
        bail!("no {}", binary.display());
    }
    attached(
        python(workspace, &[])?
            .arg("tests/python/against_server.py")
            .arg("--binary")
            .arg(binary)
            .args(["--config", "models/fashion-mnist/skysail.toml"])
            .args(["--application", "fashion"])
            .arg("--data")
            .arg(workspace.setup().join("fashion-mnist")),
    )
}

/// `skysail container` and `skysail serve` through clients that we did not write.
fn foreign_clients(workspace: &Workspace) -> Result<()> {
    for script in ["tests/python/container.py", "tests/python/open_inference_grpc.py"] {
        attached(
            python(workspace, &[])?
                .arg(script)
                .arg("--binary")
                .arg(workspace.target.join("debug/skysail"))
                .args(["--model", "tests/models/root.onnx"]),
        )?;
    }
    Ok(())
}

/// The package in `containers/python`, by its own tests.
fn python_containers(workspace: &Workspace) -> Result<()> {
    attached(python(workspace, &["containers/python/src"])?.args([
        "-m",
        "unittest",
        "discover",
        "-s",
        "containers/python/tests",
    ]))
}

/// An interpreter in the checkout that finds the installed packages, and those of `sources`.
fn python(workspace: &Workspace, sources: &[&str]) -> Result<std::process::Command> {
    let mut path: Vec<_> = sources.iter().map(|source| workspace.root.join(source)).collect();
    path.push(python::packages(&workspace.setup()));
    let mut command = Python::find()?.command();
    command
        .env("PYTHONPATH", std::env::join_paths(path)?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&workspace.root);
    Ok(command)
}
