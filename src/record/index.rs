//! Where decisions lie, by id.

use std::{collections::HashMap, fs::File, io, path::Path, sync::Arc};

use foldhash::fast::RandomState;
use skysail_selection::DecisionId;

use super::sidecar::{self, Place, Run, Summary};

/// Decisions whose places are held in memory before they go to the disk as a run: some 400 KB.
/// More means fewer runs to search where front ends or clocks make their times overlap.
const RUN_ENTRIES: usize = 4096;

/// What was added goes into the map when somebody looks: most decisions are never looked for so
/// soon, and adding must cost next to nothing.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Ids are made by front ends and not by clients, so that a fast hash will do.
    map: HashMap<DecisionId, Place, RandomState>,
    added: Vec<(DecisionId, Place)>,
}

impl Index {
    pub(super) fn add(&mut self, id: DecisionId, place: Place) {
        self.added.push((id, place));
    }

    fn len(&self) -> usize {
        self.map.len() + self.added.len()
    }

    pub(super) fn find(&mut self, id: DecisionId) -> Option<Place> {
        self.map.extend(self.added.drain(..));
        self.map.get(&id).copied()
    }

    /// All there is, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (DecisionId, Place)> {
        self.map.iter().map(|(id, place)| (*id, *place)).chain(self.added.iter().copied())
    }

    pub(super) fn clear(&mut self) {
        self.map.clear();
        self.added.clear();
    }
}

/// The index of a segment that grows: what came last in memory, all before in runs on the disk.
#[derive(Debug)]
pub(super) struct Growing {
    written: Arc<Runs>,
    last: Index,
    /// As many in memory are worth a run.
    enough: usize,
}

/// What is on the disk.
#[derive(Debug)]
pub(super) struct Runs {
    file: Arc<File>,
    runs: Vec<Run>,
}

impl Runs {
    pub(super) fn find(&self, id: DecisionId) -> io::Result<Option<Place>> {
        sidecar::search(&self.file, &self.runs, id)
    }

    pub(super) fn finish(&self, summary: &Summary) -> io::Result<()> {
        sidecar::finish(&self.file, &self.runs, summary)
    }

    /// All of it with one run more.
    fn with(&self, entries: &mut [(DecisionId, Place)]) -> io::Result<Self> {
        let run = sidecar::write_run(&self.file, &self.runs, entries)?;
        let mut runs = self.runs.clone();
        runs.push(run);
        Ok(Self { file: Arc::clone(&self.file), runs })
    }
}

impl Growing {
    /// An empty one at that path, whatever was there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let written = Runs { file: Arc::new(sidecar::create(path)?), runs: Vec::new() };
        Ok(Self { written: Arc::new(written), last: Index::default(), enough: RUN_ENTRIES })
    }

    /// Adds one, and writes a run where that is enough.
    pub(super) fn add(&mut self, id: DecisionId, place: Place) -> io::Result<()> {
        self.last.add(id, place);
        if let Some(run) = self.enough() {
            self.wrote(run.write()?);
        }
        Ok(())
    }

    /// Adds a group of so many decisions that lies behind `start` bytes.
    pub(super) fn extend(&mut self, start: u64, group: &Index, decisions: u64) {
        self.last.added.reserve(decisions as usize);
        for (id, place) in group.entries() {
            self.last.add(id, Place { offset: start + place.offset, ..place });
        }
    }

    /// Where the decision lies, or where on the disk that may be written.
    pub(super) fn find(&mut self, id: DecisionId) -> Result<Place, Arc<Runs>> {
        self.last.find(id).ok_or_else(|| Arc::clone(&self.written))
    }

    /// What is on the disk now.
    pub(super) fn on_disk(&self) -> Arc<Runs> {
        Arc::clone(&self.written)
    }

    /// A run to write, where there is enough for one.
    pub(super) fn enough(&self) -> Option<Unwritten> {
        (self.last.len() >= self.enough).then(|| self.rest())
    }

    /// All that is in memory alone: a copy, so that it is written without a lock.
    pub(super) fn rest(&self) -> Unwritten {
        let mut entries = Vec::with_capacity(self.last.len());
        entries.extend(self.last.entries());
        Unwritten { before: Arc::clone(&self.written), entries }
    }

    /// What was in memory is there now.
    pub(super) fn wrote(&mut self, runs: Arc<Runs>) {
        *self = Self { written: runs, last: Index::default(), enough: RUN_ENTRIES };
    }

    /// A run could not be written; it is tried again when there is more.
    pub(super) fn did_not_write(&mut self) {
        self.enough = self.last.len() + RUN_ENTRIES;
    }
}

/// What shall be a run.
pub(super) struct Unwritten {
    before: Arc<Runs>,
    entries: Vec<(DecisionId, Place)>,
}

impl Unwritten {
    /// All that is on the disk then.
    pub(super) fn write(mut self) -> io::Result<Arc<Runs>> {
        if self.entries.is_empty() {
            return Ok(self.before);
        }
        self.before.with(&mut self.entries).map(Arc::new)
    }
}
