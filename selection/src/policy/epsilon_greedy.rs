//! The arm with the best mean reward, and now and then any.

use std::sync::Arc;

use rand::Rng;

use super::{
    ArmSet, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{greedy, live, nobody, single},
    linear::DISCOUNT,
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
    value::{Evidence, evidence, learn, prior},
};
use crate::DecisionRecord;

/// `epsilon_greedy`: asks the arm with the best mean reward with probability 1 − ε, and with
/// probability ε any, all alike. ε may fall with the rows n from which was learned:
///
/// `ε = min(1, epsilon · (n + 1) ^ −epsilon_decay)`
///
/// With a decay of 1 and `epsilon = c · K / d²`, d being the smallest gap between the best arm
/// and another, this is εₙ-greedy of Auer, Cesa-Bianchi and Fischer ("Finite-time analysis of the
/// multiarmed bandit problem", Machine Learning 47, 2002, figure 3), whose regret grows with the
/// logarithm of n; with a decay of 1/3 it is Vowpal Wabbit's.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `epsilon` | [0, 1e6] | 0.1 | asks weak arms more |
/// | `epsilon_decay` | [0, 1] | 0 | explores less as more is known |
/// | `discount` | (0, 1] | 1 | forgets more slowly; at 1 nothing is forgotten |
/// | `floor` | [0, 1] | 0.01 | asks weak arms more: each live one of K at least `floor` / K of the time |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// An arm of which no row is known counts as if it had never lost, so that it is tried. Arms are
/// compared by mean reward times availability, which is what asking them is worth; ties share.
/// Updates commute unless there is a `discount`, and then the state is that of the commit order.
#[derive(Clone, Debug, PartialEq)]
pub struct EpsilonGreedy {
    arms: Vec<Arc<str>>,
    epsilon: f64,
    epsilon_decay: f64,
    discount: f64,
    floor: f64,
    prior_strength: f64,
}

impl EpsilonGreedy {
    pub(super) const NAME: &str = "epsilon_greedy";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let epsilon = Parameter {
            name: "epsilon",
            default: 0.1,
            range: "[0, 1e6]",
            fits: |value| (0.0..=1e6).contains(&value),
        };
        let epsilon_decay = Parameter {
            name: "epsilon_decay",
            default: 0.0,
            range: "[0, 1]",
            fits: |value| (0.0..=1.0).contains(&value),
        };
        let [epsilon, epsilon_decay, discount, floor, prior_strength] = read(
            Self::NAME,
            [epsilon, epsilon_decay, DISCOUNT, FLOOR, PRIOR_STRENGTH],
            parameters,
        )?;
        Ok(Self { arms: arms.to_vec(), epsilon, epsilon_decay, discount, floor, prior_strength })
    }

    /// Of the arms at these places; sums to 1.
    fn distribution(&self, state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<f64> {
        let known = evidence(state, arms, places);
        let worth = |(known, place): (&Evidence, &usize)| {
            known.reward().unwrap_or(1.0) * arms[*place].availability
        };
        let worth: Vec<f64> = known.iter().zip(places).map(worth).collect();
        let rows: f64 = known.iter().map(|known| known.rows).sum();
        let epsilon = (self.epsilon * (rows + 1.0).powf(-self.epsilon_decay)).min(1.0);
        let mut weights = greedy(&worth);
        for weight in &mut weights {
            *weight = (1.0 - epsilon) * *weight + epsilon / places.len() as f64;
        }
        weights
    }
}

impl SelectionPolicy for EpsilonGreedy {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn takes_rewards(&self) -> bool {
        true
    }

    fn init(&self) -> State {
        State::new(&self.arms)
    }

    fn prior(&self, application: &State) -> State {
        prior(application, &self.arms, self.prior_strength)
    }

    fn select(
        &self,
        state: &State,
        _prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection {
        let arms = situation.arms;
        let live: Vec<usize> = live(arms).collect();
        if live.is_empty() {
            return nobody(arms.len());
        }
        single(arms, &live, &self.distribution(state, arms, &live), self.floor, rng)
    }

    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        let all: Vec<usize> = (0..arms.len()).collect();
        self.distribution(state, arms, &all)
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        learn(state, &self.arms, self.discount, record, row, observation)
    }
}
