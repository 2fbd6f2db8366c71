//! The decision log: every decision as one line of JSON, found again by its id.
//!
//! Records are written behind the answer. [`append`](DecisionLog::append) puts a record into a
//! bounded buffer; one thread takes what has gathered, writes it to the active segment in one
//! piece and forces it to the disk. Format and reasons: docs/decision-log.md and
//! docs/adr/0002-decision-record.md.
//!
//! # Layout
//!
//! - [`log`]: [`DecisionLogFile`], what the others make together
//! - `buffer`: what is not written yet
//! - `writer`: the thread
//! - `segments`, `segment`, `sidecar`, `index`: the files, and how a record is found in them
//! - [`tail`]: reads them in order
//! - [`mod@line`]: what a line may hold
//!
//! # What it does not do
//!
//! It changes nothing that it wrote. Which feedback was applied is for the state file to know
//! ([`state`](crate::state)); the lines here are for judging other policies.

mod buffer;
mod index;
pub mod line;
pub mod log;
mod segment;
mod segments;
mod sidecar;
pub mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

pub use line::FeedbackLine;
pub(crate) use line::now_ms;
pub(crate) use log::LOOK_AGAIN;
pub use log::{DecisionLogFile, RecordStats};
#[cfg(doc)]
use skysail_selection::DecisionLog;

/// When what was written is forced to the disk. Needed against loss of power alone; kill -9 takes
/// nothing that was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// Every group, before it counts as written.
    #[default]
    Group,
    /// At least this often.
    Interval(Duration),
}

/// How a decision log behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// A segment that has grown to this many bytes is closed. Default 64 MiB; more means fewer
    /// files, and more to read at start.
    pub segment_bytes: u64,
    /// Default: every group.
    pub sync: Sync,
    /// How long records gather before they are written. Default 5 ms; more means fewer and larger
    /// groups, and more records lost by kill -9.
    pub flush_interval: Duration,
    /// Records that may wait to be written. Default 65,536; beyond it admission refuses.
    pub buffer_records: usize,
    /// Bytes that may wait to be written. Default 256 MiB.
    pub buffer_bytes: usize,
    /// Closed segments wholly older than this are deleted. Default 7 days.
    pub retention: Duration,
    /// The oldest closed segments are deleted where all together have more bytes than this,
    /// except for what feedback still needs. Default 16 GiB.
    pub max_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            sync: Sync::Group,
            flush_interval: Duration::from_millis(5),
            buffer_records: 65_536,
            buffer_bytes: 256 << 20,
            retention: Duration::from_secs(7 * 24 * 3600),
            max_bytes: 16 << 30,
        }
    }
}

/// The decision log could not be opened or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Another process has it.
    #[error(
        "{0} is in use by another process, probably another `skysail serve` on the same data \
         directory: stop that one, or give this one a directory of its own with --data-dir"
    )]
    InUse(Arc<str>),
    /// A file of it failed.
    #[error("{path}: {cause}")]
    File {
        /// The file or the directory.
        path: Arc<str>,
        /// Why.
        cause: Arc<str>,
    },
    /// It was closed with records that could not be written.
    #[error("{records} lines were not written: {cause}")]
    Lost {
        /// How many.
        records: u64,
        /// Why.
        cause: Arc<str>,
    },
    /// It was closed before.
    #[error("the decision log is closed")]
    Closed,
}

impl RecordError {
    fn file(path: &std::path::Path, cause: impl std::fmt::Display) -> Self {
        Self::File { path: path.display().to_string().into(), cause: cause.to_string().into() }
    }
}
