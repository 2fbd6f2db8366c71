//! Debian packages without root: private package lists, `apt-get download`, `dpkg-deb -x`.
//!
//! Content is vouched for by apt's signatures; callers check sums of their own where a package
//! never changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;
use crate::setup::only_file;

/// The packages that one depends on by name; alternatives and what these depend on are left out.
///
/// # Errors
/// As [`unpack`], after which it is to be called.
pub(crate) fn dependencies(package: &str, staging: &Path) -> Result<Vec<String>> {
    let settings = private_settings(staging)?;
    let mut cache = Command::new("apt-cache");
    cache.arg("--config-file").arg(settings).args(["depends", package]);
    let said = command::output(&mut cache)?;
    let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.map(str::to_owned).collect())
}

/// Downloads a package into `staging` and unpacks it there; returns the unpacked tree.
///
/// # Errors
/// Without apt or dpkg, and with apt's own words where it refuses.
pub(crate) fn unpack(package: &str, staging: &Path) -> Result<PathBuf> {
    let (settings, updated) = update(package, staging)?;
    let debs = staging.join(format!("{package}-deb"));
    fs::create_dir_all(&debs)?;
    let mut download = Command::new("apt-get");
    download.arg("--config-file").arg(settings).args(["download", package]).current_dir(&debs);
    fetch(&mut download, updated)?;
    let tree = staging.join(package);
    command::output(
        Command::new("dpkg-deb").arg("--extract").arg(only_file(&debs, ".deb")?).arg(&tree),
    )?;
    Ok(tree)
}

/// Downloads a package with all that it needs and the machine lacks, and unpacks them into `tree`.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn unpack_with_dependencies(package: &str, staging: &Path, tree: &Path) -> Result<()> {
    let (settings, updated) = update(package, staging)?;
    let mut install = Command::new("apt-get");
    install.arg("--config-file").arg(settings);
    // Without root there is no lock to be had, and without an installation none is needed.
    install.args(["--option", "Debug::NoLocking=true", "install", "--yes", "--download-only"]);
    install.args(["--reinstall", "--no-install-recommends", package]);
    fetch(&mut install, updated)?;
    for entry in fs::read_dir(staging.join("apt/cache/archives"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The C library is the system's own, or nothing would run.
        if name.ends_with(".deb") && !name.starts_with("libc6_") {
            command::output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(tree))?;
        }
    }
    Ok(())
}

/// The settings, and how the update of the lists went.
fn update(package: &str, staging: &Path) -> Result<(PathBuf, Result<String>)> {
    for program in ["apt-get", "dpkg-deb"] {
        if !command::exists(program) {
            bail!("{program} is missing; it is how Debian's package {package} is fetched");
        }
    }
    let settings = private_settings(staging)?;
    let mut update = Command::new("apt-get");
    let updated = command::output(update.arg("--config-file").arg(&settings).arg("update"));
    Ok((settings, updated))
}

/// A foreign source in the user's list may fail while Debian's is well: only the download counts.
fn fetch(download: &mut Command, updated: Result<String>) -> Result<()> {
    match (command::output(download), updated) {
        (Ok(_), _) => Ok(()),
        (Err(refused), Ok(_)) => Err(refused),
        (Err(refused), Err(update)) => Err(refused.context(update)),
    }
}

/// Settings on top of the machine's own, whose sources, proxies and keys stay in force.
fn private_settings(staging: &Path) -> Result<PathBuf> {
    let apt = staging.join("apt");
    fs::create_dir_all(apt.join("lists/partial"))?;
    fs::create_dir_all(apt.join("cache/archives/partial"))?;
    let folder = apt.display();
    // Root's sandbox user could not write here; hooks are for the system's cache; and of the
    // indices only the package lists are of use.
    let text = format!(
        r#"Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
APT::Sandbox::User "root";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"#
    );
    let path = apt.join("apt.conf");
    fs::write(&path, text)?;
    Ok(path)
}
