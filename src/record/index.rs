//! Where decisions lie, by id.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use skysail_selection::DecisionId;

use super::sidecar::Place;

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

    /// Room for so many more.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.added.reserve(entries);
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

impl FromIterator<(DecisionId, Place)> for Index {
    fn from_iter<I: IntoIterator<Item = (DecisionId, Place)>>(entries: I) -> Self {
        Self { map: HashMap::default(), added: entries.into_iter().collect() }
    }
}
