//! What is learned, for those who look at it, and how it is forgotten.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Shared, Slot, now_ms};
use crate::{
    policy::SelectionPolicy,
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
        let state = snapshot.state.clone();
        let weights = self.policy.weights(drawn_from.known(), &self.arm_set(|_| true, &[]));
        let arms = self.application.arms.iter().enumerate().zip(weights);
        let arms = arms.map(|((place, arm), weight)| {
            let learned = state.as_ref().map(|state| state.arm(&arm.name).clone());
            let learned = learned.unwrap_or_default();
            ArmView {
                arm: Arc::clone(&arm.name),
                weight,
                mean_loss: learned.mean_loss(),
                observations: learned.observations,
                availability: self.availability.of(place),
            }
        });
        Ok(SelectionView {
            policy: Arc::clone(&self.application.policy_name),
            state_version: snapshot.version,
            arms: arms.collect(),
        })
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
            let (Some(state), 1..) = (&snapshot.state, snapshot.version) else { return Ok(()) };
            let mut state = state.as_ref().clone();
            state.forget(arm);
            let commit = Commit {
                key: self.states.key(slot),
                expected: snapshot.version,
                state: self.policy.encode(&state),
                marks: Vec::new(),
                commit_id: rand::random(),
                time_ms: now_ms(),
            };
            if let CommitOutcome::Committed(version) = self.store.commit(commit).await? {
                if !self.states.committed(slot, epoch, version, state) {
                    self.reload(slot).await?;
                }
                return Ok(());
            }
        }
    }
}
