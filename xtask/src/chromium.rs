//! A browser without a screen, and its driver, for the test of the page, out of Debian's packages.
//!
//! Its version changes with security updates, so apt's signatures vouch for it and no sum is
//! pinned. What it needs and the machine lacks comes along.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::setup::{Done, Staging, replace_folder};
use crate::{apt, command};

/// The name under which a program is put into `bin/`, and where its package has it.
const PROGRAMS: [(&str, &str); 2] = [
    ("chromium", "usr/lib/chromium/chromium-headless-shell"),
    ("chromedriver", "usr/bin/chromedriver"),
];

/// Fonts of the machine, and those that came along.
const FONTS: &str = r#"<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <include ignore_missing="yes">/etc/fonts/fonts.conf</include>
  <dir prefix="relative">tree/usr/share/fonts</dir>
</fontconfig>
"#;

/// Puts `chromium` and `chromedriver` into `chromium/bin/`.
pub(crate) fn ensure(setup: &Path) -> Result<Done> {
    let place = setup.join("chromium");
    if runs(&place) {
        return Ok(Done::Present(place));
    }
    let staging = Staging::new(setup)?;
    let finished = staging.folder("chromium")?;
    fetch(&staging, &finished).map_err(|error| anyhow!("{error:#}\n{}", alternatives(&place)))?;
    replace_folder(&finished, &place)?;
    let packages = "Debian's packages chromium-headless-shell and chromium-driver";
    Ok(Done::Fetched(place, packages.into()))
}

fn fetch(staging: &Staging, finished: &Path) -> Result<()> {
    let tree = finished.join("tree");
    apt::unpack_with_dependencies("chromium-headless-shell", staging.path(), &tree)?;
    // The driver's package asks for the browser with its windows, which it does not need.
    let driver = apt::unpack("chromium-driver", staging.path())?;
    for (_, program) in PROGRAMS {
        let (from, to) = (driver.join(program), tree.join(program));
        if !to.is_file() {
            let folder = to.parent().context("a program is in a folder")?;
            fs::create_dir_all(folder)?;
            fs::copy(&from, &to).with_context(|| format!("no {program} in Debian's packages"))?;
        }
    }
    fs::write(finished.join("fonts.conf"), FONTS)?;
    fs::create_dir_all(finished.join("bin"))?;
    let libraries = library_folders(finished, &tree)?;
    for (name, program) in PROGRAMS {
        let script = finished.join("bin").join(name);
        fs::write(&script, launcher(&libraries, program))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    if !runs(finished) {
        let mut chromium = Command::new(finished.join("bin/chromium"));
        command::output(chromium.arg("--version"))?;
        bail!("Debian's chromedriver does not run here");
    }
    Ok(())
}

/// Starts a program with the libraries and fonts that lie beside it, wherever that is.
fn launcher(libraries: &[String], program: &str) -> String {
    let folders: Vec<_> = libraries.iter().map(|folder| format!("$here/{folder}")).collect();
    format!(
        r#"#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
export LD_LIBRARY_PATH="{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/tree/{program}" "$@"
"#,
        folders.join(":")
    )
}

/// The folders that hold libraries, seen from `base`.
fn library_folders(base: &Path, tree: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![tree.join("usr/lib"), tree.join("lib")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut holds = false;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            holds |= entry.file_name().to_string_lossy().contains(".so");
        }
        if holds {
            found.push(folder.strip_prefix(base)?.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}

fn runs(place: &Path) -> bool {
    let program = |name| place.join("bin").join(name);
    PROGRAMS.iter().all(|(name, _)| command::succeeds(Command::new(program(name)).arg("--version")))
}

fn alternatives(place: &Path) -> String {
    let bin: PathBuf = place.join("bin");
    format!(
        "Instead, install chrome-headless-shell and the chromedriver of its version some other way \
         and put links to them into {}, as chromium and chromedriver",
        bin.display()
    )
}
