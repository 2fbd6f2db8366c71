//! Who may be asked, and the draw.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use rand::{SeedableRng, rngs::SmallRng};
use skysail_proto::ModelVersion;

use super::{Shared, Slot, now_ms};
use crate::{
    DecisionId, Query,
    policy::{LiveArm, Selection, SelectionPolicy, Situation},
    store::Mask,
};

/// What was drawn for one query.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) id: DecisionId,
    pub(super) time_ms: u64,
    pub(super) state_version: u64,
    /// By the place among the application's arms.
    pub(super) candidates: Vec<Candidate>,
    pub(super) selection: Selection,
    /// What the shadow would have drawn from, by place.
    pub(super) shadow: Option<Vec<f64>>,
}

/// One arm at the moment of the draw.
#[derive(Debug)]
pub(super) enum Candidate {
    /// It may be asked.
    Live(Arc<ModelVersion>),
    /// It could not answer in time.
    Masked(Arc<ModelVersion>, Mask),
    /// Its name stands for no model.
    Unknown,
}

impl Candidate {
    pub(super) fn model(&self) -> Option<&Arc<ModelVersion>> {
        match self {
            Self::Live(model) | Self::Masked(model, _) => Some(model),
            Self::Unknown => None,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }
}

impl Decision {
    /// The version that an arm stands for.
    pub(super) fn model(&self, arm: usize) -> Option<&Arc<ModelVersion>> {
        self.candidates.get(arm).and_then(Candidate::model)
    }
}

/// Rows of a query that wait for feedback. Dropped without [`keep`](Self::keep), they do not:
/// the query leaves no record by which feedback could find it.
#[derive(Debug)]
pub(super) struct Waiting {
    slot: Arc<Slot>,
    chosen: Vec<usize>,
    rows: usize,
    time_ms: u64,
}

impl Decision {
    /// `None`: the policy does not count them.
    pub(super) fn wait_for_feedback(&self, slot: &Arc<Slot>, rows: usize) -> Option<Waiting> {
        let pending = slot.pending()?;
        for arm in &self.selection.chosen {
            pending.asked(*arm, rows, self.time_ms);
        }
        let (slot, chosen) = (Arc::clone(slot), self.selection.chosen.clone());
        Some(Waiting { slot, chosen, rows, time_ms: self.time_ms })
    }
}

impl Waiting {
    /// Until the feedback comes, or its window has passed.
    pub(super) fn keep(mut self) {
        self.chosen.clear();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(pending) = self.slot.pending() else { return };
        for arm in &self.chosen {
            pending.settled(*arm, self.rows, self.time_ms);
        }
    }
}

/// Makes decision ids, and generators out of them.
#[derive(Debug)]
pub(super) struct Draw {
    /// Of seed and application.
    key: [u8; 32],
    instance: [u8; 3],
}

/// What a generator is for. Each has its own, so that what one draws does not depend on how much
/// another drew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Who is asked.
    Arms,
    /// Whose answer is given.
    Answer,
    /// Whether the features are recorded, under pressure.
    Features,
}

/// Of all selectors of the process: one that replaces another for the same application must not
/// give out its ids again.
static COUNTER: AtomicU32 = AtomicU32::new(0);

impl Draw {
    pub(super) fn new(application: &str, seed: u64, instance: [u8; 3]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(application.as_bytes());
        Self { key: *hasher.finalize().as_bytes(), instance }
    }

    fn id(&self, time_ms: u64, place: [u8; 16]) -> DecisionId {
        DecisionId::new(time_ms, self.instance, COUNTER.fetch_add(1, Ordering::Relaxed), place)
    }

    /// The same for the same seed, application and decision, and unlike for neighbours: decision
    /// ids are nearly sequential, so they are hashed and not added.
    pub(super) fn generator(&self, id: &DecisionId, purpose: Purpose) -> SmallRng {
        let hash = blake3::keyed_hash(&self.key, id.as_bytes());
        let mut seed = [0; 8];
        let part = match purpose {
            Purpose::Arms => &hash.as_bytes()[..8],
            Purpose::Answer => &hash.as_bytes()[8..16],
            Purpose::Features => &hash.as_bytes()[16..24],
        };
        seed.copy_from_slice(part);
        SmallRng::seed_from_u64(u64::from_le_bytes(seed))
    }
}

