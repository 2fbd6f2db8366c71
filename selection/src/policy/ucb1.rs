//! The arm whose reward could be the best.

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

/// Discounted rows below this count as this many: what is known of an arm may fade, but its
/// index must not outgrow that of an arm that was never asked.
const LEAST_ROWS: f64 = 0.5;

/// `ucb1`: asks the arm with the highest upper confidence bound of its mean reward (Auer,
/// Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", Machine
/// Learning 47, 2002, figure 1):
///
/// `mean + √(c · ln t / n)`
///
/// n is the rows of the arm, those whose feedback is still to come with them, so that not every
/// query goes to one arm while its feedback is under way; t is the sum of n over the arms. With a
/// `discount` below 1 older rows count for less (Garivier and Moulines, "On upper-confidence
/// bound policies for switching bandit problems", ALT 2011, section 2: D-UCB; their bonus
/// 2B·√(ξ ln t / n) is `c` = 4B²ξ).
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `c` | [0, 100] | 0.5 | asks uncertain arms more; 2 is the paper's, and loose for rewards in [0, 1] |
/// | `discount` | (0, 1] | 1 | forgets more slowly; at 1 nothing is forgotten |
/// | `floor` | [0, 1] | 0.01 | asks weak arms more: each live one of K at least `floor` / K of the time |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// An arm that was never asked goes before all others; one that waits for its first feedback
/// counts with the mean of the others. Arms are compared by index times availability: one that is
/// never in time must not be asked for ever because nothing is known of it. Ties share. The
/// policy is deterministic, but for the floor and ties; the recorded q is what remains of it.
/// Updates commute unless there is a `discount`, and then the state is that of the commit order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ucb1 {
    arms: Vec<Arc<str>>,
    c: f64,
    discount: f64,
    floor: f64,
    prior_strength: f64,
}

impl Ucb1 {
    pub(super) const NAME: &str = "ucb1";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let c = Parameter {
            name: "c",
            default: 0.5,
            range: "[0, 100]",
            fits: |value| (0.0..=100.0).contains(&value),
        };
        let [c, discount, floor, prior_strength] =
            read(Self::NAME, [c, DISCOUNT, FLOOR, PRIOR_STRENGTH], parameters)?;
        Ok(Self { arms: arms.to_vec(), c, discount, floor, prior_strength })
    }

    /// Of the arms at these places.
    pub(super) fn indices(&self, state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<f64> {
        let known = evidence(state, arms, places);
        let pending = |place: usize| arms[place].pending as f64;
        let asked: f64 = places.iter().map(|place| pending(*place)).sum();
        let rows: f64 = known.iter().map(|known| known.rows).sum();
        let losses: f64 = known.iter().map(|known| known.loss).sum();
        let pooled = Evidence { rows, loss: losses }.reward().unwrap_or(0.5);
        let bonus = |n: f64| (self.c * (rows + asked).max(1.0).ln() / n.max(LEAST_ROWS)).sqrt();
        let index = |(known, place): (&Evidence, &usize)| {
            let n = known.rows + pending(*place);
            if n > 0.0 { known.reward().unwrap_or(pooled) + bonus(n) } else { 2.0 + bonus(0.0) }
        };
        known.iter().zip(places).map(index).collect()
    }

    fn distribution(&self, state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<f64> {
        let mut worth = self.indices(state, arms, places);
        for (worth, place) in worth.iter_mut().zip(places) {
            *worth *= arms[*place].availability;
        }
        greedy(&worth)
    }
}

impl SelectionPolicy for Ucb1 {
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

    fn counts_pending(&self) -> bool {
        true
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
