//! Fetches what the product and its tests need and no registry of Rust has.
//!
//! What is there and right stays; what is fetched is checked, unpacked in a staging folder and
//! renamed into place, so that an interruption leaves nothing half-made.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::python::{CLIENTS, COLLECTOR, KSERVE, MLSERVER};
use crate::workspace::Workspace;
use crate::{chromium, fashion_mnist, onnxruntime, open_bandit, python, redis};

/// How much to set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parts {
    /// What `skysail demo` needs.
    Demo,
    /// What the tests need too.
    Tests,
    /// What the tests need that are slow or large.
    All,
}

/// Sets up what is missing; says in a line each what it did.
pub(crate) fn run(workspace: &Workspace, parts: Parts) -> Result<()> {
    let folder = workspace.setup();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Two set-ups at once would clear each other's staging folder; the lock ends with the process.
    let lock = File::create(folder.join(".lock"))?;
    if lock.try_lock().is_err() {
        println!("setup: waiting for another one to end");
        lock.lock().context("cannot lock the set-up folder")?;
    }
    timed("ONNX Runtime", || onnxruntime::ensure(&folder))?;
    timed("Fashion-MNIST", || fashion_mnist::ensure(&folder))?;
    if parts >= Parts::Tests {
        timed("Redis", || redis::ensure(&folder))?;
        timed("Open Bandit logs", || open_bandit::ensure(&folder))?;
        timed("Python packages", || python::ensure(&CLIENTS, &workspace.root, &folder))?;
    }
    if parts == Parts::All {
        timed("Chromium", || chromium::ensure(&folder))?;
        timed("MLServer", || python::ensure(&MLSERVER, &workspace.root, &folder))?;
        timed("KServe's SDK", || python::ensure(&KSERVE, &workspace.root, &folder))?;
        timed("Rotel", || python::ensure(&COLLECTOR, &workspace.root, &folder))?;
    }
    Ok(())
}

/// What `ensure` found or did, for the line that is printed.
#[derive(Debug)]
pub(crate) enum Done {
    /// It was there and right.
    Present(PathBuf),
    /// It was fetched, or copied, from the place named.
    Fetched(PathBuf, String),
}

fn timed(what: &str, ensure: impl FnOnce() -> Result<Done>) -> Result<()> {
    let start = Instant::now();
    let done = ensure().with_context(|| format!("setup of {what}"))?;
    let seconds = start.elapsed().as_secs_f64();
    match done {
        Done::Present(path) => {
            println!("setup: {what}: present in {} ({seconds:.1} s)", path.display())
        }
        Done::Fetched(path, from) => {
            println!("setup: {what}: from {from} into {} ({seconds:.1} s)", path.display());
        }
    }
    Ok(())
}

/// An empty folder beside the final ones, removed when dropped; same file system, so that a
/// rename out of it is atomic.
#[derive(Debug)]
pub(crate) struct Staging(PathBuf);

impl Staging {
    /// Clears what an interrupted run left.
    pub(crate) fn new(setup: &Path) -> Result<Self> {
        let path = setup.join(".staging");
        remove_folder(&path)?;
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Best effort: the next run clears it otherwise.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Puts a finished folder where an older one may be.
pub(crate) fn replace_folder(finished: &Path, place: &Path) -> Result<()> {
    remove_folder(place)?;
    fs::rename(finished, place).with_context(|| format!("cannot put {} in place", place.display()))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The sha256 of a file in hexadecimal; `None` if it is not there.
pub(crate) fn sha256(path: &Path) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(format!("{:x}", hasher.finalize())))
}

/// Whether the file is there with this content.
pub(crate) fn holds(path: &Path, expected: &str) -> Result<bool> {
    Ok(sha256(path)?.is_some_and(|got| got == expected))
}

/// The only file of this folder whose name ends so.
pub(crate) fn only_file(folder: &Path, ending: &str) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with(ending))
        .with_context(|| format!("no *{ending} in {}", folder.display()))
}
