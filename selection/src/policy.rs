//! The policies: which arms to ask, how much to trust them, and what feedback teaches.
//!
//! Everything here is pure: a policy is a set of parameters, its [`State`] is a value that is
//! passed in, and the generator comes with the call (docs/adr/0004-policy-trait.md).
//!
//! Two probabilities are kept apart. `q` is the probability of an arm being *asked*; the answer
//! has its own, given who was asked, and that is `p` of a [`RowRecord`](crate::RowRecord). Both
//! are recorded as they were drawn, and updates use the record's, never fresh ones: recomputing a
//! propensity when feedback arrives biases the estimate.

mod draw;
mod epsilon_greedy;
mod exp3;
mod exp4;
mod floor;
mod hedge;
mod lin_thompson;
mod lin_ucb;
mod linear;
mod parameters;
mod split;
mod square_cb;
mod state;
mod thompson;
mod ucb1;
mod value;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use rand::Rng;

pub use self::{
    epsilon_greedy::EpsilonGreedy,
    exp3::Exp3,
    exp4::Exp4,
    hedge::Hedge,
    lin_thompson::LinThompson,
    lin_ucb::LinUcb,
    parameters::PolicyError,
    split::Static,
    square_cb::SquareCb,
    state::{ArmState, State, StateError},
    thompson::Thompson,
    ucb1::Ucb1,
};
use crate::DecisionRecord;

/// One arm as a policy sees it when it selects.
#[derive(Clone, Copy, Debug)]
pub struct LiveArm<'a> {
    /// The arm's string.
    pub arm: &'a str,
    /// It may be asked; false: it is masked.
    pub live: bool,
    /// Share of the recent times it was asked in which it answered in time, in (0, 1].
    pub availability: f64,
    /// Queries that chose it and have no feedback yet; 0 unless the policy
    /// [counts them](SelectionPolicy::counts_pending).
    pub pending: u64,
}

/// All arms of the application, in its order, the masked ones too.
pub type ArmSet<'a> = [LiveArm<'a>];

/// What a policy selects for.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Every arm.
    pub arms: &'a ArmSet<'a>,
    /// The query's context features: as many as the application declares, or none.
    pub features: &'a [f32],
}

/// What selecting needs of a state and is dear to compute: made once per state and set of live
/// arms, off the path of a query. Only the policy that made it reads it.
#[derive(Clone, Debug, Default)]
pub struct Prepared(Made);

#[derive(Clone, Debug, Default)]
enum Made {
    #[default]
    Nothing,
    /// The probability of each arm, by place.
    Distribution(Arc<[f64]>),
    /// A linear policy's regressions.
    Linear(Arc<linear::Fitted>),
}

/// What a policy chose. Vectors are by the place in the [`ArmSet`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The arms to ask. Empty where no arm may be: every one is masked, or the live ones have
    /// weight 0 (`static`).
    pub chosen: Vec<usize>,
    /// The probability of each arm being asked: exactly what was drawn from; 0 if masked.
    pub q: Vec<f64>,
    /// How much each arm counts in the combination; sums to 1 over the live arms, 0 if masked.
    pub weights: Vec<f64>,
}

/// What is known now of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation<'a> {
    /// By the place in the record's arms: the loss in [0, 1]; `None`: it did not answer the row.
    /// [`Combiner::losses`](crate::combine::Combiner::losses) makes it out of a truth label.
    Losses(&'a [Option<f64>]),
    /// Of the answer that was given, in [0, 1].
    Reward(f64),
}

/// An arm without sums and its name.
const ARM_BYTES: usize = size_of::<ArmState>() + 64;

/// What every policy does. Plain and synchronous; it has no clock, no I/O and no generator.
pub trait SelectionPolicy {
    /// As applications name it.
    fn name(&self) -> &'static str;

    /// Whether it can learn from a bare reward.
    fn takes_rewards(&self) -> bool;

    /// Whether the answer to a row is that of one arm, drawn by weight among those that answered,
    /// and not their vote or mean.
    fn draws_answer(&self) -> bool {
        false
    }

    /// Whether it learns from the context features, so that a decision's must be kept.
    fn uses_features(&self) -> bool {
        false
    }

    /// The state before anything was observed.
    fn init(&self) -> State;

    /// The state in which a context begins: what its application has learned, with the evidence
    /// capped, so that it starts warm and still moves.
    fn prior(&self, application: &State) -> State;

    /// Whether it wants to know how many queries of each arm are without feedback. One that is
    /// deterministic does, since it would choose one arm until the first feedback arrives.
    fn counts_pending(&self) -> bool {
        false
    }

    /// What one arm takes in the memory of a state, about, in bytes, all that is prepared with it.
    fn arm_bytes(&self) -> usize {
        ARM_BYTES
    }

    /// What [`select`](Self::select) will need for this state while these arms are live.
    fn prepare(&self, _state: &State, _arms: &ArmSet<'_>) -> Prepared {
        Prepared::default()
    }

