//! ONNX Runtime, out of the wheel that its makers publish for Python.
//!
//! The product looks for `libonnxruntime.so` in `../setup/onnxruntime` from its own folder, so no
//! variable needs to be set.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::command;
use crate::python::Python;
use crate::setup::{Done, Staging, holds, only_file, replace_folder};

/// At least the minor version that `ort`'s `api-NN` feature asks for.
const VERSION: &str = "1.31.1";

/// The name without a version, which the product opens.
const LIBRARY: &str = "libonnxruntime.so";

/// One build; both sums are sha256.
struct Build {
    platform: &'static str,
    wheel: &'static str,
    library: &'static str,
}

/// glibc 2.28 or newer.
const X86_64: Build = Build {
    platform: "manylinux_2_28_x86_64",
    wheel: "74a6a52994616c4d18b33db1e13c226333a70a6ba07480a5cab9c2a50dff1430",
    library: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
};
const AARCH64: Build = Build {
    platform: "manylinux_2_28_aarch64",
    wheel: "dcaedc50333876f3829ab966b242147f0e548229e29c36fe44622ecf748c25ee",
    library: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
};

/// Puts the library, and a link without its version, into `onnxruntime/`.
pub(crate) fn ensure(setup: &Path) -> Result<Done> {
    let place = setup.join("onnxruntime");
    let Some(build) = build_for_this_machine() else {
        return by_hand(place);
    };
    let versioned = format!("{LIBRARY}.{VERSION}");
    // Through the link, so that a wrong link counts as missing.
    if holds(&place.join(LIBRARY), build.library)? && holds(&place.join(&versioned), build.library)?
    {
        return Ok(Done::Present(place));
    }

    let staging = Staging::new(setup)?;
    let wheels = staging.folder("wheel")?;
    let python = Python::find()?;
    // The C library in a wheel does not depend on the Python that it is for.
    command::output(
        python
            .pip(&staging)?
            .args([
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--python-version=3.13",
            ])
            .arg(format!("--platform={}", build.platform))
            .arg("--dest")
            .arg(&wheels)
            .arg(format!("onnxruntime=={VERSION}")),
    )?;
    let wheel = only_file(&wheels, ".whl")?;
    if !holds(&wheel, build.wheel)? {
        bail!("{} has not the sha256 {}: not used", wheel.display(), build.wheel);
    }

    let tree = staging.path().join("tree");
    command::output(python.command().args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&tree))?;
    let finished = staging.folder("onnxruntime")?;
    fs::rename(tree.join("onnxruntime/capi").join(&versioned), finished.join(&versioned))?;
    for text in ["LICENSE", "ThirdPartyNotices.txt"] {
        fs::rename(tree.join("onnxruntime").join(text), finished.join(text))?;
    }
    symlink(&versioned, finished.join(LIBRARY))?;
    replace_folder(&finished, &place)?;
    Ok(Done::Fetched(place, format!("the wheel onnxruntime {VERSION}")))
}

/// Elsewhere the user may bring a library of their own.
fn by_hand(place: PathBuf) -> Result<Done> {
    if place.join(LIBRARY).exists() {
        return Ok(Done::Present(place));
    }
    bail!(
        "no build is pinned for {} on {} (only for Linux with glibc 2.28 or newer, on x86-64 and aarch64); \
         put a {LIBRARY} of version 1.24 or newer into {}",
        std::env::consts::ARCH,
        std::env::consts::OS,
        place.display(),
    )
}

fn build_for_this_machine() -> Option<Build> {
    if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")) {
        Some(X86_64)
    } else if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64")) {
        Some(AARCH64)
    } else {
        None
    }
}
