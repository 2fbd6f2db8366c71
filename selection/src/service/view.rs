//! What is learned, for those who look at it, and how it is forgotten.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Learned, Shared, Slot, Snapshot, now_ms};
use crate::{
    policy::{Policy, SelectionPolicy, State},
    store::{Commit, CommitOutcome, StoreError},
};

/// Commits of one [`Shared::forget_arm`] under way at once, so that a store that groups commits
/// has something to group.
const COMMITS: usize = 64;

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
        let drawn_from = self.states.current(&slot);
        let known = drawn_from.known();
        let own =
            self.arms(&self.learner.policy, &known.own, |learned| Some(&learned.own), &snapshot);
        let shadow = self.learner.shadow.as_ref().map(|policy| {
            let nothing = State::default();
            let drawn_from = known.shadow.as_ref().unwrap_or(&nothing);
            ShadowView {
                policy: policy.name().into(),
                arms: self.arms(policy, drawn_from, |learned| learned.shadow.as_ref(), &snapshot),
            }
        });
        Ok(SelectionView {
            policy: Arc::clone(&self.application.policy_name),
            state_version: snapshot.version,
            arms: own,
            shadow,
        })
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

    pub(super) async fn refresh(&self, context: &str) -> Result<(), StoreError> {
        if let Some(slot) = self.states.known(context) {
            self.reload(&slot).await?;
        }
        Ok(())
    }

    pub(super) async fn reset(&self, context: Option<&str>) -> Result<(), StoreError> {
        let name = Arc::clone(&self.application.name);
        self.store.reset(name, context.map(Arc::from)).await?;
        self.states.begin_epoch();
        match context {
            Some(context) => self.refresh(context).await,
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
            let (Some(learned), 1..) = (&snapshot.learned, snapshot.version) else {
                return Ok(());
            };
            let mut learned = learned.as_ref().clone();
            learned.own.forget(arm);
            if let Some(shadow) = &mut learned.shadow {
                shadow.forget(arm);
            }
            let commit = Commit {
                key: self.states.key(slot),
                expected: snapshot.version,
                state: self.learner.encode(&learned),
                marks: Vec::new(),
                commit_id: rand::random(),
                time_ms: now_ms(),
            };
            if let CommitOutcome::Committed(version) = self.store.commit(commit).await? {
                if !self.states.committed(slot, epoch, version, learned) {
                    self.reload(slot).await?;
                }
                return Ok(());
            }
        }
    }
}
