//! The Fashion-MNIST images and labels (MIT licence), out of Debian's package of them.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::apt;
use crate::setup::{Done, Staging, holds};

const PACKAGE: &str = "dataset-fashion-mnist";

/// Where that package keeps its files, and where they are if someone has installed it.
const FOLDER_IN_PACKAGE: &str = "usr/share/datasets/fashion-mnist";

/// Names, and sha256 of the raw files: the compressed ones differ between distributors.
const FILES: [(&str, &str); 4] = [
    ("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    ("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    ("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
];

/// Puts the four raw files into `fashion-mnist/`.
pub(crate) fn ensure(setup: &Path) -> Result<Done> {
    let place = setup.join("fashion-mnist");
    if complete(&place)? {
        return Ok(Done::Present(place));
    }
    fs::create_dir_all(&place)?;
    let staging = Staging::new(setup)?;

    let installed = Path::new("/").join(FOLDER_IN_PACKAGE);
    if take(&place, &place, &staging)? {
        return Ok(Done::Fetched(place, "the compressed files there".into()));
    }
    if take(&installed, &place, &staging)? {
        return Ok(Done::Fetched(place, "the installed package".into()));
    }
    // The cause first, then what the user can do instead.
    let tree = apt::unpack(PACKAGE, staging.path())
        .map_err(|error| anyhow!("{error:#}\n{}", alternatives(&place)))?;
    if !take(&tree.join(FOLDER_IN_PACKAGE), &place, &staging)? {
        bail!(
            "Debian's package {PACKAGE} does not hold the expected files\n{}",
            alternatives(&place)
        );
    }
    Ok(Done::Fetched(place, format!("Debian's package {PACKAGE}")))
}

fn complete(folder: &Path) -> Result<bool> {
    for (name, sum) in FILES {
        if !holds(&folder.join(name), sum)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Unpacks and checks the four `.gz` of a folder; `false` if one of them is missing.
fn take(folder: &Path, place: &Path, staging: &Staging) -> Result<bool> {
    let compressed = FILES.map(|(name, _)| folder.join(format!("{name}.gz")));
    if !compressed.iter().all(|path| path.exists()) {
        return Ok(false);
    }
    let raw = staging.folder("raw")?;
    for ((name, sum), source) in FILES.iter().zip(&compressed) {
        let unpacked = raw.join(name);
        gunzip(source, &unpacked)?;
        if !holds(&unpacked, sum)? {
            bail!("{} unpacks to other content than sha256 {sum}: not used", source.display());
        }
    }
    for (name, _) in FILES {
        fs::rename(raw.join(name), place.join(name))?;
    }
    Ok(true)
}

fn gunzip(source: &Path, target: &Path) -> Result<()> {
    let status = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .stdin(File::open(source)?)
        .stdout(File::create(target)?)
        .stderr(Stdio::inherit())
        .status()
        .context("cannot start gzip")?;
    if !status.success() {
        bail!("gzip cannot unpack {}", source.display());
    }
    Ok(())
}

fn alternatives(place: &Path) -> String {
    let names = FILES.map(|(name, _)| name).join(", ");
    format!(
        "Instead, install {PACKAGE} some other way, or copy these four files, raw or all as .gz, into\n{}:\n\
         {names}\n(their content is checked by sha256)",
        place.display()
    )
}
