//! One file of lines: how it is named, made, read and mended.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use skysail_selection::{DecisionId, DecisionRecord};

use super::{
    line::Head,
    sidecar::{Place, Summary},
};

/// `decisions-<seq>.jsonl`, or `.idx` for its sidecar.
pub(super) fn path(directory: &Path, sequence: u64, extension: &str) -> PathBuf {
    directory.join(format!("decisions-{sequence:010}.{extension}"))
}

/// The sequence numbers of all segments, ascending.
pub(super) fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let sequence = name
            .to_str()
            .and_then(|name| name.strip_prefix("decisions-")?.strip_suffix(".jsonl"))
            .and_then(|sequence| sequence.parse::<u64>().ok());
        all.extend(sequence);
    }
    all.sort_unstable();
    Ok(all)
}

/// Makes an empty segment whose name survives a loss of power.
pub(super) fn create(directory: &Path, sequence: u64) -> io::Result<File> {
    let path = path(directory, sequence, "jsonl");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    sync_directory(directory)?;
    Ok(file)
}

pub(super) fn open(directory: &Path, sequence: u64) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path(directory, sequence, "jsonl"))
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// What a whole reading of a segment found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) summary: Summary,
    /// Lines that are no JSON of ours.
    pub(super) skipped: u64,
    /// Bytes of a last line without an end, which were cut off.
    pub(super) torn: u64,
}

/// Reads all lines, tells each decision's place, and cuts off a last line that was not written
/// whole.
pub(super) fn scan(
    file: &File,
    mut decision: impl FnMut(DecisionId, Place) -> io::Result<()>,
) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line)?;
        if line.pop_if(|end| *end == b'\n').is_none() {
            scan.torn = bytes as u64;
            break;
        }
        match Head::parse(&line) {
            Some(head) => {
                let place = Place { offset: scan.summary.bytes, bytes: line.len() as u32 };
                if let Some(id) = head.id {
                    decision(id, place)?;
                }
                scan.summary.add(head.id, head.time_ms(), bytes);
            }
            None => {
                scan.skipped += 1;
                scan.summary.bytes += bytes as u64;
            }
        }
    }
    if scan.torn > 0 {
        file.set_len(scan.summary.bytes)?;
    }
    Ok(scan)
}

/// The record whose line lies there.
pub(super) fn read(file: &File, place: Place) -> io::Result<Arc<DecisionRecord>> {
    let mut line = vec![0; place.bytes as usize];
    file.read_exact_at(&mut line, place.offset)?;
    Ok(Arc::new(serde_json::from_slice(&line)?))
}