    /// Draws. `prepared` is of this state and these live arms,
    /// in this order.
    fn select(
        &self,
        state: &State,
        prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection;

    /// Weights by place, normalised over all of `arms`, masked or not.
    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64>;

    /// Learns from one row of a decision. Says whether an arm's state moved: it does not for a
    /// default, for arms since unlinked, or where no arm answered.
    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool;
}

/// Any policy. Nobody recompiles to change it: an application names it with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// Fixed weights, an A/B split.
    Static(Static),
    /// The arm with the best mean reward, and now and then any.
    EpsilonGreedy(EpsilonGreedy),
    /// The arm whose reward could be the best.
    Ucb1(Ucb1),
    /// Each arm with the probability that it is the best.
    Thompson(Thompson),
    /// One arm, learned from its own losses alone.
    Exp3(Exp3),
    /// All arms, an answer drawn from their vote, learned from what it lost.
    Exp4(Exp4),
    /// All arms, learned from every loss, with fixed share.
    Hedge(Hedge),
    /// The arm that could be the best, by features.
    LinUcb(LinUcb),
    /// Each arm with the probability that it is the best, by features.
    LinThompson(LinThompson),
    /// Arms by the inverse of how far they are behind, by features or without.
    SquareCb(SquareCb),
}

/// Every policy there is, by name.
pub const KNOWN_POLICIES: [&str; 10] = [
    Static::NAME,
    EpsilonGreedy::NAME,
    Ucb1::NAME,
    Thompson::NAME,
    Exp3::NAME,
    Exp4::NAME,
    Hedge::NAME,
    LinUcb::NAME,
    LinThompson::NAME,
    SquareCb::NAME,
];

impl Policy {
    /// The policy `name` over `arms`, with `parameters` in place of its defaults, for contexts of
    /// so many features (0: none).
    ///
    /// # Errors
    ///
    /// No policy has that name, it has no such parameter, a value is out of its range, or it
    /// cannot work with so many features. Each says what was expected.
    pub fn new(
        name: &str,
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
        features: usize,
    ) -> Result<Self, PolicyError> {
        match name {
            Static::NAME => Static::new(parameters, arms).map(Self::Static),
            EpsilonGreedy::NAME => EpsilonGreedy::new(parameters, arms).map(Self::EpsilonGreedy),
            Thompson::NAME => Thompson::new(parameters, arms).map(Self::Thompson),
            Ucb1::NAME => Ucb1::new(parameters, arms).map(Self::Ucb1),
            Exp4::NAME => Exp4::new(parameters, arms).map(Self::Exp4),
            Exp3::NAME => Exp3::new(parameters, arms).map(Self::Exp3),
            Hedge::NAME => Hedge::new(parameters, arms).map(Self::Hedge),
            LinUcb::NAME => LinUcb::new(parameters, arms, features).map(Self::LinUcb),
            LinThompson::NAME => {
                LinThompson::new(parameters, arms, features).map(Self::LinThompson)
            }
            SquareCb::NAME => SquareCb::new(parameters, arms, features).map(Self::SquareCb),
            _ => Err(PolicyError::UnknownPolicy { name: name.into() }),
        }
    }

    /// The names of those that can learn from a bare reward.
    pub fn that_take_rewards() -> Vec<&'static str> {
        let takes = |name: &&str| Self::new(name, &[], &[], 1).is_ok_and(|p| p.takes_rewards());
        KNOWN_POLICIES.into_iter().filter(takes).collect()
    }

    /// Prepares and draws in one: for replays and simulations.
    pub fn draw(&self, state: &State, situation: &Situation<'_>, rng: &mut dyn Rng) -> Selection {
        self.select(state, &self.prepare(state, situation.arms), situation, rng)
    }

    fn inner(&self) -> &dyn SelectionPolicy {
        match self {
            Self::Static(policy) => policy,
            Self::EpsilonGreedy(policy) => policy,
            Self::Ucb1(policy) => policy,
            Self::Thompson(policy) => policy,
            Self::Exp3(policy) => policy,
            Self::Exp4(policy) => policy,
            Self::Hedge(policy) => policy,
            Self::LinUcb(policy) => policy,
            Self::LinThompson(policy) => policy,
            Self::SquareCb(policy) => policy,
        }
    }

    /// The state as bytes, with this policy's name and the format's version.
    pub fn encode(&self, state: &State) -> Bytes {
        state.encode(self.name())
    }

    /// Reads what [`encode`](Self::encode) gave. `None`: another policy wrote it, so this one
    /// starts anew.
    ///
    /// # Errors
    ///
    /// The bytes are cut off, or of a format that this build does not know.
    pub fn decode(&self, bytes: &[u8]) -> Result<Option<State>, StateError> {
        let (policy, state) = State::decode(bytes)?;
        Ok((policy == self.name()).then_some(state))
    }
}

impl SelectionPolicy for Policy {
    fn name(&self) -> &'static str {
        self.inner().name()
    }

    fn takes_rewards(&self) -> bool {
        self.inner().takes_rewards()
    }

    fn draws_answer(&self) -> bool {
        self.inner().draws_answer()
    }

    fn uses_features(&self) -> bool {
        self.inner().uses_features()
    }

    fn init(&self) -> State {
        self.inner().init()
    }

    fn prior(&self, application: &State) -> State {
        self.inner().prior(application)
    }

    fn counts_pending(&self) -> bool {
        self.inner().counts_pending()
    }

    fn arm_bytes(&self) -> usize {
        self.inner().arm_bytes()
    }

    fn prepare(&self, state: &State, arms: &ArmSet<'_>) -> Prepared {
        self.inner().prepare(state, arms)
    }

    fn select(
        &self,
        state: &State,
        prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection {
        self.inner().select(state, prepared, situation, rng)
    }

    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        self.inner().weights(state, arms)
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        self.inner().observe(state, record, row, observation)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place, drawn by weight, and the weights scaled to a sum of 1. `None`: none is above 0.
pub(crate) fn draw_by_weight(weights: &mut [f64], rng: &mut dyn Rng) -> Option<usize> {
    draw::normalise(weights).then(|| draw::one(weights, rng)).flatten()
}

#[cfg(test)]
mod tests;
