//! Fixed weights: an A/B split.

use std::sync::Arc;

use rand::Rng;

use super::{
    ArmSet, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{live, nobody, normalise, one, spread},
    parameters::read_weights,
    state::{count, scored},
};
use crate::DecisionRecord;

/// `static`: asks one arm per query, drawn with fixed weights. It learns nothing, but counts
/// what it is told, so that the arms can be compared.
///
/// Parameters are weights keyed by the arm's string, each in [0, 1e9], default 1: shares of the
/// traffic, normalised over the live arms. There is no floor and availability changes nothing,
/// since a split of 70 to 30 that is recorded as anything else is no experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct Static {
    arms: Vec<Arc<str>>,
    weights: Vec<f64>,
}

impl Static {
    pub(super) const NAME: &str = "static";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let weights = read_weights(Self::NAME, arms, parameters)?;
        Ok(Self { arms: arms.to_vec(), weights })
    }

    fn weight(&self, arm: &str) -> f64 {
        self.arms.iter().position(|known| **known == *arm).map_or(0.0, |at| self.weights[at])
    }
}

impl SelectionPolicy for Static {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn takes_rewards(&self) -> bool {
        true
    }

    fn init(&self) -> State {
        State::new(&self.arms)
    }

    fn prior(&self, _application: &State) -> State {
        self.init()
    }

    fn select(
        &self,
        _state: &State,
        _prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection {
        let arms = situation.arms;
        let live: Vec<usize> = live(arms).collect();
        let mut weights: Vec<f64> =
            live.iter().map(|place| self.weight(arms[*place].arm)).collect();
        if !normalise(&mut weights) {
            return nobody(arms.len());
        }
        let q = spread(&live, &weights, arms.len());
        Selection { chosen: one(&q, rng).into_iter().collect(), weights: q.clone(), q }
    }

    fn weights(&self, _state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        let mut weights: Vec<f64> = arms.iter().map(|arm| self.weight(arm.arm)).collect();
        normalise(&mut weights);
        weights
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        let mut moved = false;
        for (arm, loss, _) in scored(record, &self.arms, row, observation) {
            count(state.arm_mut(arm), loss);
            moved = true;
        }
        moved
    }
}
