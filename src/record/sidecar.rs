//! The index of a segment on the disk, searched there: `decisions-<seq>.idx`.
//!
//! Runs of entries, then a directory of the runs, then a trailer. A run is what was indexed in
//! memory until it was enough, sorted by id; runs are written while their segment grows, so that
//! neither memory nor the work of closing a segment grows with it. An entry has 40 bytes: the id
//! (28), the offset of its line (8), its length (4). Numbers are big-endian. Directory and trailer
//! come when the segment is closed and the runs are on the disk. It holds nothing that the segment
//! does not: one that is missing or does not fit is made again.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use skysail_selection::DecisionId;

const MAGIC: &[u8; 8] = b"skyidx2\n";
const TRAILER: usize = 56;
const RUN: usize = 24;
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
}

/// Entries that lie together, sorted by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How many entries come before it.
    before: u64,
    entries: u64,
    /// The earliest and the latest, in milliseconds since the Unix epoch.
    first_ms: u64,
    last_ms: u64,
}

impl Run {
    fn may_hold(&self, id: DecisionId) -> bool {
        (self.first_ms..=self.last_ms).contains(&id.time_ms())
    }

    /// Where the decision's line lies. Reads an entry for each halving.
    fn find(&self, file: &File, id: DecisionId) -> io::Result<Option<Place>> {
        let (mut low, mut high) = (self.before, self.before + self.entries);
        let mut entry = [0; ENTRY];
        while low < high {
            let middle = low + (high - low) / 2;
            file.read_exact_at(&mut entry, middle * ENTRY as u64)?;
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
}

/// Makes an empty one.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// How many entries those runs have.
fn entries_of(runs: &[Run]) -> u64 {
    runs.last().map_or(0, |last| last.before + last.entries)
}

/// Writes a run after `runs`. It counts when the caller has added it to them; written again, it
/// lies at the same place.
pub(super) fn write_run(
    file: &File,
    runs: &[Run],
    entries: &mut [(DecisionId, Place)],
) -> io::Result<Run> {
    entries.sort_unstable_by_key(|(id, _)| *id);
    // Ids begin with the time.
    let time_ms = |entry: Option<&(DecisionId, Place)>| entry.map(|(id, _)| id.time_ms());
    let run = Run {
        before: entries_of(runs),
        entries: entries.len() as u64,
        first_ms: time_ms(entries.first()).unwrap_or(u64::MAX),
        last_ms: time_ms(entries.last()).unwrap_or(0),
    };
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY);
    for (id, place) in entries {
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&place.offset.to_be_bytes());
        bytes.extend_from_slice(&place.bytes.to_be_bytes());
    }
    file.write_all_at(&bytes, run.before * ENTRY as u64)?;
    Ok(run)
}

/// Makes it whole. More runs may follow all the same, if no segment can be begun after this one.
pub(super) fn finish(file: &File, runs: &[Run], summary: &Summary) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(runs.len() * RUN + TRAILER);
    let mut put = |number: u64| bytes.extend_from_slice(&number.to_be_bytes());
    for run in runs {
        [run.entries, run.first_ms, run.last_ms].into_iter().for_each(&mut put);
    }
    // Not the decisions of the summary: a line that stands twice has one entry.
    let entries = entries_of(runs);
    let Summary { bytes: length, decisions: _, first_ms, last_ms, newest_ms } = *summary;
    [length, entries, first_ms, last_ms, newest_ms, runs.len() as u64]
        .into_iter()
        .for_each(&mut put);
    bytes.extend_from_slice(MAGIC);
    let end = entries * ENTRY as u64;
    // What a trailer stands for is on the disk before it.
    file.set_len(end)?;
    file.sync_data()?;
    file.write_all_at(&bytes, end)?;
    file.sync_data()
}

/// What it says of the segment; `None` where it is missing or does not fit a segment of so many
/// bytes.
pub(super) fn summary(path: &Path, segment_bytes: u64) -> Option<Summary> {
    let (summary, _) = read(&File::open(path).ok()?).ok()?;
    (summary.bytes == segment_bytes).then_some(summary)
}

/// Where the decision's line lies.
pub(super) fn find(path: &Path, id: DecisionId) -> io::Result<Option<Place>> {
    let file = File::open(path)?;
    let (_, runs) = read(&file)?;
    search(&file, &runs, id)
}

/// Looks into the runs of that time.
pub(super) fn search(file: &File, runs: &[Run], id: DecisionId) -> io::Result<Option<Place>> {
    for run in runs.iter().rev().filter(|run| run.may_hold(id)) {
        if let Some(place) = run.find(file, id)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// The trailer and the directory of a whole one.
fn read(file: &File) -> io::Result<(Summary, Vec<Run>)> {
    let unfit = || io::Error::new(io::ErrorKind::InvalidData, "not an index of decisions");
    let length = file.metadata()?.len();
    let end = length.checked_sub(TRAILER as u64).ok_or_else(unfit)?;
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, end)?;
    let (numbers, magic) = trailer.split_at(TRAILER - MAGIC.len());
    let mut numbers = numbers.chunks_exact(8).map(number);
    let mut next = || numbers.next().unwrap_or(0);
    let (bytes, decisions) = (next(), next());
    let summary =
        Summary { bytes, decisions, first_ms: next(), last_ms: next(), newest_ms: next() };
    let runs = next();
    let directory = runs.checked_mul(RUN as u64).ok_or_else(unfit)?;
    let entries = decisions.checked_mul(ENTRY as u64).ok_or_else(unfit)?;
    if magic != MAGIC || entries.checked_add(directory) != Some(end) {
        return Err(unfit());
    }
    let mut bytes = vec![0; directory as usize];
    file.read_exact_at(&mut bytes, entries)?;
    let mut before = 0_u64;
    let mut all = Vec::with_capacity(runs as usize);
    for run in bytes.chunks_exact(RUN) {
        let entries = number(&run[..8]);
        let run =
            Run { before, entries, first_ms: number(&run[8..16]), last_ms: number(&run[16..]) };
        before = before.checked_add(entries).ok_or_else(unfit)?;
        all.push(run);
    }
    if before != decisions {
        return Err(unfit());
    }
    Ok((summary, all))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
