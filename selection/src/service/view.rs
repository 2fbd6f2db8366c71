//! What is learned, for those who look at it, and how it is forgotten.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Learned, Shared, Slot, Snapshot, now_ms};
use crate::{
    policy::{Policy, SelectionPolicy, State},
    store::{Commit, CommitOutcome, StoreError, Version},
};

/// Commits of one [`Shared::forget_arm`], or loads of one refresh, under way at once, so that a
/// store that groups them has something to group.
const COMMITS: usize = 64;

/// Versions that are asked for at once.
const VERSIONS: usize = 1_000;

/// What is learned for an application or a context.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectionView {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Version of the state; 0: nothing was committed yet.
    pub state_version: u64,
    /// Every arm, in the application's order.
    pub arms: Vec<ArmView>,
    /// What the shadow has learned, if the application has one.
    pub shadow: Option<ShadowView>,
}

/// What is learned under the policy that decides nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct ShadowView {
    /// The policy's name.
    pub policy: Arc<str>,
    /// Every arm, in the application's order.
    pub arms: Vec<ArmView>,
}

/// What is learned of one arm.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmView {
    /// The arm's string.
    pub arm: Arc<str>,
    /// Normalised to sum to 1 over all arms.
    pub weight: f64,
    /// Mean loss in the rows that scored it, in [0, 1]; 0 where none did.
    pub mean_loss: f64,
    /// Feedback rows that scored it since the state began; the prior counts nothing.
    pub observations: u64,
    /// Share of the recent times it was asked in which it answered in time, on this front end.
    pub availability: f64,
}

impl Shared {
    /// From the store and not from memory, since another front end may have been there.
    pub(super) async fn view(&self, context: &str) -> Result<SelectionView, StoreError> {
        let slot = match self.states.known(context) {
            Some(slot) => slot,
            // Looking at a context must not push another one out of memory.
            None => Arc::new(self.states.new_slot(&context.into())),
        };
        let snapshot = self.reload(&slot).await?;
        Ok(self.view_of(&slot, &snapshot))
    }

    /// Of the application's state in memory.
    pub(super) fn view_in_memory(&self) -> SelectionView {
        let own = self.states.own();
        self.view_of(own, &self.states.current(own))
    }

    fn view_of(&self, slot: &Slot, snapshot: &Snapshot) -> SelectionView {
        let drawn_from = self.states.current(slot);
        let known = drawn_from.known();
        let own =
            self.arms(&self.learner.policy, &known.own, |learned| Some(&learned.own), snapshot);
        let shadow = self.learner.shadow.as_ref().map(|policy| {
            let nothing = State::default();
            let drawn_from = known.shadow.as_ref().unwrap_or(&nothing);
            ShadowView {
                policy: policy.name().into(),
                arms: self.arms(policy, drawn_from, |learned| learned.shadow.as_ref(), snapshot),
            }
        });
        SelectionView {
            policy: Arc::clone(&self.application.policy_name),
            state_version: snapshot.version.number,
            arms: own,
            shadow,
        }
    }

    /// Weights of what is drawn from, and what was observed for this very context.
    fn arms(
        &self,
        policy: &Policy,
        drawn_from: &State,
        side: impl Fn(&Learned) -> Option<&State>,
        snapshot: &Snapshot,
    ) -> Vec<ArmView> {
        let weights = policy.weights(drawn_from, &self.arm_set(|_| true, &[]));
        let state = snapshot.learned.as_deref().and_then(side);
        let arms = self.application.arms.iter().enumerate().zip(weights);
        let arms = arms.map(|((place, arm), weight)| {
            let learned = state.map(|state| state.arm(&arm.name).clone()).unwrap_or_default();
            ArmView {
                arm: Arc::clone(&arm.name),
                weight,
                mean_loss: learned.mean_loss(),
                observations: learned.observations,
                availability: self.availability.of(place),
            }
        });
        arms.collect()
    }

