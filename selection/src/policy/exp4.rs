//! All arms, an answer drawn from their vote, learned from what that answer lost.

use std::sync::Arc;

use rand::Rng;

use super::{
    ArmSet, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{live, nobody, softmax, spread},
    floor,
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
    state::{count, scored},
};
use crate::{DecisionRecord, Outcome};

/// `exp4`: asks every live arm, draws the answer from their weighted vote, and learns from what
/// that one answer lost (Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed
/// bandit problem", SIAM J. Comput. 32, 2002, section 7: the arms are the experts, the answers
/// the actions; in the loss form that Clipper used for its failure experiment, NSDI 2017,
/// figure 8). An arm that agrees with the answer loses
///
/// `w ← w · exp(−η · l / P(answer))`
///
/// where P is the weight that agrees over the weight of all that answered, and one that answered
/// otherwise loses nothing: over the draws that is each arm's own loss. An arm without an answer
/// loses l, the mean of the others' estimates: with nothing to lose, being late would be the way
/// to the top.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `eta` | (0, 10] | 0.2 | reacts faster, and is misled by luck more often |
/// | `floor` | [0, 1] | 0.0001 | hears weak arms more: the vote of each of K live ones weighs at least `floor` / K |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// The floor bounds 1 / P. It is small, since an arm that fails keeps falling for as long as it is
/// heard, and has to climb as far when it is well again: with .01 the failure test of this module
/// ends with an error of .19, with .0001 with .16.
///
/// It is the ensemble that can learn from a bare reward. Where labels come, `hedge` learns from
/// every arm's loss and is right sooner. A label is taken as the loss of the answer that was
/// given, unless another policy gave it (`exp4` is the shadow): nothing was drawn then, and every
/// arm that answered loses its own loss over q. A row that got the default teaches nothing.
/// Updates commute: losses and probabilities are those of the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Exp4 {
    arms: Vec<Arc<str>>,
    eta: f64,
    floor: f64,
    prior_strength: f64,
}

impl Exp4 {
    pub(super) const NAME: &str = "exp4";

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
        let floor = Parameter { default: 1e-4, ..FLOOR };
        let [eta, floor, prior_strength] =
            read(Self::NAME, [eta, floor, PRIOR_STRENGTH], parameters)?;
        Ok(Self { arms: arms.to_vec(), eta, floor, prior_strength })
    }

    fn vote(&self, state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<f64> {
        let mut weights: Vec<f64> =
            places.iter().map(|place| state.arm(arms[*place].arm).log_weight).collect();
        softmax(&mut weights);
        floor::apply(&mut weights, self.floor);
        weights
    }

    /// Estimates of what each linked arm lost, and the loss behind them; empty: nothing is known.
    fn estimates<'a>(
        &'a self,
        record: &'a DecisionRecord,
        row: usize,
        observation: Observation<'a>,
    ) -> Vec<(&'a Arc<str>, Option<f64>, f64)> {
        let Some(answer) = record.answer.get(row).filter(|answer| !answer.default) else {
            return Vec::new();
        };
        let own = *record.policy == *Self::NAME;
        let told = |linked: &Arc<str>| {
            let place = record.arms.iter().position(|arm| arm.arm == *linked)?;
            let arm = &record.arms[place];
            let answered = arm.outcome == Outcome::Used
                && (answer.label.is_none() || arm.labels.get(row).is_some_and(Option::is_some));
            answered.then(|| {
                let label = arm.labels.get(row).and_then(Option::as_ref);
                answer.arm.map_or(label == answer.label.as_ref(), |drawn| drawn == place)
            })
        };
        let mut seen: Vec<_> = scored(record, &self.arms, row, observation).collect();
        if own && matches!(observation, Observation::Losses(_)) {
            seen.retain(|(arm, ..)| told(arm) == Some(true));
            for (_, _, probability) in &mut seen {
                *probability *= answer.p;
            }
        }
        let (sum, count) = seen.iter().fold((0.0, 0.0), |(s, n), (_, loss, _)| (s + loss, n + 1.0));
        if count == 0.0 {
            return Vec::new();
        }
        let mean = sum / count;
        let estimate = |arm| {
            let found = seen.iter().find(|(seen, ..)| *seen == arm);
            let loss = found.map(|(_, loss, _)| *loss);
            let estimate = match found {
                Some((_, loss, probability)) => loss / probability,
                None if told(arm).is_some() => 0.0,
                None => mean,
            };
            (arm, loss, estimate)
        };
        self.arms.iter().map(estimate).collect()
    }
}

impl SelectionPolicy for Exp4 {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn takes_rewards(&self) -> bool {
        true
    }

    fn draws_answer(&self) -> bool {
        true
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
        Selection {
            q: arms.iter().map(|arm| if arm.live { 1.0 } else { 0.0 }).collect(),
            weights: spread(&chosen, &self.vote(state, arms, &chosen), arms.len()),
            chosen,
        }
    }

    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        let all: Vec<usize> = (0..arms.len()).collect();
        self.vote(state, arms, &all)
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        let estimates = self.estimates(record, row, observation);
        for (arm, loss, estimate) in &estimates {
            let arm = state.arm_mut(arm);
            arm.log_weight -= self.eta * estimate;
            if let Some(loss) = loss {
                count(arm, *loss);
            }
        }
        if !estimates.is_empty() {
            state.rebase(&self.arms);
        }
        !estimates.is_empty()
    }
}

#[cfg(test)]
mod tests;
