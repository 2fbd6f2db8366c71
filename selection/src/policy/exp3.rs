//! One arm, learned from its own losses alone.

use std::sync::Arc;

use rand::Rng;

use super::{
    ArmSet, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{live, nobody, single, softmax},
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, SHARE, read},
    state::{count, scored},
};
use crate::DecisionRecord;

/// `exp3`: asks one arm per query and learns from what that arm lost (Auer, Cesa-Bianchi, Freund
/// and Schapire, "The nonstochastic multiarmed bandit problem", SIAM J. Comput. 32, 2002; in the
/// loss form of Bubeck and Cesa-Bianchi, 2012, figure 3.1):
///
/// `w ← w · exp(−η · l / q)`
///
/// and arms are drawn with the weights, a floor under each. With `ix` = γ above 0 the loss is
/// divided by q + γ instead (Neu, "Explore no more", NIPS 2015, algorithm 1: Exp3-IX): a little too
/// small an estimate, which in return is never large, so that bad luck is rare and not only the
/// mean is bounded. γ is best at η / 2. With a `share` above 0 the arms share weight after each
/// update, as Exp3.S does (Auer et al., section 8), so that an arm that fell behind can come back.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `eta` | (0, 10] | 0.05 | reacts faster, and is misled by luck more often |
/// | `floor` | [0, 1] | 0.01 | asks weak arms more: each live one of K at least `floor` / K of the time |
/// | `ix` | [0, 1] | 0 | is misled by luck less, and favours arms that were seldom asked |
/// | `share` | [0, 1) | 0 | recovers sooner from a change, and asks weak arms more |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// The rate is constant, so that updates commute and late feedback needs no special case; with a
/// `share` they do not, and the state is that of the commit order. 0.05
/// is the rate of Clipper's failure experiment (NSDI 2017, figure 8), good for some thousand
/// queries; over a known horizon T, √(2 ln K / (T K)) has the bound √(2 T K ln K).
#[derive(Clone, Debug, PartialEq)]
pub struct Exp3 {
    arms: Vec<Arc<str>>,
    eta: f64,
    floor: f64,
    ix: f64,
    share: f64,
    prior_strength: f64,
}

impl Exp3 {
    pub(super) const NAME: &str = "exp3";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let eta = Parameter {
            name: "eta",
            default: 0.05,
            range: "(0, 10]",
            fits: |value| value > 0.0 && value <= 10.0,
        };
        let ix = Parameter {
            name: "ix",
            default: 0.0,
            range: "[0, 1]",
            fits: |value| (0.0..=1.0).contains(&value),
        };
        let share = Parameter { default: 0.0, ..SHARE };
        let [eta, floor, ix, share, prior_strength] =
            read(Self::NAME, [eta, FLOOR, ix, share, PRIOR_STRENGTH], parameters)?;
        Ok(Self { arms: arms.to_vec(), eta, floor, ix, share, prior_strength })
    }
}

impl SelectionPolicy for Exp3 {
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
        application.prior(&self.arms, self.eta, self.prior_strength)
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
        let mut weights: Vec<f64> =
            live.iter().map(|place| state.arm(arms[*place].arm).log_weight).collect();
        softmax(&mut weights);
        single(arms, &live, &weights, self.floor, rng)
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
        let mut moved = false;
        for (arm, loss, probability) in scored(record, &self.arms, row, observation) {
            let arm = state.arm_mut(arm);
            arm.log_weight -= self.eta * loss / (probability + self.ix);
            count(arm, loss);
            moved = true;
        }
        if moved {
            state.rebase(&self.arms);
            state.share(&self.arms, self.share);
        }
        moved
    }
}
