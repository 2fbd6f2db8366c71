//! Each arm with the probability that it is the best.

mod best;

use std::sync::Arc;

use rand::Rng;

use self::best::{Belief, largest};
use super::{
    ArmSet, Made, Observation, PolicyError, Prepared, Selection, SelectionPolicy, Situation, State,
    draw::{live, nobody, single, spread},
    linear::DISCOUNT,
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
    value::{Evidence, evidence, learn, prior},
};
use crate::DecisionRecord;

/// `thompson`: asks each arm with the probability that it is the best, by what is believed of its
/// mean reward (Thompson, "On the likelihood that one unknown probability exceeds another in view
/// of the evidence of two samples", Biometrika 25, 1933; Agrawal and Goyal, "Further optimal
/// regret bounds for Thompson sampling", AISTATS 2013, algorithms 1 and 2). With S the sum of the
/// n rewards of an arm,
///
/// `Beta(1 + S, 1 + n − S)`, or, where `gaussian` is 1,
/// `N((m₀/t² + S/s²) / (1/t² + n/s²), 1 / (1/t² + n/s²))`
///
/// is believed, with s² = `variance`, t² = `prior_variance` and m₀ = `prior_mean`. Rewards between
/// 0 and 1 count as a part of a success. The probabilities have no closed form. They are
/// integrated, with an error below .002, when the state or the live arms change, and it is these
/// numbers that are drawn from and recorded.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `gaussian` | 0 or 1 | 0 | rewards that are far from 0 and 1, with little noise: give `variance` |
/// | `variance` | (0, 10] | 0.25 | believes each row less; only where `gaussian` is 1, as the next two |
/// | `prior_mean` | [0, 1] | 0.5 | tries arms of which little is known more |
/// | `prior_variance` | (0, 1e6] | 1 | holds arms near `prior_mean` for less long |
/// | `discount` | (0, 1] | 1 | forgets more slowly; at 1 nothing is forgotten |
/// | `floor` | [0, 1] | 0.01 | asks weak arms more: each live one of K at least `floor` / K of the time |
/// | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
///
/// An arm of which no row is known has the prior, so it is tried soon, but not first. Queries
/// whose feedback is under way spread by themselves. With a `discount` old evidence fades (Raj and
/// Kalyani, "Taming non-stationary bandits: a Bayesian approach", 2017), and the state is that of
/// the commit order; without one, updates commute.
#[derive(Clone, Debug, PartialEq)]
pub struct Thompson {
    arms: Vec<Arc<str>>,
    gaussian: bool,
    variance: f64,
    prior_mean: f64,
    prior_variance: f64,
    discount: f64,
    floor: f64,
    prior_strength: f64,
}

impl Thompson {
    pub(super) const NAME: &str = "thompson";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
    ) -> Result<Self, PolicyError> {
        let gaussian = Parameter {
            name: "gaussian",
            default: 0.0,
            range: "{0, 1}",
            fits: |value| value == 0.0 || value == 1.0,
        };
        let variance = Parameter {
            name: "variance",
            default: 0.25,
            range: "(0, 10]",
            fits: |value| value > 0.0 && value <= 10.0,
        };
        let prior_mean = Parameter {
            name: "prior_mean",
            default: 0.5,
            range: "[0, 1]",
            fits: |value| (0.0..=1.0).contains(&value),
        };
        let prior_variance = Parameter {
            name: "prior_variance",
            default: 1.0,
            range: "(0, 1e6]",
            fits: |value| value > 0.0 && value <= 1e6,
        };
        let known =
            [gaussian, variance, prior_mean, prior_variance, DISCOUNT, FLOOR, PRIOR_STRENGTH];
        let [gaussian, variance, prior_mean, prior_variance, discount, floor, prior_strength] =
            read(Self::NAME, known, parameters)?;
        Ok(Self {
            arms: arms.to_vec(),
            gaussian: gaussian == 1.0,
            variance,
            prior_mean,
            prior_variance,
            discount,
            floor,
            prior_strength,
        })
    }

    /// Of the arms at these places; sums to 1.
    fn distribution(&self, state: &State, arms: &ArmSet<'_>, places: &[usize]) -> Vec<f64> {
        let known = evidence(state, arms, places);
        // A discount may leave a sum of losses a little above that of rows.
        let won = |known: &Evidence| (known.rows - known.loss).max(0.0);
        if self.gaussian {
            let score = |known: &Evidence| {
                let precision = 1.0 / self.prior_variance + known.rows / self.variance;
                let sum = self.prior_mean / self.prior_variance + won(known) / self.variance;
                Belief::normal(sum / precision, (1.0 / precision).sqrt())
            };
            return largest(&known.iter().map(score).collect::<Vec<_>>());
        }
        let beta = |known: &Evidence| Belief::beta(1.0 + won(known), 1.0 + known.loss.max(0.0));
        largest(&known.iter().map(beta).collect::<Vec<_>>())
    }
}

impl SelectionPolicy for Thompson {
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

    fn prepare(&self, state: &State, arms: &ArmSet<'_>) -> Prepared {
        let live: Vec<usize> = live(arms).collect();
        let distribution = self.distribution(state, arms, &live);
        Prepared(Made::Distribution(spread(&live, &distribution, arms.len()).into()))
    }

    fn select(
        &self,
        state: &State,
        prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection {
        let arms = situation.arms;
        let live: Vec<usize> = live(arms).collect();
        if live.is_empty() {
            return nobody(arms.len());
        }
        let weights = match &prepared.0 {
            Made::Distribution(all) if all.len() == arms.len() => {
                live.iter().map(|place| all[*place]).collect()
            }
            _ => self.distribution(state, arms, &live),
        };
        single(arms, &live, &weights, self.floor, rng)
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
