//! All arms, learned from every loss, with fixed share.

use std::sync::Arc;

use rand::Rng;

use super::{
    ArmSet, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{live, nobody, softmax, spread},
    parameters::{PRIOR_STRENGTH, Parameter, SHARE, read},
    state::{count, scored},
};
use crate::DecisionRecord;

/// `hedge`: asks every live arm, combines by weight, and learns from the loss of each (Freund and
/// Schapire, "A decision-theoretic generalization of on-line learning", JCSS 55, 1997, figure 1).
/// After each update the arms share a little of their weight, so that one that fell behind can
/// come back (Herbster and Warmuth, "Tracking the best expert", Machine Learning 32, 1998, the
/// fixed-share update):
///
/// `w ← w · exp(−η · l)`, then `w ← (1 − α) · w + α · W / K`
///
/// An arm that was late, failed or was not asked has no loss to learn from. It gets the mean m
/// of those that answered, weighted; one that did answer gets m + (l − m) / q. A loss of zero
/// instead would make the arm that is always late the best one.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `eta` | (0, 10] | 0.2 | reacts faster, and is misled by luck more often |
/// | `share` | [0, 1) | 0.01 | recovers sooner from a change, and keeps more weight on weak arms |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// The defaults are those of the repeated failure experiment of Clipper (NSDI 2017, figure 8).
/// Updates with a share do not commute; the state is that of the commit order.
///
/// A bare reward says nothing of the arms that the vote overruled, and crediting those that
/// agreed makes a random arm win; it is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    arms: Vec<Arc<str>>,
    eta: f64,
    share: f64,
    prior_strength: f64,
}

impl Hedge {
    pub(super) const NAME: &str = "hedge";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let eta = Parameter {
            name: "eta",
            default: 0.2,
            range: "(0, 10]",
            fits: |value| value > 0.0 && value <= 10.0,
        };
        let [eta, share, prior_strength] =
            read(Self::NAME, [eta, SHARE, PRIOR_STRENGTH], parameters)?;
        Ok(Self { arms: arms.to_vec(), eta, share, prior_strength })
    }

    /// Losses by linked arm, out of those that were seen.
    fn estimates(&self, state: &State, seen: &[(&Arc<str>, f64, f64)]) -> Vec<f64> {
        let mut weights: Vec<f64> =
            seen.iter().map(|(arm, ..)| state.arm(arm).log_weight).collect();
        softmax(&mut weights);
        let mean: f64 = weights.iter().zip(seen).map(|(weight, (_, loss, _))| weight * loss).sum();
        let estimate = |arm: &Arc<str>| {
            let seen = seen.iter().find(|(seen, ..)| *seen == arm);
            seen.map_or(mean, |(_, loss, q)| mean + (loss - mean) / q)
        };
        self.arms.iter().map(estimate).collect()
    }
}

impl SelectionPolicy for Hedge {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn takes_rewards(&self) -> bool {
        false
    }

    fn init(&self) -> State {
        State::new(&self.arms)
    }

    fn prior(&self, application: &State) -> State {
        application.prior(&self.arms, self.eta, self.prior_strength)
    }

    fn select(
        &self,
        state: &State,
        _prepared: &Prepared,
        situation: &Situation<'_>,
        _rng: &mut dyn Rng,
    ) -> Selection {
        let arms = situation.arms;
        let chosen: Vec<usize> = live(arms).collect();
        if chosen.is_empty() {
            return nobody(arms.len());
        }
        let mut weights: Vec<f64> =
            chosen.iter().map(|place| state.arm(arms[*place].arm).log_weight).collect();
        softmax(&mut weights);
        Selection {
            q: arms.iter().map(|arm| if arm.live { 1.0 } else { 0.0 }).collect(),
            weights: spread(&chosen, &weights, arms.len()),
            chosen,
        }
    }

    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        let mut weights: Vec<f64> = arms.iter().map(|arm| state.arm(arm.arm).log_weight).collect();
        softmax(&mut weights);
        weights
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        if matches!(observation, Observation::Reward(_)) {
            return false;
        }
        let seen: Vec<_> = scored(record, &self.arms, row, observation).collect();
        if seen.is_empty() {
            return false;
        }
        for (arm, loss) in self.arms.iter().zip(self.estimates(state, &seen)) {
            state.arm_mut(arm).log_weight -= self.eta * loss;
        }
        for (arm, loss, _) in seen {
            count(state.arm_mut(arm), loss);
        }
        state.rebase(&self.arms);
        state.share(&self.arms, self.share);
        true
    }
}
