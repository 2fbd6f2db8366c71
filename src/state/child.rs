//! Runs one test of this binary in a process of its own and kills it: for tests that must show
//! what survives kill -9.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const DIRECTORY: &str = "SKYSAIL_TEST_CHILD_DIRECTORY";
const ROUND: &str = "SKYSAIL_TEST_CHILD_ROUND";

/// In the child: the directory to work in, and which round it is. `None` in a plain test run.
pub(crate) fn task() -> Option<(PathBuf, u64)> {
    let directory = std::env::var_os(DIRECTORY)?;
    Some((directory.into(), std::env::var(ROUND).unwrap().parse().unwrap()))
}

/// In the child: says that something is done and must not be lost.
pub(crate) fn acknowledge(what: &str) {
    // One write, so that a kill leaves a line whole or not at all.
    std::io::stdout().lock().write_all(format!("\nack {what}\n").as_bytes()).unwrap();
}

/// Runs `test` until it has acknowledged so many times, kills it with SIGKILL, and returns all
/// that it acknowledged before it was dead.
pub(crate) fn killed(test: &str, directory: &Path, round: u64, after: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(what) = line.unwrap().strip_prefix("ack ") {
            acknowledged.push(what.to_owned());
            if acknowledged.len() == after {
                child.kill().unwrap();
            }
        }
    }
    let status = child.wait().unwrap();
    assert!(acknowledged.len() >= after, "the child ended by itself: {status}");
    acknowledged
}
