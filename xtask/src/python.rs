//! Python, for wheels and for the Python client test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Done, Staging, only_file, replace_folder, sha256};
use crate::{apt, command};

const PROGRAM: &str = "python3";

/// The oldest that the pinned packages have wheels for.
const OLDEST: (u32, u32) = (3, 11);

/// The newest that they have wheels for.
const NEWEST: (u32, u32) = (3, 14);

/// A usable interpreter.
#[derive(Debug)]
pub(crate) struct Python {
    version: (u32, u32),
}

impl Python {
    /// The one on the path.
    ///
    /// # Errors
    /// If there is none, or none that works.
    pub(crate) fn find() -> Result<Self> {
        let ask = "import sys; print(*sys.version_info[:2])";
        let said = command::output(Command::new(PROGRAM).args(["-c", ask])).context(
            "python3 is needed, and there is none that works: install Python 3.11 or newer",
        )?;
        let mut numbers = said.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { version: (major, minor) }),
            _ => bail!("python3 does not tell its version: {said}"),
        }
    }

    /// The interpreter.
    pub(crate) fn command(&self) -> Command {
        Command::new(PROGRAM)
    }

    /// `pip`, or where it is missing (as on a fresh Debian) the copy that Debian ships as a wheel.
    pub(crate) fn pip(&self, staging: &Staging) -> Result<Command> {
        let mut pip = self.command();
        pip.args(["-m", "pip"]).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        if command::succeeds(self.command().args(["-m", "pip", "--version"])) {
            return Ok(pip);
        }
        let tree = apt::unpack("python3-pip-whl", staging.path()).context(
            "pip is missing (`python3 -m pip`), and Debian's copy of it cannot be had: install pip",
        )?;
        pip.env("PYTHONPATH", only_file(&tree.join("usr/share/python-wheels"), ".whl")?);
        Ok(pip)
    }
}

/// The folder for `PYTHONPATH`.
pub(crate) fn packages(setup: &Path) -> PathBuf {
    setup.join("python")
}

/// Puts the packages that the Python client test needs into `python/`.
pub(crate) fn ensure(root: &Path, setup: &Path) -> Result<Done> {
    let place = packages(setup);
    let requirements = root.join("tests/python/requirements.txt");
    let python = Python::find()?;
    let (major, minor) = python.version;
    if !(OLDEST..=NEWEST).contains(&python.version) {
        bail!("python3 is {major}.{minor}; the pinned packages have wheels for 3.11 to 3.14");
    }
    let sum = sha256(&requirements)?.with_context(|| format!("no {}", requirements.display()))?;
    // Written last, so it is there only beside a whole installation of just these packages.
    let installed = format!("python {major}.{minor}, requirements {sum}\n");
    if fs::read_to_string(place.join("installed")).is_ok_and(|text| text == installed) {
        return Ok(Done::Present(place));
    }

    let staging = Staging::new(setup)?;
    let finished = staging.folder("python")?;
    command::output(
        python
            .pip(&staging)?
            .args(["install", "--quiet", "--require-hashes", "--only-binary=:all:", "--no-compile"])
            .arg("--target")
            .arg(&finished)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    fs::write(finished.join("installed"), installed)?;
    replace_folder(&finished, &place)?;
    Ok(Done::Fetched(place, "tests/python/requirements.txt".into()))
}
