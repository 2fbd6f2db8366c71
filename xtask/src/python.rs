//! Python, for wheels and for the tests that need packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Done, Staging, only_file, replace_folder, sha256};
use crate::{apt, command};

const PROGRAM: &str = "python3";

/// The oldest that the pinned packages have wheels for.
const OLDEST: (u32, u32) = (3, 11);

/// Packages that stand in a folder of their own, since sets differ in what they can stand beside.
#[derive(Debug)]
pub(crate) struct Packages {
    /// Of the folder for `PYTHONPATH`, in the set-up folder.
    folder: &'static str,
    /// Names and hashes, in the checkout.
    requirements: &'static str,
    /// The newest Python that they have wheels for.
    newest: (u32, u32),
    /// They are started often, from processes that write no bytecode.
    compile: bool,
}

/// For the Python client and the Python containers.
pub(crate) const CLIENTS: Packages = Packages {
    folder: "python",
    requirements: "tests/python/requirements.txt",
    newest: (3, 14),
    compile: false,
};

/// A server of the Open Inference Protocol that we did not write.
pub(crate) const MLSERVER: Packages = Packages {
    folder: "mlserver",
    requirements: "tests/python/mlserver-requirements.txt",
    newest: (3, 12),
    compile: true,
};

/// A client of it that cannot be imported beside that of [`CLIENTS`]: both register its messages.
pub(crate) const KSERVE: Packages = Packages {
    folder: "kserve",
    requirements: "tests/python/kserve-requirements.txt",
    newest: (3, 13),
    compile: true,
};

/// A collector of traces, which comes as a wheel.
pub(crate) const COLLECTOR: Packages = Packages {
    folder: "collector",
    requirements: "tests/python/collector-requirements.txt",
    newest: (3, 13),
    compile: false,
};

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
    setup.join(CLIENTS.folder)
}

/// Puts the packages into their folder.
pub(crate) fn ensure(packages: &Packages, root: &Path, setup: &Path) -> Result<Done> {
    let place = setup.join(packages.folder);
    let requirements = root.join(packages.requirements);
    let python = Python::find()?;
    let (major, minor) = python.version;
    if !(OLDEST..=packages.newest).contains(&python.version) {
        bail!(
            "python3 is {major}.{minor}; the packages of {} have wheels for 3.11 to {}.{}: put \
             another python3 first on the path",
            packages.requirements,
            packages.newest.0,
            packages.newest.1
        );
    }
    let sum = sha256(&requirements)?.with_context(|| format!("no {}", requirements.display()))?;
    // Written last, so it is there only beside a whole installation of just these packages.
    let installed = format!("python {major}.{minor}, requirements {sum}\n");
    if fs::read_to_string(place.join("installed")).is_ok_and(|text| text == installed) {
        return Ok(Done::Present(place));
    }

    let staging = Staging::new(setup)?;
    let finished = staging.folder(packages.folder)?;
    let mut pip = python.pip(&staging)?;
    pip.args(["install", "--quiet", "--require-hashes", "--only-binary=:all:"]);
    if !packages.compile {
        pip.arg("--no-compile");
    }
    pip.arg("--target").arg(&finished).arg("--requirement").arg(&requirements);
    command::output(&mut pip)?;
    fs::write(finished.join("installed"), installed)?;
    replace_folder(&finished, &place)?;
    Ok(Done::Fetched(place, packages.requirements.into()))
}
