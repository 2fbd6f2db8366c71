//! Small real logs of bandit policies (Open Bandit Dataset, arXiv 2008.07146), out of the wheel of
//! the package that came with them (Apache-2.0).

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::command;
use crate::python::Python;
use crate::setup::{Done, Staging, holds, only_file, replace_folder};

const VERSION: &str = "0.4.1";

/// The wheel's sha256.
const WHEEL: &str = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208";

/// Campaigns that Thompson sampling logged, each with the sha256 of its rows.
const FILES: [(&str, &str); 3] = [
    ("all", "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106"),
    ("men", "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527"),
    ("women", "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8"),
];

/// Puts the logs into `obp/bts/`.
pub(crate) fn ensure(setup: &Path) -> Result<Done> {
    let place = setup.join("obp");
    if complete(&place)? {
        return Ok(Done::Present(place));
    }
    let staging = Staging::new(setup)?;
    let wheels = staging.folder("wheel")?;
    let python = Python::find()?;
    command::output(
        python
            .pip(&staging)?
            .args(["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&wheels)
            .arg(format!("obp=={VERSION}")),
    )?;
    let wheel = only_file(&wheels, ".whl")?;
    if !holds(&wheel, WHEEL)? {
        bail!("{} has not the sha256 {WHEEL}: not used", wheel.display());
    }

    let tree = staging.path().join("tree");
    command::output(python.command().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&tree))?;
    let finished = staging.folder("obp")?;
    fs::create_dir(finished.join("bts"))?;
    for (name, _) in FILES {
        let from = tree.join(format!("obp/dataset/obd/bts/{name}/{name}.csv"));
        fs::rename(from, finished.join(format!("bts/{name}.csv")))?;
    }
    if !complete(&finished)? {
        bail!("the wheel obp {VERSION} does not hold the expected logs");
    }
    replace_folder(&finished, &place)?;
    Ok(Done::Fetched(place, format!("the wheel obp {VERSION}")))
}

fn complete(folder: &Path) -> Result<bool> {
    for (name, sum) in FILES {
        if !holds(&folder.join(format!("bts/{name}.csv")), sum)? {
            return Ok(false);
        }
    }
    Ok(true)
}
