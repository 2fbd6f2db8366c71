//! The index of a closed segment: `decisions-<seq>.idx`, searched on the disk.
//!
//! A header of 56 bytes, then entries of 40 bytes sorted by id: the id (28), the offset of its
//! line (8), its length (4). Numbers are big-endian. It holds nothing that the segment does not:
//! one that is missing or does not fit is made again.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use skysail_selection::DecisionId;

const MAGIC: &[u8; 8] = b"skyidx1\n";
const HEADER: usize = 56;
const ENTRY: usize = 40;

/// Where a line lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    /// Without the end of line.
    pub(super) bytes: u32,
}

/// What is known of a segment without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// Bytes of the segment.
    pub(super) bytes: u64,
    /// Decisions in it.
    pub(super) decisions: u64,
    /// The earliest and the latest decision, in milliseconds since the Unix epoch.
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// The latest line.
    pub(super) newest_ms: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Self { bytes: 0, decisions: 0, first_ms: u64::MAX, last_ms: 0, newest_ms: 0 }
    }
}

impl Summary {
    /// Adds a line of so many bytes, its end included.
    pub(super) fn add(&mut self, decision: Option<DecisionId>, time_ms: u64, bytes: usize) {
        self.bytes += bytes as u64;
        self.newest_ms = self.newest_ms.max(time_ms);
        if let Some(id) = decision {
            self.decisions += 1;
            self.first_ms = self.first_ms.min(id.time_ms());
            self.last_ms = self.last_ms.max(id.time_ms());
        }
    }

    /// Adds what comes after it.
    pub(super) fn extend(&mut self, next: &Self) {
        self.bytes += next.bytes;
        self.decisions += next.decisions;
        self.first_ms = self.first_ms.min(next.first_ms);
        self.last_ms = self.last_ms.max(next.last_ms);
        self.newest_ms = self.newest_ms.max(next.newest_ms);
    }

    pub(super) fn may_hold(&self, id: DecisionId) -> bool {
        (self.first_ms..=self.last_ms).contains(&id.time_ms())
    }

    fn encode(&self) -> [u8; HEADER] {
        let numbers =
            [self.bytes, self.decisions, self.first_ms, self.last_ms, self.newest_ms, ENTRY as u64];
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        for (bytes, number) in header[8..].chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
        header
    }

    fn decode(header: &[u8; HEADER]) -> Option<Self> {
        let mut numbers = header[8..].chunks_exact(8).map(number);
        let mut next = || numbers.next();
        let (bytes, decisions) = (next()?, next()?);
        let (first_ms, last_ms, newest_ms) = (next()?, next()?, next()?);
        let known = header.starts_with(MAGIC) && next()? == ENTRY as u64;
        known.then_some(Self { bytes, decisions, first_ms, last_ms, newest_ms })
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Writes the sidecar whole or not at all. `entries` are sorted by id.
pub(super) fn write(
    path: &Path,
    summary: &Summary,
    entries: &[(DecisionId, Place)],
) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = BufWriter::new(File::create(&unfinished)?);
    file.write_all(&summary.encode())?;
    for (id, place) in entries {
        file.write_all(id.as_bytes())?;
        file.write_all(&place.offset.to_be_bytes())?;
        file.write_all(&place.bytes.to_be_bytes())?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(unfinished, path)
}

/// What it says of the segment; `None` where it is missing or does not fit a segment of so many
/// bytes.
pub(super) fn summary(path: &Path, segment_bytes: u64) -> Option<Summary> {
    let file = File::open(path).ok()?;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    let summary = Summary::decode(&header)?;
    let expected = (HEADER as u64) + summary.decisions.checked_mul(ENTRY as u64)?;
    let fits = summary.bytes == segment_bytes && file.metadata().ok()?.len() == expected;
    fits.then_some(summary)
}

/// Where the decision's line lies. Reads an entry for each halving.
pub(super) fn find(path: &Path, decisions: u64, id: DecisionId) -> io::Result<Option<Place>> {
    let file = File::open(path)?;
    let (mut low, mut high) = (0, decisions);
    let mut entry = [0; ENTRY];
    while low < high {
        let middle = low + (high - low) / 2;
        file.read_exact_at(&mut entry, HEADER as u64 + middle * ENTRY as u64)?;
        match entry[..28].cmp(id.as_bytes()) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                let bytes = number(&entry[36..]) as u32;
                return Ok(Some(Place { offset: number(&entry[28..36]), bytes }));
            }
        }
    }
    Ok(None)
}
