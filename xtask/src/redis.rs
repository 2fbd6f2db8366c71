//! `redis-server` and `redis-cli` for the tests, out of Debian's packages.
//!
//! Their versions change with security updates, so apt's signatures vouch for them and no sum is
//! pinned. Of the libraries they need, those that the machine lacks come along.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::setup::{Done, Staging, replace_folder};
use crate::{apt, command};

/// Package and program.
const PROGRAMS: [(&str, &str); 2] =
    [("redis-server", "redis-server"), ("redis-tools", "redis-cli")];

/// Puts the programs into `redis/bin/`, and libraries that the machine lacks into `redis/lib/`.
pub(crate) fn ensure(setup: &Path) -> Result<Done> {
    let place = setup.join("redis");
    if runs(&place) {
        return Ok(Done::Present(place));
    }
    let staging = Staging::new(setup)?;
    let finished = staging.folder("redis")?;
    fetch(&staging, &finished).map_err(|error| anyhow!("{error:#}\n{}", alternatives(&place)))?;
    replace_folder(&finished, &place)?;
    Ok(Done::Fetched(place, "Debian's packages redis-server and redis-tools".into()))
}

fn fetch(staging: &Staging, finished: &Path) -> Result<()> {
    for folder in ["bin", "lib"] {
        fs::create_dir_all(finished.join(folder))?;
    }
    let mut trees = Vec::new();
    for (package, _) in PROGRAMS {
        trees.push(apt::unpack(package, staging.path())?);
    }
    for (_, program) in PROGRAMS {
        // A program may be a link into the other package, so the file behind it is taken.
        let source = trees
            .iter()
            .find_map(|tree| real_file(&trees, &tree.join("usr/bin").join(program)))
            .with_context(|| format!("no {program} in Debian's packages"))?;
        fs::copy(&source, finished.join("bin").join(program))?;
    }
    let mut missing = missing_libraries(finished)?;
    for package in apt::dependencies("redis-tools", staging.path())? {
        // The C library is the system's own, or nothing would run.
        if missing.is_empty() || !package.starts_with("lib") || package.starts_with("libc6") {
            continue;
        }
        let tree = apt::unpack(&package, staging.path())?;
        copy_libraries(&tree, &missing, &finished.join("lib"))?;
        missing = missing_libraries(finished)?;
    }
    if !runs(finished) {
        bail!("Debian's redis-server does not run here; libraries it lacks: {missing:?}");
    }
    Ok(())
}

/// The file that a path of an unpacked package leads to, in whichever package it is.
fn real_file(trees: &[PathBuf], path: &Path) -> Option<PathBuf> {
    let target = match fs::read_link(path) {
        Ok(target) => target,
        Err(_) => return path.is_file().then(|| path.to_owned()),
    };
    let name = target.file_name()?;
    trees.iter().map(|tree| tree.join("usr/bin").join(name)).find(|path| path.is_file())
}

fn copy_libraries(tree: &Path, wanted: &[String], to: &Path) -> Result<()> {
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if let Some(name) = entry.file_name().to_str()
                && wanted.iter().any(|wanted| wanted == name)
            {
                // Follows the link from the short name to the library.
                fs::copy(entry.path(), to.join(name))?;
            }
        }
    }
    Ok(())
}

/// Libraries that neither the machine nor `lib/` has.
fn missing_libraries(redis: &Path) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (_, program) in PROGRAMS {
        let said =
            command::output(in_folder(Command::new("ldd"), redis).arg(file(redis, program)))?;
        let lines = said.lines().filter(|line| line.ends_with("not found"));
        missing.extend(lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
    }
    Ok(missing)
}

fn runs(redis: &Path) -> bool {
    PROGRAMS.iter().all(|(_, program)| {
        let command = Command::new(file(redis, program));
        command::succeeds(in_folder(command, redis).arg("--version"))
    })
}

fn file(redis: &Path, program: &str) -> PathBuf {
    redis.join("bin").join(program)
}

fn in_folder(mut command: Command, redis: &Path) -> Command {
    command.env("LD_LIBRARY_PATH", redis.join("lib"));
    command
}

fn alternatives(place: &Path) -> String {
    format!(
        "Instead, install Redis 6 or newer some other way and put links to redis-server and \
         redis-cli into {}",
        place.join("bin").display()
    )
}