    async fn reload_known(&self, context: &str) -> Result<(), StoreError> {
        if let Some(slot) = self.states.known(context) {
            self.reload(&slot).await?;
        }
        Ok(())
    }

    pub(super) async fn refresh(&self, contexts: &[Arc<str>]) -> Result<u64, StoreError> {
        let loaded = |context: &Arc<str>| {
            let slot = self.states.known(context)?;
            let version = slot.snapshot()?.version;
            Some((slot, version))
        };
        let (slots, known): (Vec<_>, Vec<_>) = contexts.iter().filter_map(loaded).unzip();
        let asked: Vec<_> = slots.iter().map(|slot| Arc::clone(&slot.context)).collect();
        let mut now = Vec::with_capacity(slots.len());
        for asked in asked.as_slice().chunks(VERSIONS) {
            let name = Arc::clone(&self.application.name);
            now.extend(self.store.versions(name, asked.to_vec()).await?);
        }
        let changed = slots.iter().zip(known).zip(now).filter(|((_, known), now)| known != now);
        let changed: Vec<_> = changed.map(|((slot, _), _)| Arc::clone(slot)).collect();
        let count = changed.len() as u64;
        let reload = |slot: Arc<Slot>| async move { self.reload(&slot).await.map(drop) };
        stream::iter(changed).map(reload).buffer_unordered(COMMITS).try_collect::<()>().await?;
        Ok(count)
    }

    pub(super) fn in_use(&self) -> Vec<Arc<str>> {
        let used = self.states.contexts().into_iter().filter(|slot| slot.was_used());
        let own = Arc::clone(&self.states.own().context);
        std::iter::once(own).chain(used.map(|slot| Arc::clone(&slot.context))).collect()
    }

    /// Of the state in memory, in the application's order.
    pub(super) fn weights(&self) -> Vec<f64> {
        let drawn_from = self.states.current(self.states.own());
        self.learner.policy.weights(&drawn_from.known().own, &self.arm_set(|_| true, &[]))
    }

    pub(super) async fn reset(&self, context: Option<&str>) -> Result<(), StoreError> {
        let name = Arc::clone(&self.application.name);
        self.store.reset(name, context.map(Arc::from)).await?;
        self.states.begin_epoch();
        match context {
            Some(context) => self.reload_known(context).await,
            None => {
                self.states.drop_contexts();
                self.reload(self.states.own()).await.map(drop)
            }
        }
    }

    pub(super) async fn forget_arm(&self, arm: &str) -> Result<(), StoreError> {
        self.forget_in(self.states.own(), arm).await?;
        let contexts = self.states.contexts();
        let forget = |slot: Arc<Slot>| async move { self.forget_in(&slot, arm).await };
        stream::iter(contexts).map(forget).buffer_unordered(COMMITS).try_collect().await
    }

    async fn forget_in(&self, slot: &Slot, arm: &str) -> Result<(), StoreError> {
        loop {
            let epoch = self.states.epoch();
            let snapshot = self.reload(slot).await?;
            // Nothing is stored, so there is nothing to forget.
            let (Some(learned), 1..) = (&snapshot.learned, snapshot.version.number) else {
                return Ok(());
            };
            let mut learned = learned.as_ref().clone();
            learned.own.forget(arm);
            if let Some(shadow) = &mut learned.shadow {
                shadow.forget(arm);
            }
            let commit_id = rand::random();
            let commit = Commit {
                key: self.states.key(slot),
                expected: snapshot.version,
                state: self.learner.encode(&learned),
                marks: Vec::new(),
                commit_id,
                time_ms: now_ms(),
                window: self.application.feedback_window,
            };
            if let CommitOutcome::Committed(number) = self.store.commit(commit).await? {
                let version = Version { number, commit_id };
                if !self.states.committed(slot, epoch, version, learned) {
                    self.reload(slot).await?;
                }
                return Ok(());
            }
        }
    }
}
