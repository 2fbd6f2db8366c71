//! Finds and opens the ONNX Runtime library.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use ort::environment::Environment;
use parking_lot::Mutex;

use crate::error::ContainerError;

/// The oldest minor version of ONNX Runtime whose interface this build can use.
pub const MINIMUM_MINOR_VERSION: u32 = ort::MINOR_VERSION;

/// The environment lives as long as the process: the library allows but one.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

struct Runtime {
    environment: Environment,
    library: PathBuf,
}

/// ONNX Runtime was found nowhere.
#[derive(Clone, Debug)]
pub struct OnnxRuntimeMissing {
    /// Where it was looked for, in order, and what was wrong there.
    pub looked: Vec<(PathBuf, String)>,
}

impl fmt::Display for OnnxRuntimeMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no usable ONNX Runtime library; looked at")?;
        for (path, why) in &self.looked {
            writeln!(f, "  {}: {why}", path.display())?;
        }
        write!(
            f,
            "In a checkout, `cargo xtask setup` fetches it. Elsewhere take libonnxruntime.so (1.{} \
             or newer) out of the Python package `onnxruntime` (`pip download --no-deps \
             onnxruntime`, then unzip: it is in onnxruntime/capi) and put it beside the program, \
             or name it with `--onnxruntime PATH`.",
            MINIMUM_MINOR_VERSION
        )
    }
}

impl std::error::Error for OnnxRuntimeMissing {}

/// Opens ONNX Runtime, once per process, and answers where it was found.
///
/// Looks at `flag` alone where one is given (a file, or the folder that holds the library);
/// else at `variable` (what `ORT_DYLIB_PATH` says: whoever calls reads the environment), beside the
/// program, in `../lib`, in `../setup/onnxruntime` and `../../setup/onnxruntime` (a checkout's
/// `target/`), and at last asks the system's loader.
///
/// # Errors
///
/// It is nowhere, or too old; the error lists where it was looked for and how to get it.
pub fn init_onnx_runtime(
    flag: Option<&Path>,
    variable: Option<&Path>,
) -> Result<PathBuf, OnnxRuntimeMissing> {
    let _one_at_a_time = STARTING.lock();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime.library.clone());
    }
    let mut looked = Vec::new();
    for candidate in candidates(flag, variable, std::env::current_exe().ok().as_deref()) {
        // A bare name is for the loader to find.
        if candidate.components().count() > 1 && !candidate.is_file() {
            looked.push((candidate, "no such file".into()));
            continue;
        }
        let opened = ort::init_from(&candidate)
            .map_err(|error| error.to_string())
            .and_then(|builder| builder.with_name("skysail").build().map_err(|e| e.to_string()));
        match opened {
            Ok(environment) => {
                tracing::debug!(library = %candidate.display(), "opened ONNX Runtime");
                let library = candidate.clone();
                let _ = RUNTIME.set(Runtime { environment, library });
                return Ok(candidate);
            }
            Err(why) => looked.push((candidate, why)),
        }
    }
    Err(OnnxRuntimeMissing { looked })
}

/// The environment that sessions are made in; looks for the library as [`init_onnx_runtime`] does
/// with nothing given, where nobody has called that.
pub(crate) fn environment() -> Result<&'static Environment, ContainerError> {
    if RUNTIME.get().is_none() {
        init_onnx_runtime(None, None)?;
    }
    match RUNTIME.get() {
        Some(runtime) => Ok(&runtime.environment),
        None => Err(OnnxRuntimeMissing { looked: Vec::new() }.into()),
    }
}

const LIBRARY: &str = if cfg!(target_os = "macos") {
    "libonnxruntime.dylib"
} else if cfg!(windows) {
    "onnxruntime.dll"
} else {
    "libonnxruntime.so"
};

fn candidates(flag: Option<&Path>, variable: Option<&Path>, exe: Option<&Path>) -> Vec<PathBuf> {
    let file = |path: &Path| {
        if path.is_dir() { path.join(LIBRARY) } else { path.to_path_buf() }
    };
    if let Some(flag) = flag {
        // One that was named and is not there should be said, not replaced by another.
        return vec![file(flag)];
    }
    let mut all = Vec::new();
    all.extend(variable.map(file));
    if let Some(folder) = exe.and_then(Path::parent) {
        for place in [".", "../lib", "../setup/onnxruntime", "../../setup/onnxruntime"] {
            all.push(if place == "." {
                folder.join(LIBRARY)
            } else {
                folder.join(place).join(LIBRARY)
            });
        }
    }
    all.push(LIBRARY.into());
    if cfg!(target_os = "linux") {
        all.push("libonnxruntime.so.1".into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_stands_alone() {
        assert_eq!(
            candidates(Some(Path::new("/x/y.so")), Some(Path::new("/z.so")), None),
            [PathBuf::from("/x/y.so")]
        );
    }

    #[test]
    fn the_variable_comes_first_and_the_loader_last() {
        let all = candidates(None, Some(Path::new("/z.so")), Some(Path::new("/t/debug/deps/test")));
        assert_eq!(all[0], Path::new("/z.so"));
        assert!(all.contains(&Path::new("/t/debug/deps/../../setup/onnxruntime").join(LIBRARY)));
        assert_eq!(all.last().map(|last| last.components().count()), Some(1));
    }

    #[test]
    fn the_error_says_where_and_how() {
        let error = OnnxRuntimeMissing { looked: vec![("/a/b".into(), "no such file".into())] };
        let text = error.to_string();
        for part in ["/a/b: no such file", "cargo xtask setup", "--onnxruntime PATH", "1.24"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