impl Shared {
    /// The application's arms as a policy sees them.
    pub(super) fn arm_set(
        &self,
        live: impl Fn(usize) -> bool,
        pending: &[u64],
    ) -> Vec<LiveArm<'_>> {
        let arms = self.application.arms.iter().enumerate();
        let arm = arms.map(|(place, arm)| LiveArm {
            arm: &arm.name,
            live: live(place),
            availability: self.availability.of(place),
            pending: pending.get(place).copied().unwrap_or(0),
        });
        arm.collect()
    }

    /// Resolves and masks the arms.
    fn candidates(&self, query: &Query) -> Vec<Candidate> {
        let rows = query.inputs.rows();
        let candidate = |name: &str| match self.directory.resolve(name) {
            None => Candidate::Unknown,
            Some(model) => match self.directory.mask(&model, rows, query.deadline) {
                None => Candidate::Live(model),
                Some(mask) => Candidate::Masked(model, mask),
            },
        };
        self.application.arms.iter().map(|arm| candidate(&arm.name)).collect()
    }

    /// Every live arm, whatever the policy says.
    pub(super) fn decide_all(&self, query: &Query, slot: &Slot, id: DecisionId) -> Decision {
        let snapshot = self.states.current(slot);
        let candidates = self.candidates(query);
        let arms = self.arm_set(|place| candidates[place].is_live(), &[]);
        let live = |arm: &LiveArm<'_>| if arm.live { 1.0 } else { 0.0 };
        let selection = Selection {
            chosen: (0..arms.len()).filter(|place| arms[*place].live).collect(),
            q: arms.iter().map(live).collect(),
            weights: self.learner.policy.weights(&snapshot.known().own, &arms),
        };
        let state_version = snapshot.version.number;
        Decision { id, time_ms: now_ms(), state_version, candidates, selection, shadow: None }
    }

    /// Resolves and masks the arms, and draws from the live ones.
    pub(super) fn decide(&self, query: &Query, slot: &Slot) -> Decision {
        let snapshot = self.states.current(slot);
        let candidates = self.candidates(query);
        let time_ms = now_ms();
        let pending = slot.pending().map(|pending| pending.rows(time_ms)).unwrap_or_default();
        let arms = self.arm_set(|place| candidates[place].is_live(), &pending);
        let id = self.draw.id(time_ms, *slot.place());
        let situation = Situation { arms: &arms, features: &query.context_features };
        let (known, prepared) = (snapshot.known(), snapshot.prepared(&self.learner, &arms));
        let rng = &mut self.draw.generator(&id, Purpose::Arms);
        let selection = self.learner.policy.select(&known.own, &prepared.own, &situation, rng);
        // Last, so that the decision is the same without it.
        let shadow = self.learner.shadow.as_ref().zip(known.shadow.as_ref());
        let shadow =
            shadow.map(|(policy, state)| policy.select(state, &prepared.shadow, &situation, rng).q);
        let state_version = snapshot.version.number;
        Decision { id, time_ms, state_version, candidates, selection, shadow }
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_generator_is_repeatable_and_its_own() {
        let id = |counter| DecisionId::new(1, [0; 3], counter, [0; 16]);
        let draw = Draw::new("a", 7, [0; 3]);
        let arms = |draw: &Draw, counter| draw.generator(&id(counter), Purpose::Arms).next_u64();
        let first = arms(&draw, 1);
        assert_eq!(first, arms(&Draw::new("a", 7, [0; 3]), 1));
        assert_ne!(first, arms(&draw, 2));
        assert_ne!(first, arms(&Draw::new("b", 7, [0; 3]), 1));
        assert_ne!(first, arms(&Draw::new("a", 8, [0; 3]), 1));
        assert_ne!(first, draw.generator(&id(1), Purpose::Answer).next_u64());
    }
}
