//! What a process holds of the machine, from `/proc`, and how many descriptors this one may open.

use std::{
    fs,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors, sockets among them.
    pub descriptors: u64,
}

impl Held {
    /// Looks at a process.
    ///
    /// # Errors
    ///
    /// There is no such process, or it is another user's.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let context = || format!("what process {pid} holds");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(context)?;
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_ascii_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).with_context(context)?.count();
        Ok(Self {
            resident_bytes: field("VmRSS").with_context(context)? * 1024,
            threads: field("Threads").with_context(context)?,
            descriptors: descriptors as u64,
        })
    }

    /// The larger of each.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            threads: self.threads.max(other.threads),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    /// The memory in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.resident_bytes as f64 / f64::from(1 << 20)
    }
}

/// Looks at a process again and again until it is stopped, and keeps the most that it held.
#[derive(Debug)]
pub struct Watch {
    /// Dropping it stops the thread.
    stop: Sender<()>,
    thread: JoinHandle<anyhow::Result<Held>>,
}

/// How often.
const EVERY: Duration = Duration::from_millis(100);

impl Watch {
    /// Begins.
    ///
    /// # Errors
    ///
    /// No thread could be started.
    pub fn start(pid: u32) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            let mut most = Held::of(pid)?;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                most = most.or(Held::of(pid)?);
            }
            Ok(most)
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(body)?;
        Ok(Self { stop, thread })
    }

    /// Ends, and tells.
    ///
    /// # Errors
    ///
    /// The process has ended meanwhile.
    pub fn stop(self) -> anyhow::Result<Held> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the watching thread panicked"))?
    }
}

/// Lets this process, and those that it starts, open as many descriptors as the hard limit allows;
/// `None`: without limit.
///
/// # Errors
///
/// The system refuses.
pub fn raise_descriptors() -> anyhow::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("raising the limit of open files")?;
    Ok(limit.maximum)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_open_file_and_a_thread_are_seen() {
        let pid = std::process::id();
        let before = Held::of(pid).unwrap();
        // More than what other tests of this process may close meanwhile.
        let files: Vec<_> = (0..64).map(|_| File::open("/proc/self/stat").unwrap()).collect();
        let after = Held::of(pid).unwrap();
        assert!(after.descriptors >= before.descriptors + 32, "{before:?} {after:?}");
        assert!(after.resident_mib() > 1.0 && after.threads >= 1);
        drop(files);
        let watch = Watch::start(pid).unwrap();
        let most = watch.stop().unwrap();
        assert!(most.threads >= 1 && most.descriptors > 2, "{most:?}");
        let error = Held::of(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("what process"), "{error}");
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_descriptors().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, raised);
    }
}
